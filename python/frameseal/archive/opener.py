"""Opens the rows of an archive with keys: a table of Arrow in, a table out. It knows no engine and no file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from frameseal._native import Decryptor, KeyRing, SenderBindings
from frameseal.archive.schema import NAMES, SCHEMA, ArchiveError, check_columns, check_nulls
from frameseal.enums import Profile
from frameseal.exceptions import (
    AuthenticationFailed,
    FrameError,
    MalformedFrame,
    ReplayedFrame,
    SenderMismatch,
    UnknownKey,
)
from frameseal.keys.protocol import KeyRingProvider
from frameseal.keys.provider import KeyProvider
from frameseal.profiles import PROFILES, is_sframe, layout, media_metadata

REPLAY_WINDOW: Final = 32_768
"""Frames of a track that are remembered by default: eleven minutes of audio, in 3 MiB."""

Keys = KeyRingProvider | Sequence[KeyRingProvider] | Callable[[], "KeyRingProvider | Sequence[KeyRingProvider]"]

MAX_COUNTED: Final = 4_096
"""Combinations of names in a batch that are counted in a table. More are sorted."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_NEEDED = (*NAMES, "sealed")
_REASONS: Final = (
    (SenderMismatch, "sender_mismatch"),
    (ReplayedFrame, "replayed"),
    (UnknownKey, "unknown_key"),
    (MalformedFrame, "malformed"),
)
_COUNTED = ("malformed", "unknown_key", "authentication_failed", "replayed", "sender_mismatch")


