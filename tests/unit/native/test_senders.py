"""Whose frames open on which track: a room of the profile sframe that shares one key, as a forwarder can feed it."""

import pytest

from frameseal import (
    AuthenticationFailed,
    Decryptor,
    E2EEManager,
    E2EEState,
    Encryptor,
    KeyProvider,
    KeyRing,
    SenderMismatch,
)
from frameseal._native import SenderBindings
from frameseal.aiortc import attach
from support.calls import manager, peers, picture_track, record, shows, until
from support.switchboard import Switchboard

KEY = bytes(range(16))


def member(**options) -> E2EEManager:
    keys = KeyProvider()
    keys.set_shared_key(KEY)
    return E2EEManager(keys, "sframe", **options)


def sealed(e2ee: E2EEManager, name: str, count: int = 1, kind: str = "audio", codec: str = "opus") -> list[bytes]:
    transform = e2ee.sender_transform(name, kind, codec)
    return [transform.encrypt(b"%s %d" % (name.encode(), number)) for number in range(count)]


def test_one_participants_frames_do_not_open_as_those_of_another():
    bob = member()
    of = {name: sealed(member(), name, 20) for name in ("alice", "carol")}
    tracks = {name: bob.receiver_transform(name, "audio", "opus") for name in of}
    assert all(tracks[name].decrypt(of[name][0]) for name in of)
    for name, other in (("alice", "carol"), ("carol", "alice")):
        assert not any(tracks[name].decrypt(frame) for frame in of[other][1:10])
        assert (bob.state(name, "audio"), tracks[name].stats()["sender_mismatch"]) == ("DecryptionFailed", 9)
    # Nothing was used up by it.
    assert all(tracks[name].decrypt(frame) for name in of for frame in of[name][1:])
    assert bob.state("alice", "audio") == bob.state("carol", "audio") == "DecryptionSuccess"


def test_the_reason_names_it_and_one_frame_is_no_state():
    bob, reasons = member(), []
    alice, carol = (sealed(member(), name, 20) for name in ("alice", "carol"))
    for frames, name in ((alice, "alice"), (carol, "carol")):
        assert bob.receiver_transform(name, "audio", "opus").decrypt(frames[0])
    track = bob.receiver_transform("carol", "audio", "opus", track_id="second")
    for count, frame in enumerate(alice[1:], 1):
        assert track.decrypt(frame) is None
        reasons.append(track.track.reason)
        assert (track.track.reason is None) == (count < 8)
    assert set(reasons) == {None, "sender_mismatch"}


def test_ones_own_frames_do_not_open_reflected():
    alice = member()
    frames = sealed(alice, "alice", 10)
    for name in ("bob", "alice"):
        track = alice.receiver_transform(name, "audio", "opus")
        assert not any(track.decrypt(frame) for frame in frames)
    # Nor those under a KID that she has no more.
    alice.provider.remove()
    alice.provider.set_shared_key(KEY)
    sealed(alice, "alice")
    assert not any(alice.receiver_transform("bob", "audio", "opus").decrypt(frame) for frame in frames)


def test_a_participant_may_have_several_tracks_and_come_back():
    bob, alice = member(), member()
    camera, screen = (sealed(alice, "alice", 3, "video", codec) for codec in ("vp8", "vp8"))
    for frames in (camera, screen):
        track = bob.receiver_transform("alice", "video", "vp8", track_id=str(id(frames)))
        assert all(track.decrypt(frame) for frame in frames)
    bob.remove_participant("alice")
    assert bob.receiver_transform("alice", "audio", "opus").decrypt(sealed(alice, "alice")[0])
    again = member()  # a new program: another KID
    assert bob.receiver_transform("alice", "audio", "opus").decrypt(sealed(again, "alice")[0])


def test_who_left_may_come_back_under_another_name_and_is_taken_for_nobody_else():
    bob, alice, carol = member(), member(), member()
    assert bob.receiver_transform("alice", "audio", "opus").decrypt(sealed(alice, "alice")[0])
    track = bob.receiver_transform("carol", "audio", "opus")
    assert track.decrypt(sealed(carol, "carol")[0])
    bob.remove_participant("alice")
    assert track.decrypt(sealed(alice, "alice")[0]) is None
    assert bob.receiver_transform("alice 2", "audio", "opus").decrypt(sealed(alice, "alice")[0])


