"""`parse_json`: documents of strangers, however deep, reach no recursion limit."""

import sys

import pytest

from frameseal._json import _STRING, MAX_DEPTH, parse_json
from support.secret_search import MARKER, said_by


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "document", [nested(MAX_DEPTH), '{"a": "[[[[[[[[[[[[[[[[[[[[[[", "b": "\\"{{{{{{{{{{{{{{{{{{"}']
)
def test_what_an_honest_sender_writes_is_read(document):
    assert parse_json(document) == parse_json(document.encode())


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5_000, 100_000])
@pytest.mark.parametrize("closed", [True, False])
def test_a_deep_document_is_refused_without_recursion(monkeypatch, depth, closed):
    deepest = []

    def finalise_here(document):
        deepest.append(document)
        raise RecursionError

    monkeypatch.setattr("frameseal._json.json.loads", finalise_here)
    document = nested(depth) if closed else "[" * depth
    for text in (document, document.encode(), '{"a": ' * depth, f'"\\"{MARKER}", ' + document):
        with pytest.raises(ValueError, match=f"at most {MAX_DEPTH} levels"):
            parse_json(text)
    assert deepest == []


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[",
        b"]",
        MARKER.encode(),
        f'{{"{MARKER}'.encode(),
        MARKER.encode() + b"\xff",
        f'"{MARKER}"'.encode("utf-16"),
    ],
)
def test_an_error_holds_nothing_of_the_document(document):
    with pytest.raises(ValueError) as caught:
        parse_json(document)
    assert not any(MARKER in text for text in said_by(caught.value))
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("tail", ["", "\\", "[" * (MAX_DEPTH + 1)])
def test_a_string_without_end_is_read_once(tail):
    """One match covers the string. A search that restarts at each escaped quote takes seconds for 64 KiB."""
    document = '"' + '\\"' * 100 + tail
    assert len(_STRING.findall(document)) == 1
    with pytest.raises(ValueError, match="document must be one JSON text"):
        parse_json(document)


def test_a_number_without_end_is_a_value_error():
    with pytest.raises(ValueError, match="document must be one JSON text"):
        parse_json("9" * (sys.get_int_max_str_digits() + 1))
