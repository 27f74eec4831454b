"""Every class of the native module under many threads at once. Holds with the GIL, and in a free-threaded Python.

`make free-threaded` runs this file without a GIL. There, and in batches and long frames here, the threads are in the
core at the same time. Below 64 KiB the GIL orders the calls of one frame, and the threads switch between them.
"""

import contextlib
import gc
import inspect
import json
import os
import random
import sys
import sysconfig
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, pairwise, product

import numpy as np
import pytest

from frameseal import (
    AuthenticationFailed,
    DataCryptor,
    Decryptor,
    Encryptor,
    FrameError,
    KeyExhausted,
    KeyRing,
    SenderMismatch,
    UnknownKey,
    _native,
)
from frameseal._native import SealedPayloads, Secret, SenderBindings
from support.paths import VECTORS
from support.threads import at_once, beside, is_free_threaded

PROFILES = ["livekit", "videosdk", "jitsi", "nextcloud", "stream", "sframe"]
THREADS = 8
FRAMES = 200
# Lengths on both sides of the thresholds: the AEAD under the ring's lock, and the release of the GIL.
SIZES = [20] * 10 + [1_000] * 5 + [9_000, 70_000]


@pytest.fixture
def key() -> bytes:
    """A key that no other test uses: in SFrame one ring of the process seals under it."""
    return os.urandom(32)


def ring(key: bytes, profile: str = "livekit", **options) -> KeyRing:
    made = KeyRing(profile, **options)
    made.set_key(key)
    return made


def nonce(sealed: bytes, profile: str) -> bytes:
    """The part of a sealed frame that determines its nonce: the IV, or KID and CTR."""
    if profile == "sframe":
        lengths = [(sealed[0] >> shift & 7) + 1 if sealed[0] >> shift & 8 else 0 for shift in (4, 0)]
        return sealed[: 1 + sum(lengths)]
    if profile == "stream":
        return sealed[-20:-8]
    return sealed[-2 - sealed[-2] : -2]


def frame(number: int, size: int = 20) -> bytes:
    return b"\x78" + number.to_bytes(8, "big") + bytes(size)


def joined(frames: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(frames), np.uint8), np.cumsum([0, *map(len, frames)]).astype(np.int64)