class Opener:
    """Opens tables of sealed frames, with a decryptor per track. Each track's rows must arrive in order.

    An opener is a plain class that engines construct in their workers. It can be pickled if *keys* is a callable, and
    then holds no key: each copy calls it anew, and begins without a memory of the frames that others have opened.

    The names beside a frame are not authenticated. Whoever can write to the archive can put a frame under another time
    or track. Under a key of her own, a participant's frame opens only as hers. A frame that was sealed with
    ``bind_media`` opens only under its own kind and codec.

    :param keys: a `KeyProvider`, or a callable that returns one, and is called with the first table. If a key was
        replaced under its own id, pass a sequence of providers in the order of time. They are told apart by
        authentication: a track that has opened with a later provider never opens with an earlier one again.
    :param profile: the profile of all frames, or None to use the column ``profile``.
    :param replay_window: frames of a track that are remembered, 1 to 65,536, so that none opens twice.
    :param threads: maximum number of threads, or None for one per processor.
    :param stateless: True to open each table as if it were the first. Engines need it that repeat a task, or deal the
        tables of a track out to workers: an opener would refuse a repeated table as a replay. Replays are then refused
        within a table only.
    :raises TypeError: *keys* is neither a provider, nor a sequence of providers, nor a callable.
    :raises ValueError: *profile* is unknown, or a number is out of its range.
    """

    def __init__(
        self,
        keys: Keys,
        profile: str | None = None,
        *,
        replay_window: int = REPLAY_WINDOW,
        threads: int | None = 1,
        stateless: bool = False,
    ) -> None:
        self._make = keys if callable(keys) else None
        self._providers = None if callable(keys) else _providers(keys)
        if profile is not None and profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}")
        for name, value, high in (("replay_window", replay_window, 65_536), ("threads", threads, 1_024)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value is not None and not 1 <= value <= high:
                raise ValueError(f"{name} must be between 1 and {high}")
        if not isinstance(stateless, bool):
            raise TypeError(f"stateless must be a bool, not {type(stateless).__name__}")
        self._profile, self._replay_window, self._threads = profile, replay_window, threads
        self._stateless = stateless
        # The schema of the last table, and the schema of its result: each batch of an archive has the same.
        self._schemas: tuple[pa.Schema, pa.Schema] | None = None
        self._forget()
        # Used again by each batch, since fresh memory costs as much as the cipher.
        self._scratch = np.empty(0, np.uint8)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with ``frame`` in the place of ``sealed``, and the columns ``opened`` and ``reason``.

        All other columns and the order of the rows stay as they are.

        :param table: the columns of `SCHEMA`, of which the names and ``sealed`` are needed. Others may stand beside.
            ``sealed`` may also be binary, and names plain strings.
        :return: ``frame`` (large_binary) is null where the frame did not open. ``opened`` (bool) is then False, and
            ``reason`` (string) is "unknown_key", "authentication_failed", "replayed", "sender_mismatch", "malformed" or
            "unsupported" (a profile or codec that frameseal does not know). It is null where the frame opened. An empty
            frame of another profile than sframe opens as an empty frame.
        :raises TypeError: *table* is no table.
        :raises ArchiveError: the table is no part of an archive.
        """
        if not isinstance(table, pa.Table):
            raise TypeError(f"table must be a pyarrow.Table, not {type(table).__name__}")
        if self._schemas is None or not table.schema.equals(self._schemas[0], check_metadata=True):
            self._schemas = table.schema, _opened_schema(table.schema)
        if self._stateless:
            self._forget()
        schema = self._schemas[1]
        at = table.schema.get_field_index("sealed")
        frames: list[pa.Array] = []
        reasons: list[pa.Array] = []
        row = 0
        for batch in table.to_batches():
            opened, why = self._open(batch, row)
            frames += opened
            reasons.append(why)
            row += batch.num_rows
        columns: list[Any] = table.columns
        columns[at] = pa.chunked_array(frames, pa.large_binary())
        why = pa.chunked_array(reasons, pa.string())
        return pa.Table.from_arrays([*columns, why.is_null(), why], schema=schema)

    def __getstate__(self) -> dict[str, Any]:
        if self._make is None:
            raise TypeError("an Opener with keys cannot be pickled: pass a callable that fetches them")
        return {
            "keys": self._make,
            "profile": self._profile,
            "replay_window": self._replay_window,
            "threads": self._threads,
            "stateless": self._stateless,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._tracks)} tracks)"

    def _forget(self) -> None:
        self._tracks: dict[tuple[str, ...], _Track] = {}
        self._bindings = SenderBindings()

    def _open(self, batch: pa.RecordBatch, row: int) -> tuple[list[pa.Array], pa.Array]:
        """Return the opened frames, in some pieces, and the reasons of a batch, in the order of its rows."""
        try:
            batch.select(_NEEDED).validate(full=True)
        except pa.ArrowInvalid as error:
            raise ArchiveError("table", "the rows are damaged", row) from error
        codes, names = _tracks_of(batch, row)
        sealed = batch.column("sealed")
        check_nulls("table", "sealed", sealed, row)
        if pa.types.is_binary(sealed.type):  # as Spark reads it
            sealed = sealed.cast(pa.large_binary())
        if not names:
            return [], pa.array([], pa.string())
        tracks = [self._track(name) for name in names]
        if len(tracks) == 1:
            frames, reasons = tracks[0].open(_Rows(sealed), threads=self._threads)
            return [frames], reasons
        # Each track's frames together, in their order, and then back in the order of all rows.
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes, np.arange(len(names) + 1), sorter=order)
        offsets = np.frombuffer(sealed.buffers()[1], np.int64, len(sealed) + 1, 8 * sealed.offset)
        starts = np.concatenate([[0], np.cumsum(np.diff(offsets)[order])])[bounds]
        if len(self._scratch) < starts[-1]:
            self._scratch = np.empty(starts[-1], np.uint8)
        threads = self._threads or os.cpu_count() or 1
        are_independent = all(track.is_independent for track in tracks)

        def open_track(number: int) -> tuple[pa.Array, pa.Array]:
            rows = _Rows(sealed, order[bounds[number] : bounds[number + 1]])
            place = self._scratch[starts[number] : starts[number + 1]]
            return tracks[number].open(rows, place, threads=1 if are_independent else self._threads)

        # The largest track is begun first, so that no thread waits long for the others at the end.
        largest_first = sorted(range(len(names)), key=lambda number: int(starts[number] - starts[number + 1]))
        done = _on_threads(threads if are_independent else 1, open_track, largest_first)
        opened = [found for _, found in sorted(zip(largest_first, done, strict=True), key=itemgetter(0))]
        parts = [part for part, _ in opened]
        frames, shifts = _joined(parts, self._scratch)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order)) + np.repeat(shifts, np.diff(bounds))
        # A copy, so no result refers to the scratch memory.
        pieces = np.array_split(back, min(threads, len(back)))
        in_order = _on_threads(threads, lambda piece: frames.take(pa.array(piece)), pieces)
        if all(why.null_count == len(why) for _, why in opened):
            return in_order, pa.nulls(len(order), pa.string())
        back[order] = np.arange(len(order))
        return in_order, pa.concat_arrays([why for _, why in opened]).take(pa.array(back))

    def _track(self, names: tuple[str, ...]) -> _Track:
        track = self._tracks.get(names)
        if track is None:
            if self._providers is None:
                assert self._make is not None  # noqa: S101
                self._providers = _providers(self._make())
            track = self._tracks[names] = self._made(dict(zip(NAMES, names, strict=True)), self._providers)
        return track

    def _made(self, names: dict[str, str], providers: Sequence[KeyRingProvider]) -> _Track:
        profile = self._profile or names["profile"]
        if profile not in PROFILES:
            return _Track([], is_independent=True)
        participant = names["participant"]
        options: dict[str, Any] = {}
        metadata = None
        if is_sframe(profile):
            options = {"senders": self._bindings, "participant_id": participant}
            metadata = media_metadata(names["kind"], names["codec"])
        rings = _rings(providers, Profile(profile), participant)
        try:
            eras = [_Era(ring, names["codec"], self._replay_window, options, metadata) for ring in rings]
        except ValueError:  # a codec that is unknown, or that the profile refuses
            eras = []
        # Tracks that share a sender's binding, or a ring that a stranger's provider may ratchet, open in one order.
        is_independent = not options and all(isinstance(provider, KeyProvider) for provider in providers)
        return _Track(eras, is_independent=is_independent)


class _Rows:
    """The sealed frames of one track, where they lie between those of others.

    :param sealed: large_binary: the frames of all tracks.
    :param rows: int64: the rows of the track in ascending order, or None for all.
    """

    def __init__(self, sealed: pa.Array, rows: np.ndarray[Any, Any] | None = None) -> None:
        self._sealed = sealed
        self.rows = np.arange(len(sealed)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> bytes:
        frame: bytes = self._sealed[int(self.rows[at])].as_py()
        return frame

    def choose(self, places: np.ndarray[Any, Any]) -> _Rows:
        """Return the frames at these places of the track."""
        return _Rows(self._sealed, self.rows[places])

    def decrypt(
        self, decryptor: Decryptor, threads: int | None, out: np.ndarray[Any, Any] | None
    ) -> tuple[pa.Array, np.ndarray[Any, Any]]:
        """Return the opened frames, empty where they did not open, and whether each opened."""
        data, offsets, opened = decryptor.decrypt_batch(self._sealed, threads=threads, rows=self.rows, out=out)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.large_binary(), len(opened), buffers), np.array(opened)


class _Era:
    """One provider's keys for one track, and the decryptor that uses them.

    :param metadata: the metadata of frames that are bound to their medium, or None in profiles without metadata.
    """

    def __init__(
        self, ring: KeyRing, codec: str, replay_window: int, options: dict[str, Any], metadata: bytes | None
    ) -> None:
        self.ring, self._metadata = ring, metadata
        self._make: Callable[[int], Decryptor] = lambda window: Decryptor(ring, codec, window, **options)
        self.decryptor = self._make(replay_window)

    def can_open(self, sealed: bytes) -> bool:
        """Return True if the era has a key for a frame. Its replay window does not remember the attempt."""
        for metadata in (b"", self._metadata or b""):
            with suppress(FrameError):
                self._make(0).decrypt(sealed, metadata)
                return bool(sealed)
        return False

    def open(
        self, sealed: _Rows, threads: int | None, out: np.ndarray[Any, Any] | None = None
    ) -> tuple[pa.Array, np.ndarray[Any, Any], list[str | None]]:
        """Open frames in order. Return them, whether each opened, and the reason of each that did not.

        :param out: uint8: memory for the frames, at least as much as *sealed* has, or None for fresh memory.
        """
        before: Any = self.decryptor.stats()
        frames, opened = self._batch(sealed, threads, out)
        # Steps of a passphrase are derived on request only. A track's rows behind a step have all failed.
        while not opened.all() and (pending := self.ring.pending_ratchets):
            for key_id in pending:
                self.ring.derive_ratchet_step(key_id)
            failed = np.flatnonzero(~opened)
            again, reopened = self._batch(sealed.choose(failed), threads)
            if reopened.any():
                places = np.arange(len(opened))
                places[failed[reopened]] = len(opened) + np.flatnonzero(reopened)
                frames = pa.concat_arrays([frames, again]).take(pa.array(places))
                opened[failed[reopened]] = True
            before = None  # the counters tell nothing of the last attempt alone
        return frames, opened, [] if opened.all() else self._reasons(sealed, opened, before)

    def _batch(
        self, sealed: _Rows, threads: int | None, out: np.ndarray[Any, Any] | None = None
    ) -> tuple[pa.Array, np.ndarray[Any, Any]]:
        frames, opened = sealed.decrypt(self.decryptor, threads, out)
        if self._metadata is None or opened.all():
            return frames, opened
        # A frame does not tell whether it is bound to its medium, and a batch has no metadata.
        bound = []
        places = np.arange(len(opened))
        for at in np.flatnonzero(~opened).tolist():
            with suppress(FrameError):
                bound.append(self.decryptor.decrypt(sealed[at], self._metadata))
                places[at] = len(opened) + len(bound) - 1
                opened[at] = True
        if bound:
            frames = pa.concat_arrays([frames, pa.array(bound, pa.large_binary())]).take(pa.array(places))
        return frames, opened

    def _reasons(self, sealed: _Rows, opened: np.ndarray[Any, Any], before: Any | None) -> list[str | None]:
        """Return the reason of each frame that did not open, and None for the others."""
        if before is not None:
            after: Any = self.decryptor.stats()
            causes = [name for name in _COUNTED if after[name] != before[name]]
            if len(causes) == 1:
                return [None if ok else causes[0] for ok in opened]
        return [None if ok else self._reason(sealed[at]) for at, ok in enumerate(opened)]

    def _reason(self, sealed: bytes) -> str:
        for metadata in (b"",) if self._metadata is None else (b"", self._metadata):
            try:
                self.decryptor.decrypt(sealed, metadata)
            except AuthenticationFailed:
                continue
            except FrameError as error:
                return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "authentication_failed")
            else:
                # It opens now, since the window has forgotten it: it was refused as replayed.
                return "replayed"
        return "authentication_failed"


class _Track:
    """One track: its decryptors, one per provider, in the order of time."""

    def __init__(self, eras: list[_Era], *, is_independent: bool) -> None:
        self._eras = eras
        self.is_independent = is_independent
        """True if the track may be opened at the same time as others, with the same result."""

    def open(
        self, sealed: _Rows, out: np.ndarray[Any, Any] | None = None, *, threads: int | None
    ) -> tuple[pa.Array, pa.Array]:
        """Return the frames, null where they did not open, and the reasons, null where they did.

        :param out: memory for the frames, as for `_Era.open`.
        :param threads: maximum number of threads, as for `Opener`.
        """
        if not self._eras:
            nothing = pa.nulls(len(sealed), pa.large_binary())
            return nothing, pa.array(["unsupported"] * len(sealed), pa.string())
        frames, opened, reasons = self._eras[0].open(sealed, threads, out)
        if opened.all():
            return frames, pa.nulls(len(sealed), pa.string())
        parts, places = [frames], np.arange(len(sealed))
        while (start := self._begin_next_era(sealed, opened)) is not None:
            rest = start + np.flatnonzero(~opened[start:])
            later, ok, why = self._eras[0].open(sealed.choose(rest), threads)
            places[rest] = sum(map(len, parts)) + np.arange(len(rest))
            parts.append(later)
            opened[rest] = ok
            for at, reason in zip(rest, why or [None] * len(rest), strict=True):
                reasons[at] = reason
        if len(parts) > 1:
            frames = pa.concat_arrays(parts).take(pa.array(places))
        frames = pc.if_else(pa.array(~opened), pa.scalar(None, pa.large_binary()), frames)
        return frames, pa.array(reasons, pa.string())

    def _begin_next_era(self, sealed: _Rows, opened: np.ndarray[Any, Any]) -> int | None:
        """Move to the later era that opens the first frame that the present one does not. Return that frame's row.

        Return None if no later era opens a frame.
        """
        for at in np.flatnonzero(~opened) if len(self._eras) > 1 else ():
            frame = sealed[int(at)]
            for number, era in enumerate(self._eras[1:], 1):
                if era.can_open(frame):
                    del self._eras[:number]
                    return int(at)
        return None


def _providers(keys: Any) -> Sequence[KeyRingProvider]:
    found = list(keys) if isinstance(keys, list | tuple) else [keys]
    for provider in found:
        if not callable(getattr(provider, "ring_for", None)):
            raise TypeError(f"keys must be a KeyProvider, providers or a callable, not {type(provider).__name__}")
        if len(found) > 1 and not isinstance(provider, KeyProvider):
            raise TypeError("keys must be instances of KeyProvider if there are several")
    if not found:
        raise ValueError("keys must have a provider")
    return found


def _rings(providers: Sequence[KeyRingProvider], profile: Profile, participant: str) -> list[KeyRing]:
    """Return a participant's ring of each provider, for one track.

    A ratchet moves a ring forward, so each track then has a ring of its own. A later provider's ring has no key that
    an earlier one has: a frame that is refused as replayed must not open in a decryptor that has not seen it.
    """
    (first, *later) = providers
    if not later and not (isinstance(first, KeyProvider) and first.ratchet_window):
        return [first.ring_for(profile, participant)]
    rings, known = [], set()
    for provider in providers:
        assert isinstance(provider, KeyProvider)  # noqa: S101  # `_providers` has checked it
        options: dict[str, Any] = {"shared": is_sframe(profile), "key_ring_size": provider.key_ring_size}
        # An archive may hold frames of a profile without a ratchet beside others.
        window = 0 if layout(profile) == "footer" else provider.ratchet_window
        ring = KeyRing(profile, ratchet_window=window, **options)
        for key_id, secret in provider.secrets_of(participant).items():
            alone = KeyRing(profile, **options)
            alone.set_secret(secret)
            if (fingerprint := alone.fingerprint(0)) not in known:
                known.add(fingerprint)
                ring.set_secret(secret, key_id)
        rings.append(ring)
    return rings


def _opened_schema(sealed: pa.Schema) -> pa.Schema:
    """Return the schema of a table after opening.

    :raises ArchiveError: the table has not the columns that opening needs.
    """
    schema = sealed.with_metadata({**SCHEMA.metadata, **(sealed.metadata or {})})
    at = schema.get_field_index("sealed")
    if at >= 0 and pa.types.is_binary(schema.field(at).type):
        schema = schema.set(at, SCHEMA.field("sealed"))
    check_columns("table", schema, _NEEDED)
    for name in ("frame", "opened", "reason"):
        if sealed.get_field_index(name) >= 0:
            raise ArchiveError("table", f"the column {name} exists: is the table open already?")
    opened = sealed.set(at, pa.field("frame", pa.large_binary()))
    return opened.append(pa.field("opened", pa.bool_(), nullable=False)).append(pa.field("reason", pa.string()))


def _on_threads(threads: int, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return the result of *work* for each item, in their order.

    The threads end with the call: a pool that stays would be dead in a forked child.
    """
    if min(threads, len(items)) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(work, items))


