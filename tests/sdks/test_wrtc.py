"""Interop with the SFrame (RFC 9605) of libwebrtc, from PyPI's wrtc: frames both ways, and calls both ways."""

import asyncio
import os
from itertools import product

import pytest
import webrtc
import wrtc

from frameseal import (
    AuthenticationFailed,
    CipherSuite,
    Decryptor,
    E2EEManager,
    E2EEState,
    Encryptor,
    KeyRing,
    Profile,
    UnknownKey,
)
from frameseal.aiortc import attach
from support.calls import STACKS, Tap, peers, picture_track, plays, record, shows, tone_track, until
from support.wrtc_peer import SUITES, WrtcPeer, wrtc_answers, wrtc_offers, wrtc_peer

# Both sides of each boundary in the header: the short form ends at 7, and every byte of length begins anew.
EDGES = [0, 7, 8, 0xFF, 0x100, 0xFFFF, 0x10000, 0xFFFFFFFF, 2**32, 2**56, 2**64 - 1]
FRAMES = [b"x", bytes(15), bytes(range(256)) * 5]
OURS, WRTC_VIDEO, WRTC_AUDIO = 1, 2, 3  # the KIDs of a call


def ring(suite: int, base_key: bytes, kid: int, **options) -> KeyRing:
    made = KeyRing("sframe", suite=suite, allow_draft=True)
    made.set_key(base_key, key_id=kid, **options)
    return made


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_what_wrtc_seals_frameseal_opens_under_every_length_of_kid_and_counter(suite: int) -> None:
    base_key = os.urandom(16)
    for kid in EDGES:
        for counter, frame in product(EDGES, FRAMES):
            sealed = wrtc._sframeEncrypt(suite, base_key, kid, counter, b"", frame)
            assert Decryptor(ring(suite, base_key, kid)).decrypt(sealed) == frame, (kid, counter)


@pytest.mark.parametrize("suite", SUITES)
def test_what_frameseal_seals_wrtc_opens_under_every_length_of_kid_and_counter(suite: int) -> None:
    for kid, counter in product(EDGES, EDGES[:-1]):
        base_key = os.urandom(16)
        encryptor = Encryptor(ring(suite, base_key, kid, counter=counter))
        opener = wrtc.SFrameTransform(suite, False)
        assert opener.addDecryptionKey(base_key, kid)
        for frame in FRAMES:
            sealed = encryptor.encrypt(frame)
            assert opener.decrypt(sealed)[0] == frame, (kid, counter)


@pytest.mark.parametrize("suite", SUITES)
def test_both_seal_to_the_same_bytes(suite: int) -> None:
    for kid, counter in product(EDGES, EDGES[:-1]):
        base_key = os.urandom(32)
        encryptor = Encryptor(ring(suite, base_key, kid, counter=counter))
        for ahead, metadata in enumerate([b"", b"metadata"]):
            theirs = wrtc._sframeEncrypt(suite, base_key, kid, counter + ahead, metadata, FRAMES[-1])
            assert encryptor.encrypt(FRAMES[-1], metadata) == theirs, (kid, counter)


@pytest.mark.parametrize("suite", SUITES)
def test_a_run_of_frames_goes_both_ways(suite: int) -> None:
    base_key, frames = os.urandom(16), [os.urandom(1 + 7 * n) for n in range(300)]
    sealer, opener = wrtc.SFrameTransform(suite, True), wrtc.SFrameTransform(suite, False)
    assert sealer.setEncryptionKey(base_key, WRTC_VIDEO)
    assert opener.addDecryptionKey(base_key, OURS)
    encryptor = Encryptor(ring(suite, base_key, OURS))
    decryptor = Decryptor(ring(suite, base_key, WRTC_VIDEO))
    assert [opener.decrypt(encryptor.encrypt(frame))[0] for frame in frames] == frames
    assert [decryptor.decrypt(sealer.encrypt(frame)) for frame in frames] == frames


@pytest.mark.parametrize("suite", SUITES)
def test_neither_opens_what_is_under_another_key_or_kid_or_was_changed(suite: int) -> None:
    base_key, other_key = os.urandom(16), os.urandom(16)
    opener = wrtc.SFrameTransform(suite, False)
    opener.addDecryptionKey(base_key, OURS)
    authentication, key_id = 1, 2  # wrtc's numbers for what went wrong

    assert opener.decrypt(Encryptor(ring(suite, other_key, OURS)).encrypt(b"frame"))[:2] == (None, authentication)
    assert opener.decrypt(Encryptor(ring(suite, base_key, 9)).encrypt(b"frame")) == (None, key_id, 9)
    changed = bytearray(Encryptor(ring(suite, base_key, OURS)).encrypt(b"frame"))
    changed[-1] ^= 1
    assert opener.decrypt(changed)[:2] == (None, authentication)

    sealed = wrtc._sframeEncrypt(suite, base_key, OURS, 0, b"", b"frame")
    for wrong, error in ((ring(suite, other_key, OURS), AuthenticationFailed), (ring(suite, base_key, 9), UnknownKey)):
        with pytest.raises(error):
            Decryptor(wrong).decrypt(sealed)
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(AuthenticationFailed):
        Decryptor(ring(suite, base_key, OURS)).decrypt(changed)


