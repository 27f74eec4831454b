"""Records each frame that the transforms of a manager process, and its result."""

from collections.abc import Callable
from typing import Any

from frameseal import E2EEManager
from frameseal._native import SealedPayloads, join_payloads

START_CODE = b"\0\0\0\1"

Note = Callable[[bytes, bytes | None], object]


class Noted:
    """Wraps a transform, and reports each frame and its result."""

    def __init__(self, transform: Any, note: Note) -> None:
        self._transform, self._note = transform, note

    def encrypt(self, frame: bytes) -> bytes | None:
        sealed = self._transform.encrypt(frame)
        self._note(bytes(frame), sealed)
        return sealed

    def encrypt_payloads(self, payloads: list[bytes], sealed: SealedPayloads) -> list[bytes] | None:
        made = self._transform.encrypt_payloads(payloads, sealed)
        codec = self._transform.codec
        became = made if made is None else join_payloads(codec, made) if made else b""
        self._note(join_payloads(codec, payloads), became)
        return made

    def open(self, sealed: bytes, tag: Any = None, **options: Any) -> list[tuple[bytes, Any]]:
        opened = self._transform.open(sealed, tag, **options)
        self._note(bytes(sealed), opened[0][0] if opened else None)
        return opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transform, name)


def noted(e2ee: E2EEManager, sealing: Note, opening: Note) -> E2EEManager:
    """Make the future transforms of a manager report each frame. They report in the threads in which they run."""
    sender, receiver = e2ee.sender_transform, e2ee.receiver_transform
    e2ee.sender_transform = lambda *args, **kwargs: Noted(sender(*args, **kwargs), sealing)
    e2ee.receiver_transform = lambda *args, **kwargs: Noted(receiver(*args, **kwargs), opening)
    return e2ee


Record = list[tuple[bytes, bytes | None]]


def recorded(e2ee: E2EEManager) -> Record:
    """Record each frame of the future transforms of a manager, and its result."""
    record: Record = []
    noted(e2ee, _into(record), _into(record))
    return record


def recorded_apart(e2ee: E2EEManager) -> tuple[Record, Record]:
    """Do the same for a manager that both sends and receives. Return one record for each direction."""
    sent: Record = []
    received: Record = []
    noted(e2ee, _into(sent), _into(received))
    return sent, received


def _into(record: Record) -> Note:
    return lambda frame, became: record.append((frame, became))


def not_opened(sent: list[tuple[bytes, bytes | None]], received: list[tuple[bytes, bytes | None]]) -> list[int]:
    """Return the lengths of the frames that arrived whole but did not open to the sent frame."""
    frames = {sealed: (frame, without_sei(frame)) for frame, sealed in sent}
    return [len(sealed) for sealed, frame in received if sealed in frames and frame not in frames[sealed]]


def without_sei(frame: bytes) -> bytes:
    """Return an H.264 access unit without the SEI (type 6) in which x264 describes itself. It is not sent."""
    start, *units = frame.split(START_CODE)
    return start + b"".join(START_CODE + unit for unit in units if not unit or unit[0] & 0x1F != 6)
