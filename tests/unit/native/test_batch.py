"""Batches: the same as one call per frame, on any number of threads, and no failing frame takes another with it."""

import contextlib
import os
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frameseal
from frameseal import Decryptor, Encryptor, KeyRing

KEY = bytes(range(32))
CODECS = {"opus": b"\x78 speech", "vp8": b"\x01 a delta frame", "vp9": b"picture", None: b"whatever"}
H264 = b"\0\0\0\1\x65\x88\0\0\0\0\1\2\3"


def ring(profile: str = "livekit", **options) -> KeyRing:
    made = KeyRing(profile, shared=profile == "sframe", **options)
    made.set_key(KEY)
    return made


def joined(frames: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, frames)]).astype(np.int64)
    return np.frombuffer(b"".join(frames), np.uint8), offsets


def parted(data: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    assert data.dtype == np.uint8 and offsets.dtype == np.int64 and offsets[0] == 0 and offsets[-1] == len(data)
    return [data[start:end].tobytes() for start, end in pairwise(offsets)]


@pytest.mark.parametrize("threads", [1, 2, 7, None])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("profile", ["livekit", "videosdk", "stream", "sframe"])
def test_a_batch_is_opened_frame_by_frame_and_the_other_way_round(profile, codec, threads):
    frames = [CODECS[codec] + bytes([n % 256]) * (n * 7 % 500) for n in range(300)] + [b""]
    keys = ring(profile)
    sealed, offsets = Encryptor(keys, codec).encrypt_batch(*joined(frames), threads)
    one_by_one = Decryptor(ring(profile), codec)
    assert [one_by_one.decrypt(frame) for frame in parted(sealed, offsets)] == frames
    opened, offsets, ok = Decryptor(ring(profile), codec).decrypt_batch(sealed, offsets, threads)
    assert parted(opened, offsets) == frames and ok.dtype == np.bool_ and ok.all()
    encryptor = Encryptor(ring(profile), codec)
    singly = joined([encryptor.encrypt(frame) for frame in frames])
    opened, offsets, ok = Decryptor(ring(profile), codec).decrypt_batch(*singly, threads)
    assert parted(opened, offsets) == frames and ok.all()


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
def test_escapes_and_what_h264_holds_back_come_out_as_one_by_one(profile):
    parameter_sets = b"\0\0\0\1\x67\x42\xc0\x1f\xda\0\0\0\1\x68\xce\x3c\x80"
    frames = [parameter_sets, *(H264 + bytes(n) + b"\x80" for n in range(200))]
    sealed, offsets = Encryptor(ring(profile), "h264").encrypt_batch(*joined(frames), 3)
    pieces = parted(sealed, offsets)
    decryptor = Decryptor(ring(profile), "h264")
    opened = [decryptor.decrypt(piece) for piece in pieces]
    if profile != "sframe":
        assert pieces[0] == b"" and opened[1].startswith(parameter_sets)
        assert opened[2:] == frames[2:]
    else:
        assert opened == frames
    again, offsets, ok = Decryptor(ring(profile), "h264").decrypt_batch(sealed, offsets)
    assert parted(again, offsets) == opened and ok.all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=300), max_size=200),
    st.integers(1, 5),
    st.data(),
    st.sampled_from(["livekit", "stream", "sframe"]),
)
def test_what_fails_is_empty_and_named_and_the_others_do_not_notice(frames, threads, data, profile):
    frames = [b"\x78" + frame for frame in frames]
    sealed, offsets = Encryptor(ring(profile), "opus").encrypt_batch(*joined(frames), threads)
    pieces = parted(sealed, offsets)
    broken = data.draw(st.sets(st.integers(0, max(0, len(pieces) - 1)))) if pieces else set()
    for place in broken:
        pieces[place] = pieces[place][:-20] + b"\xff" * 20
    decryptor = Decryptor(ring(profile), "opus")
    opened, offsets, ok = decryptor.decrypt_batch(*joined(pieces), threads)
    assert parted(opened, offsets) == [b"" if n in broken else frame for n, frame in enumerate(frames)]
    assert ok.tolist() == [n not in broken for n in range(len(frames))]
    one_by_one = Decryptor(ring(profile), "opus")
    for piece in pieces:
        with contextlib.suppress(frameseal.FrameError):
            one_by_one.decrypt(piece)
    assert decryptor.stats() == one_by_one.stats()
    assert decryptor.consecutive_failures == one_by_one.consecutive_failures


