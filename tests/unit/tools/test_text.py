"""Names of strangers: what a terminal obeys is replaced, and what is long is cut."""

import pytest

from frameseal.tools.text import MAX_NAME, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice", "alice"),
        ("bob\x1b[2J", "bob\ufffd[2J"),
        ("\u202eecila", "\ufffdecila"),
        ("two\nlines", "two\ufffdlines"),
        ("x" * MAX_NAME, "x" * MAX_NAME),
        ("x" * (MAX_NAME + 1), "x" * (MAX_NAME - 1) + "\u2026"),
    ],
)
def test_a_name_is_shown_without_what_a_terminal_obeys(text, shown):
    assert printable(text) == shown


def test_the_limit_may_be_another():
    assert printable("abcdef", 4) == "abc\u2026"
