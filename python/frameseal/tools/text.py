"""Names and messages of strangers, made fit to be shown."""

from __future__ import annotations

from typing import Final

MAX_NAME: Final = 60  # characters


def printable(text: str, limit: int = MAX_NAME) -> str:
    """Return *text* without what a terminal or a reader might take for something else, and not longer than *limit*.

    Control characters move the cursor, and characters of direction reverse what follows them.
    """
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "\u2026"