def _joined(parts: list[pa.Array], memory: np.ndarray[Any, Any]) -> tuple[pa.Array, list[int]]:
    """Return arrays as one, and how far the elements of each are behind the place that `concat_arrays` puts them at.

    Arrays whose bytes all lie in *memory*, in ascending order, are not copied. An element then stands between each two,
    for the bytes between them.
    """
    base = memory.ctypes.data
    ends: list[np.ndarray[Any, Any]] = []
    for part in parts:
        data, start = part.buffers()[2], ends[-1][-1] if ends else 0
        place = data.address - base if data is not None else -1
        if part.offset or part.null_count or not start <= place <= len(memory):
            return pa.concat_arrays(parts), [0] * len(parts)
        ends.append(np.frombuffer(part.buffers()[1], np.int64, len(part) + 1) + place)
    offsets = np.concatenate(ends)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(memory)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers), list(range(len(parts)))


def _tracks_of(batch: pa.RecordBatch, row: int) -> tuple[np.ndarray[Any, Any], list[tuple[str, ...]]]:
    """Return the number of each row's track, and the names of each track by that number."""
    codes = np.zeros(batch.num_rows, np.int64)
    names: list[tuple[str, ...]] = [()]
    for column_name in NAMES:
        column = batch.column(column_name)
        if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
            column = column.dictionary_decode()
        check_nulls("table", column_name, column, row)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        values = column.dictionary.to_pylist()
        if len(values) == 1:
            names = [(*name, values[0]) for name in names]
            continue
        # Renumbered after each column, so that the numbers stay small whatever the dictionaries hold.
        mixed = codes * max(len(values), 1) + column.indices.to_numpy(zero_copy_only=False)
        highest = len(names) * len(values)
        if highest <= MAX_COUNTED:
            present = np.flatnonzero(np.bincount(mixed, minlength=highest))
            numbers = np.zeros(highest, np.int64)
            numbers[present] = np.arange(len(present))
            codes = numbers[mixed]
        else:
            present, codes = np.unique(mixed, return_inverse=True)
        names = [(*names[each // len(values)], values[each % len(values)]) for each in present.tolist()]
    # numpy sorts small numbers by their digits, which is faster than to compare them.
    return codes.astype(np.uint16) if len(names) <= 1 << 16 else codes, names if batch.num_rows else []
