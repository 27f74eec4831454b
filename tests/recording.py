"""Managers whose transforms keep a record of every frame that goes in and of what came out."""

from typing import Any

from frameseal import E2EEManager


class Recorded:
    """A transform, and a record of what went in and out."""

    def __init__(self, transform: Any, record: list[tuple[bytes, bytes | None]]) -> None:
        self._transform, self._record = transform, record

    def encrypt(self, frame: bytes) -> bytes | None:
        sealed = self._transform.encrypt(frame)
        self._record.append((bytes(frame), sealed))
        return sealed

    def open(self, sealed: bytes, tag: Any = None, **options: Any) -> list[tuple[bytes, Any]]:
        opened = self._transform.open(sealed, tag, **options)
        self._record.append((bytes(sealed), opened[0][0] if opened else None))
        return opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transform, name)


def recorded(e2ee: E2EEManager) -> list[tuple[bytes, bytes | None]]:
    """Have the transforms that a manager makes from now on recorded: each frame, and what it became."""
    record: list[tuple[bytes, bytes | None]] = []
    _record_into(e2ee, record, record)
    return record


def recorded_apart(e2ee: E2EEManager) -> tuple[list[tuple[bytes, bytes | None]], list[tuple[bytes, bytes | None]]]:
    """The same for a manager that both sends and receives: a record of each."""
    sent: list[tuple[bytes, bytes | None]] = []
    received: list[tuple[bytes, bytes | None]] = []
    _record_into(e2ee, sent, received)
    return sent, received


def _record_into(e2ee: E2EEManager, sent: list, received: list) -> None:
    sender, receiver = e2ee.sender_transform, e2ee.receiver_transform
    e2ee.sender_transform = lambda *args, **kwargs: Recorded(sender(*args, **kwargs), sent)
    e2ee.receiver_transform = lambda *args, **kwargs: Recorded(receiver(*args, **kwargs), received)


def not_opened(sent: list[tuple[bytes, bytes | None]], received: list[tuple[bytes, bytes | None]]) -> list[int]:
    """The lengths of the frames that arrived whole and were not opened to what they had been."""
    frames = {sealed: frame for frame, sealed in sent}
    return [len(sealed) for sealed, frame in received if sealed in frames and frame != frames[sealed]]