TRAILER = b"of a server that puts blank frames in"


def on_the_wire(profile: str, key: bytes, randomness: random.Random) -> list[bytes]:
    """Frames of a sender that ratchets, with replays, forgeries, strangers and a server's blanks between."""
    keys = [KeyRing(profile, ratchet_bits=4 if profile == "sframe" else 0) for _ in range(2)]
    for each, its_key in zip(keys, (key, os.urandom(32)), strict=True):
        each.set_key(its_key)
    sender, stranger = (Encryptor(each, "opus") for each in keys)
    frames, late = [], []
    for _ in range(20):
        frames += [sender.encrypt(b"\x78" + randomness.randbytes(randomness.randrange(60))) for _ in range(120)]
        match randomness.randrange(7):
            case 0 | 1:
                keys[0].ratchet(keys[0].sending_key_id)
            case 2:
                frames += [randomness.choice(frames) for _ in range(40)]
            case 3:
                frames += [frame[:5] + bytes([frame[5] ^ 1]) + frame[6:] for frame in frames[-30:]]
            case 4:
                frames += [stranger.encrypt(b"\x78 of nobody") for _ in range(20)] + [b"", b"\x90\x80"]
            case 5:
                frames += [b"\xf8\xff\xfe" + bytes(77) + TRAILER] * 60
            case 6:
                late = [sender.encrypt(b"\x78 late") for _ in range(30)]
                continue
        frames += late
        late = []
    return frames


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_a_batch_opens_what_single_calls_open_across_ratchets_replays_and_forgeries(profile, seed):
    key = os.urandom(32)  # a base key of SFrame counts once
    sealed = on_the_wire(profile, key, random.Random(seed))

    def receiver() -> tuple[KeyRing, Decryptor]:
        keys = KeyRing(profile, ratchet_window=3, ratchet_bits=4 if profile == "sframe" else 0)
        keys.set_key(key)
        return keys, Decryptor(keys, "opus", replay_window=512, sif_trailer=TRAILER)

    def state(keys: KeyRing, decryptor: Decryptor) -> tuple[object, ...]:
        prints = [keys.fingerprint(key_id) for key_id in keys.key_ids]
        return decryptor.stats(), decryptor.consecutive_failures, keys.key_ids, prints, keys.ratcheted_key_id

    one_by_one = receiver()
    expected = []
    for frame in sealed:
        try:
            expected.append(one_by_one[1].decrypt(frame))
        except frameseal.FrameError:
            expected.append(None)
    assert one_by_one[1].stats()["ratchets"] and None in expected
    for threads in (1, 2, 4, None):
        batch = receiver()
        opened, offsets, ok = batch[1].decrypt_batch(*joined(sealed), threads)
        assert ok.tolist() == [frame is not None for frame in expected]
        assert parted(opened, offsets) == [frame or b"" for frame in expected]
        assert state(*batch) == state(*one_by_one)


@pytest.mark.parametrize("profile", ["livekit", "nextcloud", "stream", "sframe"])
def test_replays_are_refused_in_order_inside_a_batch_and_across_batches(profile):
    frames = [b"\x78" + n.to_bytes(4, "big") for n in range(3000)]  # more than any window holds
    sealed = parted(*Encryptor(ring(profile), "opus").encrypt_batch(*joined(frames), 4))
    decryptor = Decryptor(ring(profile), "opus", replay_window=256)
    opened, offsets, ok = decryptor.decrypt_batch(*joined([*sealed, sealed[-1], sealed[-2]]), 4)
    assert ok.tolist() == [True] * 3000 + [False, False]
    assert parted(opened, offsets)[:3000] == frames
    _, _, ok = decryptor.decrypt_batch(*joined(sealed[-200:]), 4)
    assert not ok.any()
    assert decryptor.stats()["replayed"] == 202


def test_no_nonce_comes_twice_when_threads_send_batches_at_once():
    encryptor = Encryptor(ring(), "opus")
    batch = joined([b"\x78 frame"] * 500)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: parted(*encryptor.encrypt_batch(*batch, 2)), range(16)))
    ivs = {frame[-14:-2] for frames in made for frame in frames}
    assert len(ivs) == 16 * 500