# --- calls -----------------------------------------------------------------------------------------------------------


class Keys:
    """A provider of one ring that holds the base key of each KID in the call; it seals under its own."""

    discard_frame_when_cryptor_not_ready = True

    def __init__(self, suite: int, base_keys: dict[int, bytes]) -> None:
        self.ring = KeyRing("sframe", suite=suite, failure_tolerance=5, allow_draft=True)
        for kid, base_key in base_keys.items():
            self.ring.set_key(base_key, key_id=kid)
        self.ring.sending_key_id = OURS

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        return self.ring


def new_keys() -> dict[int, bytes]:
    return {kid: os.urandom(16) for kid in (OURS, WRTC_VIDEO, WRTC_AUDIO)}


def wrtc_side(suite: int, keys: dict[int, bytes], opens: int = OURS):
    sealing = {"video": (keys[WRTC_VIDEO], WRTC_VIDEO), "audio": (keys[WRTC_AUDIO], WRTC_AUDIO)}
    return wrtc_peer(suite, sealing, (keys[OURS], opens))


async def call(negotiate, alice, bob: WrtcPeer, e2ee: E2EEManager) -> dict:
    """Bring up a call with one video and one audio track each way; returns alice's sinks by kind."""
    attach(alice.pc, e2ee, local_id="alice", remote_id="bob")
    alice.pc.addTrack(picture_track(alice.stack, "red"))
    alice.pc.addTrack(tone_track(alice.stack, 440))
    await negotiate(alice, bob, [picture_track(alice.stack, "blue"), tone_track(alice.stack, 880)])
    await until(lambda: alice.pc.connectionState == bob.pc.connection_state == "connected")
    await until(lambda: len(alice.sinks) == len(bob.sinks) == 2)
    return {sink.track.kind: sink for sink in alice.sinks.values()}


async def settled(alice, ours: dict, theirs: dict) -> None:
    """Wait for the other side's tone, and for a run of its pictures.

    Of a sealed VP8 frame libwebrtc reads the frame type off the SFrame header. So when a busy machine makes it skip a
    picture, it goes on with the next as if that were a keyframe, damaged, and asks for none: hence some unasked.
    """

    async def keyframes() -> None:
        while True:
            await asyncio.sleep(1)
            next(sender for sender in alice.pc.getSenders() if sender.kind == "video")._send_keyframe()

    sending = asyncio.create_task(keyframes())
    try:
        await until(lambda: plays(ours["audio"], 880) and plays(theirs["audio"], 440), 60)
        await until(lambda: shows(ours["video"], "blue") and shows(theirs["video"], "red"), 60)
    finally:
        sending.cancel()


def kid_of(sealed: bytes) -> int:
    kid, _counter, _length = wrtc._sframeParseHeader(sealed)
    return kid


def test_wrtc_knows_the_suites_that_frameseal_knows() -> None:
    assert {number: name.value for number, name in SUITES.items()} == {suite.value: suite.name for suite in CipherSuite}


@pytest.mark.parametrize("negotiate", [wrtc_answers, wrtc_offers])
@pytest.mark.parametrize("suite", SUITES)
async def test_a_call_goes_both_ways(suite: int, negotiate, loopback) -> None:
    await call_both_ways("aiortc", suite, negotiate)


@pytest.mark.parametrize("stack", STACKS)
async def test_a_call_goes_both_ways_on_each_stack(stack: str, loopback) -> None:
    await call_both_ways(stack, 4, wrtc_answers)


async def call_both_ways(stack: str, suite: int, negotiate) -> None:
    keys = new_keys()
    e2ee = E2EEManager(Keys(suite, keys), profile="sframe")
    changes = record(e2ee)
    with Tap(stack) as tap:
        async with peers(stack) as (alice,), wrtc_side(suite, keys) as bob:
            sinks = await call(negotiate, alice, bob, e2ee)
            await settled(alice, sinks, bob.sinks)
    assert bob.errors == []
    # Once for each kind: nothing ever failed.
    states = [change.state for _, change in changes]
    assert sorted(states) == sorted([E2EEState.EncryptionSuccess, E2EEState.DecryptionSuccess] * 2)
    # The call was sealed indeed: what went out are SFrame headers with our KID, and nothing that an encoder made.
    for sender, codec in zip(alice.pc.getSenders(), ("vp8", "opus"), strict=True):
        on_the_wire = tap.frames(sender, codec)
        assert len(on_the_wire) > 20
        assert {kid_of(frame) for frame in on_the_wire} == {OURS}
        assert set(tap.made[codec]).isdisjoint(on_the_wire)


