"""A child that was forked while other threads were inside can use everything, and repeats no nonce of its parent."""

import asyncio
import gc
import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import frameseal
import frameseal.keys.provider
from frameseal import (
    DataCryptor,
    Decryptor,
    E2EEManager,
    E2EEState,
    Encryptor,
    ExternalE2EEKeyProvider,
    KeyProvider,
    KeyRing,
    KeyRotator,
    Profile,
)
from frameseal._native import profile_info
from frameseal.aiortc.lock import hook
from frameseal.frame_cryptor import CallCryptor
from frameseal.inspection import readings
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY
from support.forks import busy, children, in_a_child
from unit.test_datachannel import pair

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")

FRAMES = 300


class Track:
    """One track's ciphers, with a ring of their own; notes the IVs that it seals under."""

    def __init__(self, **options) -> None:
        self.ring = KeyRing("livekit", ratchet_window=2, **options)
        self.ring.set_key(bytes(range(32)))
        self.encryptor = Encryptor(self.ring, "opus")
        self.decryptor = Decryptor(self.ring, "opus", replay_window=1000)
        self.data = DataCryptor(self.ring)
        # Threads may share a list without a GIL, but in CPython 3.13 no bytearray.
        self.ivs: list[bytes] = []

    def frame(self, size: int) -> bytes:
        sealed = self.encryptor.encrypt(b"\x78" + bytes(size))
        self.ivs.append(sealed[-14:-2])
        return sealed

    def batch(self, threads: int | None) -> None:
        data = np.zeros(FRAMES * 1000, np.uint8)
        sealed, offsets = self.encryptor.encrypt_batch(data, np.arange(FRAMES + 1) * 1000, threads)
        self.ivs.append(sealed.reshape(FRAMES, -1)[:, -14:-2].tobytes())
        sealed[500::50_000] ^= 1  # frames that fail leave traces in the crypto library
        self.decryptor.decrypt_batch(sealed, offsets, threads)

    def keys(self, key: str | bytes) -> None:
        if isinstance(key, str):
            self.ring.set_passphrase(key, 1)
        else:
            self.ring.set_key(key, 1)
        self.ring.ratchet(1)
        self.ring.derive_ratchet_step(1)
        self.ring.remove_key(1)

    def goes_on(self) -> bytes:
        """Use everything again, in a child. Return the IVs."""
        self.ivs = []
        for size in (100, 1_000_000):
            assert self.decryptor.decrypt(self.frame(size)) == b"\x78" + bytes(size)
        assert self.data.decrypt_packet(self.data.encrypt_packet(b"message")) == b"message"
        self.batch(2)
        self.keys(os.urandom(32))
        with pytest.raises(frameseal.UnknownKey):
            self.decryptor.decrypt(self.frame(10)[:-1] + b"\x09")
        self.ring.set_key(os.urandom(32))
        assert self.decryptor.decrypt(self.frame(100)) == b"\x78" + bytes(100)
        assert self.ring.key_ids == [0] and self.ring.frames_sealed() > 0 and self.ring.sending_key_id == 0
        assert self.encryptor.stats()["frames"] and self.decryptor.stats()["frames"]
        return b"".join(self.ivs)


def assert_no_nonce_twice(track: Track, childrens: list[bytes]) -> None:
    ivs = np.frombuffer(b"".join([*childrens, *track.ivs]), "V12")
    assert len(np.unique(ivs)) == len(ivs) > len(childrens) * FRAMES


@pytest.mark.parametrize("threads", [1, 4, None])
def test_a_child_forked_during_batches_goes_on(threads):
    track = Track()
    assert_no_nonce_twice(track, children(track.goes_on, lambda: track.batch(threads), lambda: track.batch(2)))


def test_a_child_forked_during_long_frames_and_messages_goes_on():
    track = Track()

    def long_frames() -> None:
        track.decryptor.decrypt(track.frame(1_000_000))

    def long_messages() -> None:
        track.data.decrypt_packet(track.data.encrypt_packet(bytes(200_000)))

    assert_no_nonce_twice(track, children(track.goes_on, long_frames, long_frames, long_messages))


@pytest.mark.parametrize("key", [bytes(32), "a passphrase"], ids=["raw", "passphrase"])
def test_a_child_forked_while_keys_are_set_and_ratcheted_goes_on(key):
    track = Track()

    def other_tracks() -> None:
        Track().keys(bytes(32))

    assert_no_nonce_twice(track, children(track.goes_on, lambda: track.keys(key), other_tracks))


