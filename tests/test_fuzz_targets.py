"""Replays the corpora of the fuzz targets in Python without a fuzzer, as rust/core/tests/corpus.rs does for the core's.

Inputs whose name begins with the verb of their target must get that far, and all others be refused.
"""

import importlib

import pytest

from support.paths import ROOT

FUZZ = ROOT / "rust/fuzz"
VERBS = {"inspection": "reads-", "payloads": "accepts-", "messages": "accepts-", "archive": "reads-"}
INPUTS = [path for target in VERBS for path in sorted((FUZZ / "corpus" / target).iterdir())]


@pytest.fixture
def check(monkeypatch, request):
    monkeypatch.syspath_prepend(FUZZ / "python_targets")
    return importlib.import_module(request.param).check


@pytest.mark.parametrize(
    ("check", "path"),
    [(path.parent.name, path) for path in INPUTS],
    ids=[f"{path.parent.name}/{path.name}" for path in INPUTS],
    indirect=["check"],
)
def test_inputs_of_the_corpus_get_as_far_as_their_names_say(check, path):
    assert check(path.read_bytes()) is path.name.startswith(VERBS[path.parent.name])


@pytest.mark.parametrize("check", VERBS, indirect=True)
def test_an_empty_input_is_refused(check):
    assert check(b"") is False