def parted(data: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    return [data[start:end].tobytes() for start, end in pairwise(offsets)]


def outcomes(call: Callable[[bytes], object], frames: Iterable[bytes]) -> Counter[str]:
    """How often a call returned ("opened"), and how often it raised each class of `FrameError`."""
    counts: Counter[str] = Counter()
    for each in frames:
        try:
            call(each)
            counts["opened"] += 1
        except FrameError as error:
            counts[type(error).__name__] += 1
    return counts


def test_every_class_of_the_module_is_used_by_threads_here():
    classes = {name for name, thing in vars(_native).items() if inspect.isclass(thing)}
    ciphers = {"DataCryptor", "Decryptor", "Encryptor"}
    assert classes == ciphers | {"DerivedKey", "KeyRing", "SealedPayloads", "Secret", "SenderBindings"}
    text = inspect.getsource(sys.modules[__name__])
    assert all(f"{name}(" in text for name in classes - {"DerivedKey"})
    assert "derive_key(" in text and "derive_ratchet(" in text


def test_a_python_that_was_built_without_a_gil_runs_without_one():
    # It brings the GIL back if one of its modules does not declare that it needs none.
    assert is_free_threaded() == bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


# --- nonces and counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["one-encryptor", "an-encryptor-each"])
@pytest.mark.parametrize("profile", PROFILES)
def test_no_two_frames_share_a_nonce_and_every_frame_is_counted(key, profile, own):
    keys = ring(key, profile)
    encryptors = [Encryptor(keys, "opus") for _ in range(THREADS if own else 1)] * (1 if own else THREADS)

    def seal(encryptor: Encryptor, thread: int) -> list[bytes]:
        numbers = count(thread << 32)
        sealed = [encryptor.encrypt(frame(next(numbers), SIZES[n % len(SIZES)])) for n in range(FRAMES)]
        batch = joined([frame(next(numbers), 100) for _ in range(FRAMES)])
        return sealed + parted(*encryptor.encrypt_batch(*batch, 2))

    done = at_once([partial(seal, encryptor, thread) for thread, encryptor in enumerate(encryptors)])
    sealed = [each for of_thread in done for each in of_thread]
    assert len({nonce(each, profile) for each in sealed}) == len(sealed) == 2 * THREADS * FRAMES
    opened = [Decryptor(ring(key, profile), "opus", 0).decrypt(each) for each in sealed]
    assert len({each[:9] for each in opened}) == len(opened)
    stats = [encryptor.stats() for encryptor in set(encryptors)]
    assert sum(each["frames"] for each in stats) == keys.frames_sealed() == len(sealed)
    assert sum(each["bytes"] for each in stats) == sum(map(len, opened))


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_frames_and_packets_of_one_ring_share_no_nonce(key, profile):
    keys = ring(key, profile)
    data = [DataCryptor(keys) for _ in range(2)]

    def packets(cryptor: DataCryptor) -> list[bytes]:
        # Two bytes, the key index and the IV; or an SFrame.
        whole = [cryptor.encrypt_packet(b"a message") for _ in range(FRAMES)]
        if profile == "sframe":
            return [nonce(each, profile) for each in whole]
        return [each[3:15] for each in whole] + [cryptor.encrypt(b"parts")[0] for _ in range(FRAMES)]

    def frames(encryptor: Encryptor) -> list[bytes]:
        return [nonce(encryptor.encrypt(b"\x78 a frame"), profile) for _ in range(FRAMES)]

    works = [partial(packets, data[thread % 2]) for thread in range(4)]
    works += [partial(frames, Encryptor(keys, "opus")) for _ in range(4)]
    nonces = [each for of_thread in at_once(works) for each in of_thread]
    assert len(set(nonces)) == len(nonces) == keys.frames_sealed()
    assert sum(cryptor.stats()["sealed"] for cryptor in data) == len(nonces) - 4 * FRAMES


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
def test_a_key_seals_exactly_as_many_frames_as_its_limit_allows(key, profile):
    keys = ring(key, profile, usage_limit=500)
    encryptor = Encryptor(keys, "opus")

    def seal(_: int) -> list[bytes]:
        sealed = []
        with contextlib.suppress(KeyExhausted):
            while True:
                sealed.append(nonce(encryptor.encrypt(b"\x78 a frame"), profile))
        return sealed

    nonces = [each for of_thread in at_once([partial(seal, n) for n in range(THREADS)]) for each in of_thread]
    assert len(set(nonces)) == len(nonces) == 500
    stats = encryptor.stats()
    assert (stats["frames"], stats["key_frames"], stats["key_exhausted"]) == (500, 500, THREADS)


# --- replays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20, 70_000], ids=["short", "without-the-gil"])
@pytest.mark.parametrize("profile", PROFILES)
def test_each_frame_opens_once_however_many_threads_offer_it(key, profile, size):
    encryptor = Encryptor(ring(key, profile), "opus")
    sealed = [encryptor.encrypt(frame(number, size)) for number in range(FRAMES if size < 100 else 20)]
    decryptor = Decryptor(ring(key, profile), "opus", replay_window=4 * len(sealed))

    def opens(thread: int) -> Counter[str]:
        order = random.Random(thread).sample(sealed, len(sealed))
        if thread % 2 == 0:
            return outcomes(decryptor.decrypt, order)
        _, _, ok = decryptor.decrypt_batch(*joined(order), threads=2)
        return Counter(opened=int(ok.sum()), ReplayedFrame=int((~ok).sum()))

    total = sum(at_once([partial(opens, thread) for thread in range(THREADS)]), Counter())
    assert total == {"opened": len(sealed), "ReplayedFrame": (THREADS - 1) * len(sealed)}
    stats = decryptor.stats()
    assert (stats["frames"], stats["replayed"]) == (len(sealed), (THREADS - 1) * len(sealed))
    assert stats["bytes"] == len(sealed) * len(frame(0, size))
    assert stats["malformed"] == stats["unknown_key"] == stats["authentication_failed"] == 0


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_each_packet_opens_once_however_many_threads_offer_it(key, profile):
    sender, receiver = DataCryptor(ring(key, profile)), DataCryptor(ring(key, profile))
    packets = [sender.encrypt_packet(b"message %d" % number) for number in range(FRAMES)]
    works = [partial(outcomes, receiver.decrypt_packet, random.Random(n).sample(packets, FRAMES)) for n in range(8)]
    assert sum(at_once(works), Counter()) == {"opened": FRAMES, "ReplayedFrame": 7 * FRAMES}
    assert (receiver.stats()["opened"], receiver.stats()["replayed"]) == (FRAMES, 7 * FRAMES)


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_the_frames_of_other_implementations_open_in_every_thread():
    made = [json.loads((VECTORS / f"{name}.json").read_text())["frames"] for name in ("livekit", "livekit-native")]
    cases = [case for frames in made for case in frames]
    secrets = [Secret(each) for each in ("my-shared-secret", b"my-shared-secret", bytes(range(32)))]
    sizes = {"livekit": (128, 256), "videosdk": (128,)}

    def rings() -> list[KeyRing]:
        # The passphrase is derived once for each ring, and the ring has it under every key id of the vectors.
        found = [
            (KeyRing(profile, key_ring_size=256, key_size=size), secret)
            for profile in sizes
            for size in sizes[profile]
            for secret in secrets
        ]
        for (keys, secret), key_id in product(found, sorted({case["key_index"] for case in cases})):
            keys.set_secret(secret, key_id)
        return [keys for keys, _ in found]

    def opens(case: dict[str, str], keys: KeyRing) -> bool:
        try:
            opened = Decryptor(keys, case["codec"]).decrypt(bytes.fromhex(case["wire_hex"]))
        except AuthenticationFailed:
            return False
        return opened.hex() == case.get("decoded_hex", case["clear_hex"])

    shared = rings()
    found = at_once([lambda: [sum(opens(case, keys) for keys in shared) for case in cases]] * 4)
    assert found == [[1] * len(cases)] * 4 and len(cases) == 37


# --- keys that change meanwhile --------------------------------------------------------------------------------------


def change_keys(keys: KeyRing, key: bytes, key_id: int) -> None:
    """Set, derive, ratchet, choose and remove keys, and query everything. Under key id 0 there is *key* or none."""
    keys.set_key(bytes([key_id]) * 32, key_id)
    keys.set_secret(Secret(bytes([key_id]) * 32), key_id)
    keys.sending_key_id = key_id
    with contextlib.suppress(ValueError):  # another thread has removed the key
        keys.derive_ratchet(key_id).install()
        keys.ratchet(key_id)
        keys.derive_ratchet_step(key_id)
        keys.fingerprint(key_id)
        keys.export_key(key_id)
        keys.frames_sealed(key_id)
    keys.sending_key_id = 0
    keys.remove_key(key_id)
    keys.remove_key(0)
    keys.derive_key(Secret(key), 0).install()
    assert len(keys.fingerprints()) <= 4 >= len(keys.key_ids)
    assert repr(keys) and keys.generation > 0 and keys.can_encrypt in (False, True)
    assert keys.pending_ratchets == [] and keys.ratcheted_key_id is None
    gc.collect()  # stops all threads of a free-threaded Python
    time.sleep(1e-4)  # lets others use the key


@pytest.mark.parametrize("fallback", [False, True], ids=["alone", "with-a-fallback"])
def test_keys_that_change_meanwhile_cost_frames_but_neither_nonces_nor_counts(key, fallback):
    keys = KeyRing(
        "livekit",
        ratchet_window=2,
        allow_export=True,
        fallback=ring(key[::-1], allow_export=True) if fallback else None,
    )
    keys.set_key(key)
    encryptor, numbers = Encryptor(keys, "opus"), count()

    def seal(thread: int) -> list[bytes]:
        sealed: list[bytes] = []
        for n in range(4 * FRAMES):
            with contextlib.suppress(UnknownKey):
                sealed.append(encryptor.encrypt(frame(thread << 32 | n, SIZES[n % len(SIZES)])))
        return sealed

    works = [partial(seal, thread) for thread in range(4)]
    done = beside(works, *[lambda: change_keys(keys, key, 1 + next(numbers) % 3)] * 2)
    sealed = [each for of_thread in done for each in of_thread]
    assert len({nonce(each, "livekit") for each in sealed}) == len(sealed)
    stats = encryptor.stats()
    assert (stats["frames"], stats["unknown_key"]) == (len(sealed), 16 * FRAMES - len(sealed))
    if not keys.key_ids:
        keys.set_key(key)
    under_zero = [each for each in sealed if each[-1] == 0]
    opened: Counter[bytes] = Counter()
    for each, own in product(under_zero, (key, key[::-1])):
        with contextlib.suppress(AuthenticationFailed):
            Decryptor(ring(own), "opus").decrypt(each)
            opened[own] += 1
    assert opened.total() == len(under_zero) and (fallback or not opened[key[::-1]])
    assert keys.frames_sealed(0) == opened[key]


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_frames_that_arrive_while_keys_change_open_to_the_right_bytes_and_all_are_counted(key, profile):
    seal, receiving = Encryptor(ring(key, profile), "opus").encrypt, ring(key, profile)
    bodies = {seal(body): body for body in (frame(n, SIZES[n % len(SIZES)]) for n in range(FRAMES))}
    decryptor = Decryptor(receiving, "opus", replay_window=0)

    def right(sealed: bytes) -> None:
        assert decryptor.decrypt(sealed) == bodies[sealed]

    def change() -> None:
        receiving.remove_key(0)
        receiving.set_key(key)
        receiving.set_key(bytes(32), 1)
        time.sleep(1e-4)  # lets others use the key

    works = [partial(outcomes, right, random.Random(n).choices([*bodies], k=4 * FRAMES)) for n in range(4)]
    total = sum(beside(works, change, change), Counter())
    assert total.total() == 16 * FRAMES and set(total) <= {"opened", "UnknownKey"}
    stats = decryptor.stats()
    assert (stats["frames"], stats["unknown_key"]) == (total["opened"], total["UnknownKey"])
    receiving.set_key(key)
    assert outcomes(right, bodies) == {"opened": FRAMES}


def test_keys_that_threads_set_are_all_there_and_every_change_advances_the_generation():
    keys, seen = KeyRing("livekit", key_ring_size=64), []

    def set_own(thread: int) -> None:
        for n in range(8):
            keys.set_key(bytes([thread]) * 32, 8 * thread + n)

    before = keys.generation
    beside([partial(set_own, thread) for thread in range(THREADS)], lambda: seen.append(keys.generation))
    assert keys.key_ids == list(range(64)) and len(keys.fingerprints()) == 64
    assert keys.generation >= before + 64 and seen == sorted(seen)


def test_a_removed_key_leaves_with_the_last_of_its_users_and_the_ring_with_its_ciphers(key):
    keys = ring(key)
    gone = weakref.ref(keys)
    sealed = Encryptor(keys, "opus").encrypt(b"\x78 a frame")

    def uses(keys: KeyRing) -> None:
        for _ in range(50):
            assert Decryptor(keys, "opus").decrypt(sealed) == b"\x78 a frame"
            Encryptor(keys, "opus").encrypt(b"\x78")
            DataCryptor(keys).encrypt_packet(b"a message")

    at_once([partial(uses, keys)] * THREADS)
    del keys
    gc.collect()
    assert gone() is None


# --- derived keys and ratchets ---------------------------------------------------------------------------------------


def test_a_derived_key_is_installed_by_exactly_one_thread(key):
    for number in range(30):
        keys = KeyRing("livekit")
        derived = keys.derive_key(Secret(key), number % 16)

        def install(derived=derived) -> bool:
            try:
                return derived.install()
            except ValueError as error:
                assert "installed before" in str(error)
                return False

        assert sum(at_once([install] * 4)) == 1
        assert keys.key_ids == [number % 16]


def test_ratchet_steps_of_many_threads_are_as_many_as_the_steps_of_one(key):
    keys, alone = ring(key), ring(key)

    def steps() -> int:
        for _ in range(10):
            keys.ratchet(0)
        # A step fails if another thread took it meanwhile.
        return 10 + sum(keys.derive_ratchet(0).install() for _ in range(10))

    for _ in range(sum(at_once([steps] * 4))):
        alone.ratchet(0)
    assert keys.fingerprint(0) == alone.fingerprint(0)


def test_ratchet_steps_of_sframe_have_ids_of_their_own_and_the_last_one_seals(key):
    keys = KeyRing("sframe", ratchet_bits=8)
    keys.set_key(key, 0)

    def steps() -> None:
        for _ in range(10):
            with contextlib.suppress(ValueError):  # the key is gone two steps later
                keys.ratchet(keys.sending_key_id)

    at_once([steps] * 4)
    last = keys.sending_key_id
    assert 10 <= last <= 40
    alone = KeyRing("sframe", ratchet_bits=8)
    alone.set_key(key, 0)
    for step in range(last):
        assert alone.ratchet(step) == step + 1
    assert keys.fingerprint(last) == alone.fingerprint(last) and last in keys.key_ids


def test_ratchet_steps_of_a_passphrase_that_threads_derive_ahead_are_found():
    sender, keys = KeyRing("livekit"), KeyRing("livekit", ratchet_window=3)
    for each in (sender, keys):
        each.set_passphrase("a passphrase")

    def ahead() -> None:
        while keys.derive_ratchet_step(0):
            pass

    at_once([ahead] * 4)
    for _ in range(3):
        sender.ratchet()
    sealed = Encryptor(sender, "opus").encrypt(b"\x78 a frame")
    decryptors = [Decryptor(keys, "opus") for _ in range(4)]
    assert set(at_once([partial(each.decrypt, sealed) for each in decryptors])) == {b"\x78 a frame"}
    assert keys.ratcheted_key_id == 0 and keys.fingerprint(0) == sender.fingerprint(0)
    assert sum(each.stats()["ratchets"] for each in decryptors) == 3


def test_epochs_that_one_thread_sets_never_confuse_the_frames_of_others(key):
    fields = {"epoch_bits": 4, "sender_bits": 1}
    senders, keys = KeyRing("sframe"), KeyRing("sframe")
    for each in (senders, keys):
        each.set_epoch(0, key, sender_index=int(senders is each), **fields)
    encryptor, decryptor, epochs = Encryptor(senders), Decryptor(keys), count(1)

    def next_epoch() -> None:
        epoch = next(epochs)
        secret = epoch.to_bytes(4, "big") + key
        for each in (keys, senders):  # receivers first, as a group does
            each.set_epoch(epoch, secret, sender_index=int(senders is each), **fields)

    def circle(thread: int) -> Counter[str]:
        def opens(body: bytes) -> None:
            assert decryptor.decrypt(encryptor.encrypt(body)) == body

        return outcomes(opens, [frame(thread << 32 | n) for n in range(FRAMES)])

    total = sum(beside([partial(circle, thread) for thread in range(4)], next_epoch), Counter())
    # A frame whose thread paused during two epochs finds its key erased.
    assert total["opened"] and set(total) <= {"opened", "UnknownKey", "AuthenticationFailed", "ReplayedFrame"}
    stats = decryptor.stats()
    assert stats["frames"] == total["opened"] and encryptor.stats()["frames"] == 4 * FRAMES


def test_secrets_that_threads_share_set_the_same_key_everywhere():
    secret = Secret("caf\u00e9 au lait")

    def use() -> tuple[bytes, int, bool]:
        keys = KeyRing("jitsi" if secret.with_other_kdf().is_passphrase else "livekit")
        keys.set_secret(secret)
        return keys.fingerprint(0), len(secret.spellings()), secret.is_passphrase

    assert len(set(at_once([use] * 4))) == 1


@pytest.mark.parametrize("codec", ["opus", "vp8", "h264"])
def test_a_payload_is_admitted_from_its_sealing_on_however_many_threads_seal(key, codec):
    payload = {"opus": b"\x78", "vp8": b"\x10\x10", "h264": b"\x65\x88"}[codec] + bytes(range(1, 60))
    keys, sealed, header = ring(key), SealedPayloads(3 * FRAMES), b"\x80" + bytes(11)

    def seal() -> bool:
        encryptor = Encryptor(keys, codec)
        made = (encryptor.encrypt_payloads([payload], sealed) for _ in range(FRAMES))
        return all(sealed.holds(each) and sealed.admits(header + each[0]) for each in made)

    assert all(beside([seal] * 3, lambda: sealed.admits(header + payload), lambda: sealed.holds([payload])))
    assert not sealed.admits(header + payload) and len(sealed) == 3 * FRAMES
    sealed.clear()
    assert len(sealed) == 0


# --- whose frames, and which of a server -----------------------------------------------------------------------------


def test_a_senders_key_is_bound_to_exactly_one_participant(key):
    keys, bindings = KeyRing("sframe", shared=True), SenderBindings()
    keys.set_key(key)
    for _ in range(10):
        room = KeyRing("sframe", shared=True)
        room.set_key(key)
        encryptor = Encryptor(room, "opus")
        frames = [encryptor.encrypt(frame(n)) for n in range(THREADS)]
        tracks = [Decryptor(keys, "opus", senders=bindings, participant_id=f"participant {n}") for n in range(THREADS)]
        works = [partial(outcomes, track.decrypt, [sealed]) for track, sealed in zip(tracks, frames, strict=True)]
        total = sum(beside(works, lambda: bindings.release("a stranger")), Counter())
        assert total == {"opened": 1, SenderMismatch.__name__: THREADS - 1}
        assert sum(track.stats()["sender_mismatch"] for track in tracks) == THREADS - 1


def test_a_servers_trailer_may_change_while_frames_arrive_and_each_frame_is_counted_once(key):
    blank, trailers = b"\xf8\xff\xfe" + bytes(77), [b"LK-ROCKS", b"LK-ROLLS", None]
    encryptor, decryptor = Encryptor(ring(key), "opus"), Decryptor(ring(key), "opus", sif_trailer=trailers[0])
    numbers = count()

    def opens(_: int) -> Counter[str]:
        frames = []
        for n in range(FRAMES):
            frames += [blank + trailers[n % 2], encryptor.encrypt(frame(n))]
        return outcomes(decryptor.decrypt, frames)

    def change() -> None:
        decryptor.sif_trailer = trailers[next(numbers) % 3]
        assert decryptor.sif_trailer in trailers
        assert decryptor.without_sif_frames(blank) == blank and Decryptor.holds_blank("livekit", "opus", blank) is False

    total = sum(beside([partial(opens, thread) for thread in range(4)], change), Counter())
    stats = decryptor.stats()
    assert stats["frames"] == 4 * FRAMES
    assert stats["frames"] + stats["sif_frames"] == total["opened"] and stats["sif_frames"] == decryptor.sif_frames
    others = stats["sif_frames_refused"], stats["malformed"], stats["unknown_key"], stats["authentication_failed"]
    assert sum(others) + total["opened"] == total.total() == 8 * FRAMES


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_the_counters_never_runs_backwards(key):
    keys = ring(key)
    encryptor, decryptor, data = Encryptor(keys, "opus"), Decryptor(ring(key), "opus"), DataCryptor(keys)
    snapshots: list[list[dict[str, int]]] = []

    def circle() -> None:
        for n in range(FRAMES):
            decryptor.decrypt(encryptor.encrypt(frame(n)))
            data.decrypt_packet(data.encrypt_packet(b"a message"))
            with contextlib.suppress(FrameError):
                decryptor.decrypt(b"\x78 nothing sealed \0")

    def look() -> None:
        snapshots.append([each.stats() for each in (encryptor, decryptor, data)])

    beside([circle] * 4, look)
    for before, after in pairwise([*snapshots, [each.stats() for each in (encryptor, decryptor, data)]]):
        assert all(old[name] <= new[name] for old, new in zip(before, after, strict=True) for name in old)
    assert encryptor.stats()["frames"] == decryptor.stats()["frames"] == data.stats()["opened"] == 4 * FRAMES


# --- buffers of the caller -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["append", "clear", "shrink"])
def test_a_buffer_cannot_be_resized_while_a_batch_reads_it(key, change, monkeypatch):
    data, offsets = bytearray(frame(0) * 10), np.arange(11, dtype=np.int64) * len(frame(0))
    changes = {"append": lambda: data.append(1), "clear": data.clear, "shrink": lambda: data.__delitem__(slice(0, 1))}
    empty, refused = np.empty, []

    def resize() -> None:
        with pytest.raises(BufferError):
            changes[change]()
        refused.append(True)

    def empty_meanwhile(*arguments):
        # The batch makes its output array between the two times at which it reads the frames.
        at_once([resize])
        return empty(*arguments)

    monkeypatch.setattr(np, "empty", empty_meanwhile)
    encryptor, decryptor = Encryptor(ring(key), "opus"), Decryptor(ring(key), "opus")
    sealed = parted(*encryptor.encrypt_batch(data, offsets))
    assert [decryptor.decrypt(each) for each in sealed] == [frame(0)] * 10 and refused == [True]
    changes[change]()


def test_a_buffer_that_changes_during_a_call_seals_to_a_frame_of_its_length(key):
    data, contents = bytearray(b"\xaa" * 5_000), [b"\xaa" * 5_000, b"\x55" * 5_000]
    encryptor, decryptor, numbers = Encryptor(ring(key), "opus"), Decryptor(ring(key), "opus"), count()

    def change() -> None:
        data[:] = contents[next(numbers) % 2]

    def seal() -> None:
        for _ in range(FRAMES):
            opened = decryptor.decrypt(encryptor.encrypt(data))
            assert len(opened) == 5_000 and set(opened) <= {0xAA, 0x55}
            assert is_free_threaded() or opened in contents

    beside([seal], change)


# CPython 3.13 without a GIL does not guard a bytearray itself: two threads that use one may crash it.
GUARDS_BYTEARRAYS = not is_free_threaded() or sys.version_info >= (3, 14)


@pytest.mark.parametrize(
    "kind", ["frame", "packet", "key", "batch"] if GUARDS_BYTEARRAYS else [], ids=lambda kind: f"as-a-{kind}"
)
def test_a_buffer_that_is_resized_between_and_during_calls_crashes_none(key, kind):
    data, keys = bytearray(frame(0)), ring(key)
    encryptor, decryptor = Encryptor(keys, "opus"), Decryptor(ring(key), "opus")
    packets = DataCryptor(keys)

    def change() -> None:
        with contextlib.suppress(BufferError):
            data.extend(bytes(100))
            del data[1_000:]

    def use() -> None:
        for _ in range(FRAMES):
            if kind == "frame":
                assert decryptor.decrypt(encryptor.encrypt(data)).startswith(frame(0))
            elif kind == "packet":
                assert packets.decrypt_packet(packets.encrypt_packet(data)).startswith(frame(0))
            elif kind == "key":
                KeyRing("livekit").set_key(data)
            else:
                sealed, _ = encryptor.encrypt_batch(data, np.array([0, len(frame(0))], np.int64))
                assert decryptor.decrypt(sealed) == frame(0)

    beside([use], change)


def test_batches_of_many_threads_write_only_to_their_own_arrays(key):
    encryptor, decryptor = Encryptor(ring(key), "opus"), Decryptor(ring(key), "opus", replay_window=0)

    def circle(thread: int) -> None:
        frames = [frame(thread << 32 | n, n % 200) for n in range(300)]
        out, back = np.zeros(200_000, np.uint8), np.zeros(200_000, np.uint8)
        sealed, offsets = encryptor.encrypt_batch(*joined(frames), 3, out=out)
        opened, offsets, ok = decryptor.decrypt_batch(sealed, offsets, 3, out=back)
        assert ok.all() and parted(opened, offsets) == frames

    at_once([partial(circle, thread) for thread in range(THREADS)])


# --- functions -------------------------------------------------------------------------------------------------------


def test_the_tables_of_the_core_read_the_same_in_every_thread():
    def read() -> list[dict[str, object]]:
        return [_native.codec_info(codec) for codec in _native.CODECS] + [
            _native.profile_info(profile) for profile in _native.PROFILES
        ]

    first, *others = at_once([read] * THREADS)
    assert all(other == first for other in others)


# --- the helper, with faults that it must find -----------------------------------------------------------------------


def test_threads_that_block_each_other_are_found_and_an_error_is_raised():
    with pytest.raises(TimeoutError, match="1 of 2 threads"):
        at_once([threading.Event().wait, lambda: None], max_seconds=0.2)
    with pytest.raises(ZeroDivisionError):
        at_once([lambda: 1 / 0, os.getpid])


def test_a_counter_without_a_lock_is_found_to_repeat_a_number():
    class Unlocked:
        number = 0

        def draw(self) -> int:
            drawn = self.number
            time.sleep(0)  # another thread may draw here
            self.number = drawn + 1
            return drawn

    counter = Unlocked()
    drawn = at_once([lambda: [counter.draw() for _ in range(FRAMES)]] * THREADS)
    assert len({number for of_thread in drawn for number in of_thread}) < THREADS * FRAMES