class Call:
    """Everything that a program has of one call, in one process."""

    def __init__(self, profile: Profile, key: str | bytes = KEY) -> None:
        ratchet_window = 2 if has_ratchet(profile) else 0
        self.keys = KeyProvider(ratchet_window=ratchet_window, allow_export=True)
        self.keys.set_shared_key(key)
        # What a ring has sealed under SFrame it does not open: who receives has a provider of their own.
        theirs = KeyProvider(ratchet_window=ratchet_window)
        theirs.set_shared_key(key)
        self.manager = E2EEManager(self.keys, profile, hold_frames=8)
        self.others = E2EEManager(theirs, profile, hold_frames=8)
        self.cryptor, self.others_cryptor = CallCryptor(self.keys, profile), CallCryptor(theirs, profile)
        self.sender = self.manager.sender_transform("alice", "audio", "opus", track_id="sent")
        self.receiver = self.others.receiver_transform("alice", "audio", "opus", track_id="received")
        self.channels = pair()
        self.profile = profile
        self.nonces: list[bytes] = []
        self.numbers = itertools.count()
        self.seal()

    def seal(self) -> bytes:
        sealed = self.sender.encrypt(AUDIO)
        assert sealed is not None
        self.nonces.append(nonce(sealed, self.profile))
        return sealed

    def set_keys(self, key: str | bytes) -> None:
        key_id = 1 + next(self.numbers) % 3
        self.keys.set_shared_key(key, key_id, send=False)
        self.keys.set_key("bob", key, key_id)
        if has_ratchet(self.profile) and self.profile is not Profile.SFRAME:
            self.keys.ratchet("bob", key_id)
        self.keys.remove("bob")
        self.keys.remove_shared_key(key_id)

    def look(self) -> None:
        """Ask everything, and change what is no key."""
        number = next(self.numbers)
        who = f"guest {number % 5}"
        self.keys.ring_for(self.profile, who)
        assert 0 in self.keys.key_ids and self.keys.sending_key_id() == 0 and self.keys.frames_sealed() > 0
        assert self.keys.key_ids_of(who) == [] and self.keys.secrets_of(who) and repr(self.keys)
        assert self.manager.is_e2ee_enabled
        self.keys.on("key-set", print)
        self.keys.remove_listener("key-set", print)
        self.manager.on("e2ee-stalled", print)
        self.manager.remove_listener("e2ee-stalled", print)
        self.channels[0].on("message-refused", print)
        self.channels[0].remove_listener("message-refused", print)
        self.receiver.open(self.seal(), number)
        self.receiver.decrypt(AUDIO + bytes(40))
        self.receiver.decrypt(self.seal()[:-1] + b"\x09")
        assert self.manager.state("alice", "audio", track_id="sent") is E2EEState.EncryptionSuccess
        guest = self.manager.receiver_transform(who, "video", "vp8", track_id=who)
        guest.decrypt(bytes(100))
        self.manager.report_internal_error(who, "video", "a test")
        self.manager.remove_participant(who)
        assert self.manager.tracks()
        frame = {"participant_id": "alice", "kind": "audio", "codec": "opus", "track_id": who}
        sealed = self.cryptor.encrypt(AUDIO, **frame)
        assert self.others_cryptor.decrypt(sealed, **frame) == AUDIO
        self.nonces.append(nonce(sealed, self.profile))
        for cryptor in (self.cryptor, self.others_cryptor):
            cryptor.remove_track("alice", "audio", track_id=who)

    def goes_on(self) -> bytes:
        """Use everything again, in a child. Return the nonces of the frames that it seals."""
        self.nonces: list[bytes] = []
        self.look()
        self.set_keys(os.urandom(32))
        assert self.receiver.decrypt(self.seal()) == AUDIO
        assert asyncio.run(self.events()) == [("key-set", None), ("e2ee-state-change", "dora")]
        return b"".join(self.nonces)

    async def events(self) -> list[tuple[str, str | None]]:
        """Hear of what happens from now on, on the loop of this process."""
        heard = []
        self.manager.bind_loop(asyncio.get_running_loop())
        await asyncio.sleep(0)  # what was kept until now
        self.keys.on("key-set", lambda event: heard.append(("key-set", event.participant_id)))
        self.manager.on("e2ee-state-change", lambda event: heard.append(("e2ee-state-change", event.participant_id)))
        self.keys.set_shared_key(OTHER_KEY, 9, send=False)
        self.manager.report_internal_error("dora", "audio", "a test")
        while len(heard) < 2:  # noqa: ASYNC110 - the test's own time limit ends it
            await asyncio.sleep(0)
        return heard