def test_a_batch_refuses_another_participants_frames_too():
    senders = SenderBindings()
    rings = {}
    for name in ("alice", "bob", "carol"):
        rings[name] = KeyRing("sframe", shared=True)
        rings[name].set_key(KEY)
    of = {name: [Encryptor(rings[name], "opus").encrypt(b"hello")] * 1 for name in ("alice", "carol")}
    alice = Decryptor(rings["bob"], "opus", senders=senders, participant_id="alice")
    carol = Decryptor(rings["bob"], "opus", senders=senders, participant_id="carol")
    assert alice.decrypt(of["alice"][0]) == carol.decrypt(of["carol"][0]) == b"hello"
    more = [Encryptor(rings[name], "opus").encrypt(name.encode()) for name in ("alice", "carol", "alice") * 100]
    for threads in (1, 2):
        fresh = Decryptor(rings["bob"], "opus", senders=senders, participant_id="alice")
        _, _, ok = fresh.decrypt_batch(b"".join(more), _offsets(more), threads)
        assert list(ok) == [True, False, True] * 100
        assert fresh.stats()["sender_mismatch"] == 100
    with pytest.raises(SenderMismatch):
        carol.decrypt(more[0])


def _offsets(frames):
    import numpy as np

    return np.cumsum([0, *map(len, frames)])


def test_media_that_are_bound_open_as_their_kind_and_codec_alone():
    alice, bob = member(bind_media=True), member(bind_media=True)
    frame, other = sealed(alice, "alice", 2)
    for kind, codec in (("video", "vp8"), ("audio", "pcmu"), ("video", "opus"), ("audio", None)):
        track = bob.receiver_transform("alice", kind, codec)
        assert track.decrypt(frame) is None
        assert track.track.reason in ("authentication_failed", None)
    assert bob.receiver_transform("alice", "audio", "opus").decrypt(frame) == b"alice 0"
    assert member().receiver_transform("alice", "audio", "opus").decrypt(other) is None


def test_bindings_are_for_sframe_alone_and_complete():
    ring = KeyRing("livekit")
    with pytest.raises(ValueError, match="livekit"):
        Decryptor(ring, "opus", senders=SenderBindings(), participant_id="alice")
    for half in ({"senders": SenderBindings()}, {"participant_id": "alice"}):
        with pytest.raises(ValueError, match="senders and participant_id"):
            Decryptor(KeyRing("sframe"), "opus", **half)
    with pytest.raises(ValueError, match="bind_media"):
        E2EEManager(KeyProvider(), "livekit", bind_media=True)
    assert not issubclass(SenderMismatch, AuthenticationFailed)


async def test_in_a_call_a_forwarder_without_a_key_neither_swaps_senders_nor_sends_ones_own_back(stack):
    """Bob is told what the forwarder should do, and it does something else; then what it should."""
    sfu, opening = Switchboard(), manager(profile="sframe")
    changes = record(opening)
    async with peers(*[stack] * 4) as (bob, alice, carol, bobs_camera):
        lines = {}
        try:
            for name, peer, colour in (
                ("alice", alice, "red"),
                ("carol", carol, "blue"),
                ("bob", bobs_camera, "green"),
            ):
                sealing = opening if name == "bob" else manager(profile="sframe")
                attach(peer.pc, sealing, local_id=name, remote_id="the SFU")
                peer.send(picture_track(stack, colour), "vp8")
                await sfu.publish(name, peer)
            attach(bob.pc, opening, local_id="bob", remote_id=lambda receiver: told_by(lines, bob, receiver))
            for name in ("alice", "carol"):
                lines[name] = await sfu.add_lines(bob, "vp8", name)
            sinks = {name: bob.sinks[video.transceiver.mid] for name, (_, video) in lines.items()}
            await until(lambda: shows(sinks["alice"], "red") and shows(sinks["carol"], "blue"))
            assert told(changes, "receive") == {"alice": ["DecryptionSuccess"], "carol": ["DecryptionSuccess"]}
            for put_in_her_place in ("alice", "bob"):
                changes.clear()
                await sfu.switch(lines["carol"], put_in_her_place)
                # Listeners hear of a state after it has changed.
                await until(lambda: told(changes, "receive"))
                assert opening.state("carol", "video") is E2EEState.DecryptionFailed
                assert [c.reason for _, c in changes if c.direction == "receive"] == ["sender_mismatch"]
                await sfu.switch(lines["carol"], "carol")
                sinks["carol"].clear()
                await until(lambda: shows(sinks["carol"], "blue"), 40)
                assert told(changes, "receive") == {"carol": ["DecryptionFailed", "DecryptionSuccess"]}
        finally:
            await sfu.close()


def told_by(lines: dict[str, list], bob, receiver) -> str | None:
    mid = next(t.mid for t in bob.pc.getTransceivers() if t.receiver is receiver)
    return next((name for name, both in lines.items() if mid in [line.transceiver.mid for line in both]), None)


def told(changes: list, direction: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for _, change in changes:
        if change.direction == direction:
            found.setdefault(change.participant_id, []).append(change.state)
    return found
