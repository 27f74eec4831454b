"""Sealed frames for archives, and archives on disk, without a call."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import frameseal
from frameseal.archive import ArchiveWriter, Opener, SealedFrame, read, verify

KEY = bytes(range(32))
START = datetime(2026, 5, 4, 9, tzinfo=UTC)
VP8_KEY = bytes.fromhex("100200 9d012a 8002 e001")


def provider(key: Any = KEY, **options: Any) -> frameseal.KeyProvider:
    made = frameseal.KeyProvider(**options)
    made.set_shared_key(key)
    return made


class Sender:
    """Seals the frames of one participant, as a recorder receives them."""

    def __init__(self, keys: frameseal.KeyProvider, participant: str = "alice", profile: str = "livekit") -> None:
        self.participant, self.profile = participant, profile
        self.ring = keys.ring_for(frameseal.Profile(profile), participant)
        self._encryptors: dict[str, frameseal.Encryptor] = {}
        self.sent = 0

    def audio(self, content: bytes = b"", **columns: Any) -> SealedFrame:
        return self._frame("audio", "opus", 48_000, b"\xf8" + (content or b"audio %d" % self.sent), columns)

    def video(self, content: bytes = b"", **columns: Any) -> SealedFrame:
        return self._frame("video", "vp8", 90_000, VP8_KEY + (content or b"video %d" % self.sent), columns)

    def _frame(self, kind: str, codec: str, rate: int, plain: bytes, columns: dict[str, Any]) -> SealedFrame:
        encryptor = self._encryptors.setdefault(codec, frameseal.Encryptor(self.ring, codec))
        row = {
            "participant": self.participant,
            "track": {"audio": "mic", "video": "camera"}[kind],
            "kind": kind,
            "codec": codec,
            "profile": self.profile,
            "ssrc": 7,
            "rtp_timestamp": self.sent * rate // 50,
            "clock_rate": rate,
            "arrival": START + timedelta(milliseconds=20 * self.sent),
            "key_id": None,
            "keyframe": True if kind == "video" else None,
            "gap": False,
            "sealed": encryptor.encrypt(plain),
        }
        self.sent += 1
        return SealedFrame(**row | columns)


def call(sender: Sender, count: int) -> Iterator[SealedFrame]:
    """Yield frames of audio and video in turns."""
    for number in range(count):
        yield sender.video() if number % 2 else sender.audio()


def archive(folder: Path, frames: Iterable[SealedFrame], recording: str = "room", segments: int = 1) -> Path:
    """Write an archive of some segments, with equally many frames each."""
    listed = list(frames)
    step = -(-len(listed) // segments)
    with ArchiveWriter(folder, recording) as writer:
        for start in range(0, len(listed), step):
            if start:
                end_segment(writer)
            for frame in listed[start : start + step]:
                writer.write(frame)
    return folder


def end_segment(writer: ArchiveWriter) -> None:
    """End the segment that is being written, as its size or its age does."""
    with writer._lock:
        writer._flush()
        assert writer._spool is not None
        writer._rotate(writer._spool)


def table(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(list(batches)).unify_dictionaries()


def rewrite(path: Path, change: Any) -> None:
    """Replace the table of a Parquet file by another, with the same metadata."""
    found = pq.read_table(path)
    changed = change(found)
    pq.write_table(changed.replace_schema_metadata(found.schema.metadata), path)


def assert_opens(folder: Path, tracks: set[tuple[str, str]], keys: Any) -> None:
    """Check that an archive is whole and closed, holds these participants and kinds, and opens with *keys*."""
    (found,), strangers = verify(folder)
    assert (found.problems, strangers, found.is_closed) == ([], [], True)
    rows = Opener(keys)(table(read(folder)))
    assert set(zip(rows["participant"].to_pylist(), rows["kind"].to_pylist(), strict=True)) == tracks
    assert set(rows["reason"].to_pylist()) == {None}