def has_ratchet(profile: Profile) -> bool:
    return profile_info(profile)["layout"] != "footer"


def nonce(frame: bytes, profile: Profile) -> bytes:
    """The IV, or the KID and CTR, of a sealed frame, in 16 bytes."""
    if profile is not Profile.SFRAME:
        return (frame[-20:-8] if profile is Profile.STREAM else frame[-14:-2]).ljust(16)
    (parts,) = (reading.parts for reading in readings.readings(frame, "opus") if reading.layout == "sframe")
    numbers = {part.name: int(part.note) for part in parts if part.name in ("KID", "CTR")}
    return numbers["KID"].to_bytes(8, "big") + numbers["CTR"].to_bytes(8, "big")


def assert_no_frame_shares_a_nonce(call: Call, childrens: list[bytes]) -> None:
    nonces = np.frombuffer(b"".join([*childrens, *call.nonces]), "V16")
    assert len(np.unique(nonces)) == len(nonces) > len(childrens)


PROFILES = [Profile.LIVEKIT, Profile.STREAM, Profile.SFRAME]
RAW = {"raw": KEY}
BOTH = {**RAW, "passphrase": "a passphrase"}


@pytest.mark.parametrize(
    ("profile", "key"),
    [
        pytest.param(profile, key, id=f"{profile}-{name}")
        for profile in PROFILES
        for name, key in (BOTH if profile_info(profile)["accepts_passphrases"] else RAW).items()
    ],
)
def test_a_child_forked_while_a_provider_sets_keys_goes_on(profile, key):
    call = Call(profile, key)
    childrens = children(call.goes_on, lambda: call.set_keys(key), call.seal)
    assert_no_frame_shares_a_nonce(call, childrens)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_child_forked_while_events_states_and_tracks_change_goes_on(profile):
    call = Call(profile)
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    call.manager.bind_loop(loop)
    try:
        childrens = children(call.goes_on, call.look, call.look)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        running.join()
        loop.close()
    assert_no_frame_shares_a_nonce(call, childrens)


LOCKS = (type(threading.Lock()), type(threading.RLock()))


def locks_of_the_package() -> dict[str, object]:
    """Every lock that an object or a module of the package has now, by name."""
    owners = [(name, vars(module)) for name, module in sys.modules.items() if name.startswith("frameseal")]
    gc.unfreeze()  # conftest.py excludes what imports made, and `get_objects` leaves it out
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith("frameseal") and hasattr(thing, "__dict__"):
            owners.append((f"{type(thing).__name__} {id(thing)}", vars(thing)))
    return {
        f"{owner}.{name}": value
        for owner, attributes in owners
        for name, value in list(attributes.items())
        if isinstance(value, LOCKS)
    }


@contextmanager
def held(locks: list[object]) -> Iterator[None]:
    """Have another thread hold *locks*."""
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        taken.set()
        release.wait()
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    try:
        yield
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_child_finds_every_lock_of_the_package_free(profile):
    call = Call(profile)
    locks = locks_of_the_package()
    expected = {
        "KeyProvider",
        "E2EEManager",
        "CallState",
        "KeyRequests",
        "RatchetSearch",
        "Diagnostician",
        "CallCryptor",
        "SealedDataChannel",
        "HookLock",
    }
    assert {name.partition(" ")[0] for name in locks} >= expected

    def child() -> bytes:
        assert [name for name, lock in locks_of_the_package().items() if lock is locks.get(name)] == []
        with hook.lock:
            return call.goes_on()

    with held(list({id(lock): lock for lock in locks.values()}.values())):
        written = in_a_child(child)
    assert_no_frame_shares_a_nonce(call, [written])
    call.look()  # and the parent's are its own