def test_a_frame_that_cannot_be_sealed_refuses_the_batch_and_is_named():
    with pytest.raises(frameseal.MalformedFrame) as caught:
        Encryptor(ring(), "vp8").encrypt_batch(*joined([b"\x01 fine", b"\x01 fine", b"\x01"]))
    assert caught.value.__notes__ == ["frame 2 of the batch"]
    with pytest.raises(frameseal.UnknownKey):
        Encryptor(KeyRing("livekit"), "opus").encrypt_batch(*joined([b"\x78"]))
    worn = ring(usage_limit=10)
    with pytest.raises(frameseal.KeyExhausted) as caught:
        Encryptor(worn, "opus").encrypt_batch(*joined([b"\x78"] * 11))
    assert caught.value.__notes__ == ["frame 10 of the batch"]


def test_output_goes_where_it_was_asked_to():
    frames = [b"\x78" + bytes(n) for n in range(50)]
    data, offsets = joined(frames)
    room = np.full(len(data) + 50 * 30 + 7, 9, np.uint8)
    sealed, sealed_offsets = Encryptor(ring(), "opus").encrypt_batch(data, offsets, out=room)
    assert np.shares_memory(sealed, room) and len(sealed) == len(room) - 7 and (room[-7:] == 9).all()
    opened, _, ok = Decryptor(ring(), "opus").decrypt_batch(sealed, sealed_offsets, out=np.empty(5000, np.uint8))
    assert ok.all() and opened.tobytes() == data.tobytes()
    with pytest.raises(ValueError, match=rf"out must have at least {len(data) + 1500} bytes, not 10"):
        Encryptor(ring(), "opus").encrypt_batch(data, offsets, out=np.empty(10, np.uint8))
    both = np.zeros(5000, np.uint8)
    with pytest.raises(ValueError, match="out must not overlap data"):
        Encryptor(ring(), "opus").encrypt_batch(both[:100], np.array([0, 100]), out=both[50:])
    for wrong in (np.empty(5000, np.int16), np.empty(9000, np.uint8)[::2], bytes(5000), "out"):
        with pytest.raises(TypeError, match="out must be"):
            Encryptor(ring(), "opus").encrypt_batch(data, offsets, out=wrong)


@pytest.mark.parametrize(
    ("data", "offsets", "error"),
    [
        (np.zeros(10, np.uint8), np.array([0, 11]), ValueError),
        (np.zeros(10, np.uint8), np.array([5, 3]), ValueError),
        (np.zeros(10, np.uint8), np.array([-1, 3]), ValueError),
        (np.zeros(10, np.uint8), np.array([], np.int64), ValueError),
        (np.zeros(10, np.uint8), np.array([0, 3], np.int16), TypeError),
        (np.zeros(10, np.uint8), np.array([-1, 3], np.int32), ValueError),
        (np.zeros(10, np.uint8), np.array([0.0, 3.0]), TypeError),
        (np.zeros(10, np.int8), np.array([0, 3]), TypeError),
        (np.zeros((2, 5), np.uint8), np.array([0, 3]), TypeError),
        (np.zeros(10, np.uint8)[::2], np.array([0, 3]), TypeError),
        ("text", np.array([0, 3]), TypeError),
        (np.zeros(10, np.uint8), None, TypeError),
    ],
)
def test_arguments_that_make_no_batch_are_refused(data, offsets, error):
    for call in (Encryptor(ring(), "opus").encrypt_batch, Decryptor(ring(), "opus").decrypt_batch):
        with pytest.raises(error):
            call(data, offsets)


def test_the_empty_batch_bytes_and_read_only_arrays_are_batches_too():
    sealed, offsets = Encryptor(ring(), "opus").encrypt_batch(b"", np.array([0]))
    assert (len(sealed), offsets.tolist()) == (0, [0])
    frame = np.frombuffer(b"\x78 frame", np.uint8)
    assert not frame.flags.writeable
    sealed, offsets = Encryptor(ring(), "opus").encrypt_batch(frame, np.array([0, 3, 3, 7]))
    assert [len(piece) for piece in parted(sealed, offsets)] == [33, 0, 34]
    assert Decryptor(ring(), "opus").decrypt_batch(bytearray(sealed), offsets)[2].all()


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_below_one_is_refused(threads):
    with pytest.raises(ValueError):
        Encryptor(ring(), "opus").encrypt_batch(*joined([b"\x78"]), threads)


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
def test_arrows_binary_arrays_are_taken_as_they_are_slices_too(profile, kind):
    frames = [b"\x78" + bytes([n]) * n for n in range(100)] + [b""]
    array = pyarrow.array([b"\x78 before", *frames, b"\x78 behind"], kind).slice(1, len(frames))
    keys = ring(profile)
    sealed, offsets = Encryptor(keys, "opus").encrypt_batch(array)
    pieces = parted(sealed, offsets)
    assert [Decryptor(keys, "opus").decrypt(piece) for piece in pieces] == frames
    opened, offsets, ok = Decryptor(keys, "opus").decrypt_batch(pyarrow.array(pieces, kind), threads=2)
    assert parted(opened, offsets) == frames and ok.all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["binary", "large_binary", "buffers"])