@pytest.mark.parametrize("suite", [1, 4])
async def test_a_wrong_key_gives_nothing_either_way_and_the_right_one_later_everything(suite: int, loopback) -> None:
    keys = new_keys()
    ours = Keys(suite, new_keys() | {OURS: keys[OURS]})
    e2ee = E2EEManager(ours, profile="sframe")
    changes = record(e2ee)
    async with peers("aiortc") as (alice,), wrtc_side(suite, keys | {OURS: os.urandom(16)}) as bob:
        sinks = await call(wrtc_answers, alice, bob, e2ee)
        await until(lambda: [change.state for _, change in changes].count(E2EEState.InvalidKey) == 2)
        await until(lambda: failures(bob, webrtc.RTCEncodedAudioFrame) > 20)
        await until(lambda: failures(bob, webrtc.RTCEncodedVideoFrame) > 5)
        assert {event.error_type for event in bob.errors} == {"authentication"}
        assert_nothing(sinks, bob.sinks)
        for kid in (WRTC_VIDEO, WRTC_AUDIO):
            ours.ring.set_key(keys[kid], key_id=kid)
        await bob.also_opens(keys[OURS], OURS)
        clear(sinks, bob.sinks)
        await settled(alice, sinks, bob.sinks)


async def test_a_missing_key_gives_nothing_either_way_until_it_is_there(loopback) -> None:
    keys = new_keys()
    ours = Keys(4, {OURS: keys[OURS]})
    e2ee = E2EEManager(ours, profile="sframe")
    changes = record(e2ee)
    async with peers("aiortc") as (alice,), wrtc_side(4, keys, opens=77) as bob:
        sinks = await call(wrtc_answers, alice, bob, e2ee)
        await until(lambda: [change.state for _, change in changes].count(E2EEState.MissingKey) == 2)
        await until(lambda: failures(bob, webrtc.RTCEncodedAudioFrame) > 20)
        assert {(event.error_type, event.key_id) for event in bob.errors} == {("keyID", OURS)}
        assert_nothing(sinks, bob.sinks)
        for kid in (WRTC_VIDEO, WRTC_AUDIO):
            ours.ring.set_key(keys[kid], key_id=kid)
        await bob.also_opens(keys[OURS], OURS)
        clear(sinks, bob.sinks)
        await settled(alice, sinks, bob.sinks)


async def test_keys_that_change_in_mid_call_are_followed_both_ways(loopback) -> None:
    """To KIDs of every length; libwebrtc's counter runs on when its key changes, ours begins again."""
    keys = new_keys()
    ours = Keys(5, keys)
    e2ee = E2EEManager(ours, profile="sframe")
    changes = record(e2ee)
    async with peers("aiortc") as (alice,), wrtc_side(5, keys) as bob:
        sinks = await call(wrtc_offers, alice, bob, e2ee)
        for length in (1, 2, 4, 8):
            seen = len(sinks["video"].pictures), len(bob.sinks["video"].pictures)
            await until(lambda seen=seen: len(sinks["video"].pictures) > seen[0] + 5)
            await until(lambda seen=seen: len(bob.sinks["video"].pictures) > seen[1] + 5)
            kid = 2 ** (8 * length) - 8  # ours; the two after it are wrtc's
            base_keys = [os.urandom(16) for _ in range(3)]
            for offset, base_key in enumerate(base_keys):
                ours.ring.set_key(base_key, key_id=kid + offset)
            await bob.also_opens(base_keys[0], kid)
            ours.ring.sending_key_id = kid
            await bob.seals("video", base_keys[1], kid + 1)
            await bob.seals("audio", base_keys[2], kid + 2)
        clear(sinks, bob.sinks)
        await settled(alice, sinks, bob.sinks)
    assert bob.errors == []
    assert {change.state for _, change in changes} == {E2EEState.EncryptionSuccess, E2EEState.DecryptionSuccess}


def failures(bob: WrtcPeer, kind: type) -> int:
    return sum(isinstance(event.frame, kind) for event in bob.errors)


def assert_nothing(ours: dict, theirs: dict) -> None:
    assert ours["video"].pictures == ours["audio"].samples == theirs["video"].pictures == []
    # libwebrtc plays silence where nothing comes.
    assert not any(samples.any() for samples in theirs["audio"].samples)


def clear(*sides: dict) -> None:
    for sinks in sides:
        for sink in sinks.values():
            sink.clear()