class LoopOfTheParent:
    """An event loop that notes who calls it, and in which process."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def is_closed(self) -> bool:
        return False

    def call_soon_threadsafe(self, *_) -> None:
        self.calls.append(os.getpid())


def test_a_child_leaves_the_loop_of_its_parent_alone_and_keeps_its_events_for_its_own():
    call, loop = Call(Profile.LIVEKIT), LoopOfTheParent()
    call.manager.bind_loop(loop)
    call.keys.set_shared_key(OTHER_KEY, 5, send=False)
    assert set(loop.calls) == {os.getpid()}
    so_far = len(loop.calls)

    def child() -> None:
        call.look()
        call.set_keys(os.urandom(32))
        call.receiver.decrypt(bytes(60) + b"\x0c\x00")
        assert call.manager.events_loop is call.keys.events_loop is None
        assert len(loop.calls) == so_far

        async def hear() -> list[str]:
            heard: list[str] = []
            call.keys.on("key-set", lambda event: heard.append(event.participant_id))
            call.manager.bind_loop(asyncio.get_running_loop())
            await asyncio.sleep(0)
            return heard

        assert asyncio.run(hear())[-2:] == [None, "bob"]

    in_a_child(child)
    call.keys.set_shared_key(OTHER_KEY, 5, send=False)
    assert len(loop.calls) == so_far + 1, "the parent goes on with it"


def test_a_diagnosis_and_a_search_of_the_parent_do_not_keep_the_child_from_its_own():
    call = Call(Profile.LIVEKIT)
    call.manager._call._diagnostician._busy = True
    call.manager._call._searches._searches[id(call.receiver.ring)] = None

    def child() -> None:
        assert not call.manager._call._diagnostician._busy and not call.manager._call._searches._searches

    in_a_child(child)


class HaltingRing:
    """A ring at whose removal of a key a thread waits; stands in for `KeyRing` in the provider."""

    halted, may_go_on = threading.Event(), threading.Event()

    def __init__(self, *arguments, **options) -> None:
        self.ring = KeyRing(*arguments, **options)

    def __getattr__(self, name: str):
        return getattr(self.ring, name)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self if name == "ring" else self.ring, name, value)

    def remove_key(self, key_id: int) -> None:
        if self.ring.profile == "videosdk" and threading.current_thread() is not threading.main_thread():
            self.halted.set()
            self.may_go_on.wait()
        self.ring.remove_key(key_id)


def test_a_removal_that_a_fork_has_cut_in_two_is_completed_by_the_child(monkeypatch):
    monkeypatch.setattr(frameseal.keys.provider, "KeyRing", HaltingRing)
    keys = ExternalE2EEKeyProvider()
    for key_id in range(2):
        keys.set_shared_key(KEY, key_id)
    rings = [keys.ring_for(profile, "alice") for profile in (Profile.LIVEKIT, Profile.VIDEOSDK)]
    removal = threading.Thread(target=keys.remove)
    removal.start()
    assert HaltingRing.halted.wait(60)

    def child() -> None:
        for ring in rings:
            ring.ring.can_encrypt  # noqa: B018 - neither hangs nor raises
        keys.remove()
        assert [ring.key_ids for ring in rings] == [[], []] and keys.key_ids == []
        keys.set_shared_key(OTHER_KEY)
        assert [ring.key_ids for ring in rings] == [[0], [0]]

    try:
        in_a_child(child)
    finally:
        HaltingRing.may_go_on.set()
        removal.join()
    assert [ring.key_ids for ring in rings] == [[], []]


async def test_a_rotator_stays_with_its_parent_and_a_child_says_so_and_forgets_what_is_retired():
    keys = ExternalE2EEKeyProvider()
    keys.set_shared_key(KEY)

    async def hand_out(key: bytes, key_id: int) -> None:
        pass

    rotator = KeyRotator(keys, hand_out, delay=0, overlap=3600)
    assert await rotator.rotate() == 1
    assert keys.key_ids == [0, 1], "the old one opens still"

    def child() -> None:
        assert keys.key_ids == [1], "nothing would end its time"
        for call in (rotator.rotate(), rotator.adopt(KEY, 2), rotator.__aenter__()):
            with pytest.raises(RuntimeError, match="make another one in the forked child"):
                call.send(None)
        with pytest.raises(RuntimeError, match="make another one in the forked child"):
            rotator.participant_left()

    in_a_child(child)
    assert keys.key_ids == [0, 1] and await rotator.rotate() == 2


def worker(call: Call, number: int) -> None:
    call.goes_on()
    sys.exit(number)


def test_workers_that_multiprocessing_forks_go_on():
    call = Call(Profile.LIVEKIT, "a passphrase")
    context = multiprocessing.get_context("fork")
    codes = []
    with busy(lambda: call.set_keys("a passphrase"), call.look):
        for number in range(10):
            process = context.Process(target=worker, args=(call, number), daemon=True)
            process.start()
            process.join(60)
            if process.is_alive():
                process.kill()
            codes.append(process.exitcode)
    assert codes == list(range(10))
