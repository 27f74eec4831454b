"""Managers whose transforms keep a record of every frame that goes in and of what came out."""

from collections.abc import Callable
from typing import Any

from frameseal import E2EEManager

START_CODE = b"\0\0\0\1"

Note = Callable[[bytes, bytes | None], object]


class Noted:
    """A transform that tells of every frame that went in, and of what came out."""

    def __init__(self, transform: Any, note: Note) -> None:
        self._transform, self._note = transform, note

    def encrypt(self, frame: bytes) -> bytes | None:
        sealed = self._transform.encrypt(frame)
        self._note(bytes(frame), sealed)
        return sealed

    def open(self, sealed: bytes, tag: Any = None, **options: Any) -> list[tuple[bytes, Any]]:
        opened = self._transform.open(sealed, tag, **options)
        self._note(bytes(sealed), opened[0][0] if opened else None)
        return opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transform, name)


def noted(e2ee: E2EEManager, sealing: Note, opening: Note) -> E2EEManager:
    """Have the transforms that a manager makes from now on tell of each frame, in the threads that they run in."""
    sender, receiver = e2ee.sender_transform, e2ee.receiver_transform
    e2ee.sender_transform = lambda *args, **kwargs: Noted(sender(*args, **kwargs), sealing)
    e2ee.receiver_transform = lambda *args, **kwargs: Noted(receiver(*args, **kwargs), opening)
    return e2ee


Record = list[tuple[bytes, bytes | None]]


def recorded(e2ee: E2EEManager) -> Record:
    """Have the transforms that a manager makes from now on recorded: each frame, and what it became."""
    record: Record = []
    noted(e2ee, _into(record), _into(record))
    return record


def recorded_apart(e2ee: E2EEManager) -> tuple[Record, Record]:
    """The same for a manager that both sends and receives: a record of each."""
    sent: Record = []
    received: Record = []
    noted(e2ee, _into(sent), _into(received))
    return sent, received


def _into(record: Record) -> Note:
    return lambda frame, became: record.append((frame, became))


def not_opened(sent: list[tuple[bytes, bytes | None]], received: list[tuple[bytes, bytes | None]]) -> list[int]:
    """The lengths of the frames that arrived whole and were not opened to what they had been."""
    frames = {sealed: (frame, without_sei(frame)) for frame, sealed in sent}
    return [len(sealed) for sealed, frame in received if sealed in frames and frame not in frames[sealed]]


def without_sei(frame: bytes) -> bytes:
    """An H.264 access unit as it is sent: without what x264 says of itself in a SEI, type 6."""
    start, *units = frame.split(START_CODE)
    return start + b"".join(START_CODE + unit for unit in units if not unit or unit[0] & 0x1F != 6)
