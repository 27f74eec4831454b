"""An archive in memory with the interface of `frameseal.archive`: `read` and `Opener`, over real seals.

It stands in until the archive is there: then tests write with `ArchiveWriter` instead.
"""

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import pyarrow as pa

from frameseal import Decryptor, FrameError, KeyProvider, KeyRing, Profile
from frameseal import Encryptor as Sealer
from frameseal.tools.opening.frames import OpenedFrame

PLAIN = ("participant", "track", "kind", "codec", "ssrc", "clock_rate", "rtp_timestamp", "arrival", "key_id", "gap")
TYPES = {
    "recording": pa.dictionary(pa.int32(), pa.string()),
    "participant": pa.dictionary(pa.int32(), pa.string()),
    "track": pa.dictionary(pa.int32(), pa.string()),
    "kind": pa.dictionary(pa.int32(), pa.string()),
    "codec": pa.dictionary(pa.int32(), pa.string()),
    "ssrc": pa.uint32(),
    "clock_rate": pa.uint32(),
    "rtp_timestamp": pa.int64(),
    "arrival": pa.timestamp("us", "UTC"),
    "key_id": pa.uint64(),
    "gap": pa.bool_(),
}


class Opener:
    """Opens the rows of a table, one decryptor for each track and provider."""

    def __init__(self, keys: list[KeyProvider], profile: str | None = None) -> None:
        self._keys = keys
        self._profile = profile or "livekit"
        self._decryptors: dict[tuple[str, str, str], list[Decryptor]] = {}

    def __call__(self, table: pa.Table) -> pa.Table:
        results = [self._open(row) for row in table.to_pylist()]
        index = table.column_names.index("sealed")
        table = table.set_column(index, "frame", pa.array([frame for frame, _ in results], pa.large_binary()))
        table = table.append_column("opened", pa.array([reason is None for _, reason in results], pa.bool_()))
        return table.append_column("reason", pa.array([reason for _, reason in results], pa.string()))

    def _open(self, row: dict[str, Any]) -> tuple[bytes | None, str | None]:
        place = (row["participant"], row["track"], row["codec"])
        if place not in self._decryptors:
            rings = [keys.ring_for(Profile(self._profile), row["participant"]) for keys in self._keys]
            self._decryptors[place] = [Decryptor(ring, row["codec"]) for ring in rings]
        reason = ""
        for decryptor in self._decryptors[place]:
            try:
                return decryptor.decrypt(row["sealed"]), None
            except FrameError as error:
                reason = {"UnknownKey": "unknown_key"}.get(type(error).__name__, "authentication_failed")
        return None, reason


def sealed(frames: Iterable[OpenedFrame], rings: dict[str, KeyRing]) -> list[dict[str, Any]]:
    """Return the rows of an archive: frames sealed with the sending key of their participant's ring."""
    rows, sealers = [], {}
    for frame in frames:
        place = (frame.participant, frame.track, frame.codec)
        if place not in sealers:
            sealers[place] = Sealer(rings[frame.participant], frame.codec)
        row = {"recording": "room"} | {name: getattr(frame, name) for name in PLAIN}
        row["sealed"] = sealers[place].encrypt(frame.frame)
        row["key_id"] = rings[frame.participant].sending_key_id
        rows.append(row)
    return rows


def archive(
    rows: list[dict[str, Any]], batch: int = 100, fails_after: int | None = None, damaged: int | None = None
) -> ModuleType:
    """Return a module like `frameseal.archive` whose only archive has these rows.

    :param fails_after: the number of rows after which reading fails.
    :param damaged: the number of the batch that cannot be read.
    """

    def read(
        location: str, *, recordings: list[str] | None = None, on_error: Callable[[Exception], None]
    ) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([*TYPES.items(), ("sealed", pa.large_binary())])
        for start in range(0, len(rows), batch):
            if fails_after is not None and start >= fails_after:
                raise ValueError(f"segment-2.parquet, row {start}: the hash of the segment before is another")
            if start == damaged:
                on_error(ValueError(f"segment-2.parquet, row {start}: the page is damaged"))
                continue
            piece = rows[start : start + batch]
            if recordings is None or piece[0]["recording"] in recordings:
                yield pa.RecordBatch.from_pylist(piece, schema)

    module = ModuleType("frameseal.archive")
    module.read, module.Opener = read, Opener  # type: ignore[attr-defined]
    return module