def test_rows_open_as_if_they_stood_alone_in_their_order(kind, threads):
    frames = [CODECS["opus"] + bytes([n % 256]) * (n * 7 % 500) for n in range(300)]
    mine, other = Encryptor(ring(), "opus"), Encryptor(ring(), "opus")
    sealed = [(mine if n % 3 else other).encrypt(frame) for n, frame in enumerate(frames)]
    rows = np.array([n for n in range(300) if n % 3], np.int64)
    if kind == "buffers":
        batch = joined(sealed)
    else:
        batch = (pyarrow.array([b"before", *sealed], getattr(pyarrow, kind)()).slice(1), None)
    opened, offsets, ok = Decryptor(ring(), "opus", 1000).decrypt_batch(*batch, threads, rows=rows)
    assert parted(opened, offsets) == [frames[row] for row in rows] and ok.all()
    # The order is that of the rows, and a row that is named again is a replay.
    opened, offsets, ok = Decryptor(ring(), "opus", 1000).decrypt_batch(*batch, threads, rows=np.array([7, 2, 7, 2]))
    assert parted(opened, offsets) == [frames[7], frames[2], b"", b""] and ok.tolist() == [True, True, False, False]
    nothing, offsets, ok = Decryptor(ring(), "opus").decrypt_batch(*batch, threads, rows=np.array([], np.int64))
    assert parted(nothing, offsets) == [] and len(ok) == 0


@pytest.mark.parametrize(
    "rows, error",
    [
        (np.array([3]), ValueError),
        (np.array([0, -1]), ValueError),
        (np.array([2**63 - 1]), ValueError),
        (np.array([-(2**63)]), ValueError),
        (np.array([0], np.int32), TypeError),
        (np.array([0], np.uint64), TypeError),
        (np.array([0.0]), TypeError),
        ([0], TypeError),
        (0, TypeError),
    ],
)
def test_rows_that_a_batch_does_not_have_are_refused_and_open_nothing(rows, error):
    encryptor, decryptor = Encryptor(ring(), "opus"), Decryptor(ring(), "opus")
    batch = joined([encryptor.encrypt(CODECS["opus"]) for _ in range(3)])
    with pytest.raises(error, match="rows"):
        decryptor.decrypt_batch(*batch, rows=rows)
    assert decryptor.stats()["frames"] == 0


def test_rows_between_offsets_that_lie_are_refused():
    sealed, _ = joined([Encryptor(ring(), "opus").encrypt(CODECS["opus"])])
    for offsets in ([0, len(sealed) + 1], [5, 0], [-1, 4]):
        with pytest.raises(ValueError, match="offsets must ascend"):
            Decryptor(ring(), "opus").decrypt_batch(sealed, np.array(offsets), rows=np.array([0]))


def test_an_empty_arrow_array_is_an_empty_batch():
    for array in (pyarrow.array([], pyarrow.binary()), pyarrow.array([b"\x78"], pyarrow.binary()).slice(1)):
        sealed, offsets = Encryptor(ring(), "opus").encrypt_batch(array)
        assert len(sealed) == 0 and offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("data", "error", "fix"),
    [
        (pyarrow.array([b"\x78", None], pyarrow.binary()), ValueError, "nulls"),
        (pyarrow.array(["text"]), TypeError, "binary or large_binary"),
        (pyarrow.chunked_array([[b"\x78"], [b"\x78"]]), TypeError, "combine_chunks"),
        (np.zeros(4, np.uint8), TypeError, "if offsets is left out"),
        (b"frame", TypeError, "if offsets is left out"),
    ],
)
def test_what_is_no_arrow_array_of_frames_is_refused_with_the_fix(data, error, fix):
    with pytest.raises(error, match=fix):
        Encryptor(ring(), "opus").encrypt_batch(data)
    with pytest.raises(error, match=fix):
        Decryptor(ring(), "opus").decrypt_batch(data)
