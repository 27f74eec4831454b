"""Rooms of a real LiveKit server in which frameseal meets LiveKit's native SDK (PyPI `livekit`, libwebrtc).

`make interop` builds the server and installs the SDK.
"""

import secrets
from random import Random

import pytest
from aiortc.rtp import is_rtcp

from frameseal import E2EEState, KeyRing
from interop.livekit_members import PATIENCE, frameseal_member, native_member
from interop.livekit_recorder import Forwarded
from support.calls import PASSPHRASE, until

pytest_plugins = ["interop.livekit_server"]
LOSS = 0.03
RAW_KEY = bytes(range(32))
KEYS = pytest.mark.parametrize("key", [PASSPHRASE, RAW_KEY], ids=["passphrase", "raw key"])
SUCCESS = {"EncryptionSuccess", "DecryptionSuccess"}
HERTZ = {"alice": 440, "bob": 660, "carol": 880}
COLOURS = {"alice": "red", "bob": "blue", "carol": "green"}


async def publish(members: dict, codec: str = "vp8", **options) -> dict:
    """Have all members publish a tone and pictures. Returns the publications by name and kind."""
    published = {}
    for name, member in members.items():
        published[name, "audio"] = await member.speak(HERTZ[name])
        published[name, "video"] = await member.show(COLOURS[name], codec, **options)
    return published


async def perceive(members: dict, names=()) -> None:
    """Wait until the members hear and see each other. With *names*, only these participants."""
    for name, member in members.items():
        for other in names or members:
            if other != name:
                await member.hearing(other, HERTZ[other])
                await member.seeing(other, COLOURS[other])


async def renewed(members: dict, names=()) -> None:
    """Wait for the same anew, with what arrives from now on."""
    for member in members.values():
        member.forget()
    await perceive(members, names)


def loses(transport, method: str) -> list[bytes]:
    """Lose 3 % of the RTP packets that a method of a DTLS transport passes. Returns those that are lost."""
    lost: list[bytes] = []
    chance, passed = Random(method), getattr(transport, method)

    async def lossy(data: bytes, **more) -> None:
        if not is_rtcp(data) and chance.random() < LOSS:
            lost.append(data)
        else:
            await passed(data, **more)

    setattr(transport, method, lossy)
    return lost


def ring(key: str | bytes) -> KeyRing:
    made = KeyRing("livekit")
    made.set_passphrase(key) if isinstance(key, str) else made.set_key(key)
    return made


@pytest.mark.parametrize(("codec", "key"), [("vp8", PASSPHRASE), ("h264", RAW_KEY)], ids=["vp8", "h264"])
async def test_all_perceive_each_other_and_who_has_no_key_finds_nothing_unsealed(livekit_server, codec, key):
    room = secrets.token_hex(8)
    with Forwarded() as forwarded:
        async with (
            native_member(livekit_server, "alice", room, key) as alice,
            frameseal_member(livekit_server, "bob", room, key) as bob,
            native_member(livekit_server, "carol", room, key) as carol,
            frameseal_member(livekit_server, "eve", room, None) as eve,
        ):
            members = {"alice": alice, "bob": bob, "carol": carol}
            published = await publish(members, codec)
            await perceive(members)

            # The server sends frames of its own when a track is muted, and when it ends.
            await alice.mute(published["alice", "audio"])
            await carol.unpublish(published["carol", "video"])
            await until(lambda: ("track-unpublished", "carol") in bob.events, PATIENCE)
            await until(lambda: bob.received("alice", "audio", "sif_frames") >= 45, PATIENCE)
            assert {state for _, state in bob.states} == SUCCESS

            await until(lambda: {("track-unpublished", "carol"), ("track-muted", "alice")} <= set(eve.events), PATIENCE)
            assert len(eve.sinks) == 5 and all(sink.empty for sink in eve.sinks.values())
            assert {state for _, state in eve.states} == {"MissingKey"}
            receiving, trailer = eve.connections[1], eve.room.e2ee.sif_trailer
            judged = forwarded.judge(receiving, ring(key), trailer)
            assert not forwarded.judge(receiving, ring("another passphrase"), trailer).sealed
    assert judged.unsealed == []
    assert judged.torn == 0
    assert set(judged.sealed) == {"opus", codec} and min(judged.sealed.values()) > 30
    assert judged.of_server["opus"] >= 45


@KEYS
async def test_a_rotation_loses_no_frame(livekit_server, key):
    room = secrets.token_hex(8)
    fresh = key[::-1]
    with Forwarded() as forwarded:
        async with (
            native_member(livekit_server, "alice", room, key, tolerance=0) as alice,
            frameseal_member(livekit_server, "bob", room, key, window=16) as bob,
            frameseal_member(livekit_server, "carol", room, key, window=16) as carol,
        ):
            members = {"alice": alice, "bob": bob, "carol": carol}
            await publish(members)
            await perceive(members)
            alice.states.clear()  # libwebrtc may have decrypted before its keys were there

            # The others have the new key before anybody seals with it.
            alice.keys.set_shared_key(fresh.encode() if isinstance(fresh, str) else fresh, 1)
            for member in (bob, carol):
                member.keys.set_shared_key(fresh, 1, send=False)
            alice.send_with(1)
            for member in (bob, carol):
                member.keys.set_sending_key_id(1)
            receiving = bob.connections[1]
            await until(lambda: forwarded.key_ids(receiving) == {1}, PATIENCE)
            await renewed(members)
            for member in (bob, carol):
                assert member.failures() == {}
            assert alice.states == bob.states == carol.states == []


async def test_a_ratchet_step_is_found_by_those_who_receive(livekit_server):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room, RAW_KEY, window=16) as alice,
        frameseal_member(livekit_server, "bob", room, RAW_KEY, window=16) as bob,
        frameseal_member(livekit_server, "carol", room, RAW_KEY, window=16) as carol,
    ):
        members = {"alice": alice, "bob": bob, "carol": carol}
        await publish(members)
        await perceive(members)
        alice.keys.ratchet_shared_key(0)
        await renewed(members, ["alice"])
        for member in (bob, carol):
            assert not {("alice", "audio"), ("alice", "video")} & set(member.failures())
        await renewed(members)  # who has found the step seals with it

        for member in (bob, carol):
            member.keys.ratchet()
        await renewed({"alice": alice}, ["bob", "carol"])
        alice.keys.ratchet_shared_key(0)
        await renewed(members)


async def test_a_ratchet_step_that_all_take_is_heard_and_seen(livekit_server):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room) as alice,
        frameseal_member(livekit_server, "bob", room) as bob,
        frameseal_member(livekit_server, "carol", room) as carol,
    ):
        members = {"alice": alice, "bob": bob, "carol": carol}
        await publish(members)
        await perceive(members)
        alice.keys.ratchet_shared_key(0)
        for member in (bob, carol):
            member.keys.ratchet()
        await renewed(members)
        for member in (bob, carol):
            assert member.room.e2ee.state("alice", "audio") is E2EEState.DecryptionSuccess


async def test_keys_of_participants_arrive_late_and_wrong_ones_are_replaced(livekit_server):
    room = secrets.token_hex(8)
    keys = {name: secrets.token_bytes(32) for name in HERTZ}
    async with (
        native_member(livekit_server, "alice", room, None) as alice,
        frameseal_member(livekit_server, "bob", room, None) as bob,
        frameseal_member(livekit_server, "carol", room, None) as carol,
    ):
        members = {"alice": alice, "bob": bob, "carol": carol}
        passphrases = {name: key.hex() for name, key in keys.items()}
        for name, member in members.items():
            member.set_key(name, passphrases[name])  # its own key alone
        await publish(members)
        unknown = {(name, "MissingKey") for name in members}
        await until(lambda: unknown - {("bob", "MissingKey")} <= set(bob.states), PATIENCE)
        await until(lambda: ("bob", "MISSING_KEY") in alice.states, PATIENCE)
        assert all(sink.empty for member in (bob, carol) for sink in member.sinks.values())

        # Wrong keys, of the other one.
        bob.set_key("alice", passphrases["carol"])
        bob.set_key("carol", passphrases["alice"])
        alice.set_key("bob", passphrases["carol"])
        await until(lambda: {("alice", "DecryptionFailed"), ("carol", "DecryptionFailed")} <= set(bob.states), PATIENCE)
        assert all(sink.empty for sink in bob.sinks.values())
        assert not alice.hears("bob", HERTZ["bob"])

        for member in members.values():
            for name, passphrase in passphrases.items():
                member.set_key(name, passphrase)
        await renewed(members)
        assert {state for _, state in bob.states} <= SUCCESS

        # Alice alone moves to another key. Those who have it hear her, and all others as before.
        for member in (bob, alice):
            member.set_key("alice", passphrases["alice"][::-1], 1)
        alice.send_with(1)
        await until(lambda: ("alice", "MissingKey") in carol.states, PATIENCE)
        for member in members.values():
            member.forget()
        await bob.hearing("alice", HERTZ["alice"])
        await bob.seeing("alice", COLOURS["alice"])
        await perceive(members, ["bob", "carol"])
        assert all(carol.sinks["alice", kind].empty for kind in ("audio", "video"))


async def test_mute_and_unpublish_are_no_failures_and_tracks_return(livekit_server):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room, tolerance=0) as alice,
        frameseal_member(livekit_server, "bob", room) as bob,
        frameseal_member(livekit_server, "carol", room) as carol,
    ):
        members = {"alice": alice, "bob": bob, "carol": carol}
        published = await publish(members)
        await perceive(members)
        alice.states.clear()  # libwebrtc decodes the first frames before it decrypts
        for (name, _), publication in published.items():
            await members[name].mute(publication)
        for member in (bob, carol):
            await until(lambda m=member: m.received("alice", "audio", "sif_frames") >= 45, PATIENCE)
            assert member.received("alice", "video", "sif_frames") == 0
        await until(lambda: carol.received("bob", "audio", "sif_frames") >= 45, PATIENCE)
        assert alice.names().count("track_muted") == 4
        assert bob.names().count("track-muted") == 4

        for (name, _), publication in published.items():
            await members[name].mute(publication, False)
        await renewed(members)
        assert bob.failures() == carol.failures() == {}
        assert alice.states == bob.states == carol.states == []

        for (name, _), publication in published.items():
            await members[name].unpublish(publication)
        await until(lambda: not any(member.sinks for member in members.values()), PATIENCE)
        assert bob.states == carol.states == []
        await publish(members)
        await perceive(members)
        for member in (bob, carol):
            assert {state for _, state in member.states} == SUCCESS
            assert member.failures() == {}


async def test_a_member_returns_under_the_same_identity_also_before_the_server_missed_it(livekit_server):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room) as alice,
        frameseal_member(livekit_server, "bob", room) as bob,
    ):
        members = {"alice": alice, "bob": bob}
        await publish(members)
        async with native_member(livekit_server, "carol", room) as carol:
            await publish({"carol": carol})
            await perceive(members | {"carol": carol})
        await until(lambda: ("participant-left", "carol") in bob.events, PATIENCE)
        bob.forget()
        async with frameseal_member(livekit_server, "carol", room) as carol:
            await publish({"carol": carol})
            await perceive(members | {"carol": carol})
            # Again, while she is still there: the server ends the earlier visit.
            async with frameseal_member(livekit_server, "carol", room) as carol_again:
                await publish({"carol": carol_again})
                await until(lambda: "left" in carol.names(), PATIENCE)
                assert carol.events[-1] == ("left", "DUPLICATE_IDENTITY")
                await renewed(members | {"carol": carol_again})
                assert "reconnecting" not in carol.names()
        assert {state for _, state in bob.states} <= SUCCESS


FAILURES = {
    "signal": lambda bob: bob.lose_signal(),
    "media": lambda bob: bob.lose_media(),
    "node": lambda bob: bob.simulate(node_failure=True),
    "migration": lambda bob: bob.simulate(migration=True),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_frameseal_joins_anew_and_all_perceive_each_other_again(livekit_server, failure):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room) as alice,
        frameseal_member(livekit_server, "bob", room) as bob,
        frameseal_member(livekit_server, "carol", room) as carol,
    ):
        members = {"alice": alice, "bob": bob, "carol": carol}
        await publish(members)
        await perceive(members)
        await FAILURES[failure](bob)
        await until(lambda: "reconnected" in bob.names(), PATIENCE)
        await renewed(members)
        assert {state for _, state in bob.states + carol.states} <= SUCCESS


@pytest.mark.parametrize("scenario", ["SIGNAL_RECONNECT", "FULL_RECONNECT", "MIGRATION"])
async def test_the_native_sdk_is_heard_and_seen_after_it_reconnects(livekit_server, scenario):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room) as alice,
        frameseal_member(livekit_server, "bob", room) as bob,
    ):
        members = {"alice": alice, "bob": bob}
        await publish({"bob": bob})
        await publish({"alice": alice}, noisy=True)
        await perceive(members)
        await alice.simulate(scenario)
        await until(lambda: "reconnected" in alice.names(), PATIENCE)
        await renewed(members)
        assert {state for _, state in bob.states} <= SUCCESS


async def test_a_visit_that_the_server_ends_is_over(livekit_server):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room) as alice,
        frameseal_member(livekit_server, "bob", room) as bob,
    ):
        await alice.simulate("SERVER_LEAVE")
        await bob.simulate(server_leave=True)
        await until(lambda: "disconnected" in alice.names() and "left" in bob.names(), PATIENCE)
        assert bob.events[-1] == ("left", "SERVER_SHUTDOWN")
        assert not {"reconnecting", "reconnected"} & {*alice.names(), *bob.names()}


async def test_messages_open_for_who_has_the_key_and_for_nobody_else(livekit_server):
    room = secrets.token_hex(8)
    secret = b"the secret message"
    with Forwarded() as forwarded:
        async with (
            native_member(livekit_server, "alice", room) as alice,
            frameseal_member(livekit_server, "bob", room) as bob,
            native_member(livekit_server, "carol", room) as carol,
            frameseal_member(livekit_server, "eve", room, None) as eve,
            native_member(livekit_server, "mallory", room, "another passphrase") as mallory,
        ):
            await until(lambda: alice.knows("bob", "carol") and carol.knows("alice", "bob"), PATIENCE)
            await until(lambda: bob.knows("alice", "carol", "eve", "mallory"), PATIENCE)
            await alice.send(secret, "from alice")
            await bob.send(secret, "from bob")
            await alice.send(secret * 800, "long")  # 14,400 bytes, in several packets of SCTP
            await until(lambda: len(bob.data) == 2 and len(carol.data) == 3 and len(alice.data) == 1, PATIENCE)
            assert sorted(bob.data) == [("alice", secret, "from alice"), ("alice", secret * 800, "long")]
            assert alice.data == [("bob", secret, "from bob")]
            assert sorted(carol.data) == sorted([*bob.data, *alice.data])
            await until(lambda: eve.names().count("data-refused") == 3, PATIENCE)
            messages = forwarded.messages(eve.connections[1])
            assert sum(map(len, messages)) > len(secret) * 802
            assert not any(secret in message or b"from " in message for message in messages)
            assert eve.data == mallory.data == []

            # The others' next key.
            for member in (alice, carol):
                member.keys.set_shared_key(b"the next passphrase", 1)
            bob.keys.set_shared_key("the next passphrase", 1)
            for member in (alice, bob, carol):
                member.data.clear()
            await alice.send(secret, "from alice")
            await bob.send(secret, "from bob")
            await until(lambda: bob.data and alice.data and len(carol.data) == 2, PATIENCE)

            # To one of them alone, and with losses allowed.
            await bob.room.send(secret, to=["alice"], reliable=False)
            await alice.room.local_participant.publish_data(secret, destination_identities=["bob"], reliable=False)
            await until(lambda: len(bob.data) == len(alice.data) == 2, PATIENCE)
            assert len(carol.data) == 2


async def test_a_message_in_the_clear_is_refused(livekit_server):
    room = secrets.token_hex(8)
    async with (
        frameseal_member(livekit_server, "bob", room) as bob,
        native_member(livekit_server, "alice", room, plain=True) as alice,
    ):
        await alice.speak()
        await alice.send(b"in the clear")
        await until(lambda: ("data-refused", "alice") in bob.events, PATIENCE)
        await until(lambda: ("alice", "InternalError") in bob.states, PATIENCE)
        assert bob.data == [] and all(sink.empty for sink in bob.sinks.values())


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_three_percent_of_lost_packets_are_no_failure_of_a_key(livekit_server, codec):
    room = secrets.token_hex(8)
    async with (
        native_member(livekit_server, "alice", room) as alice,
        frameseal_member(livekit_server, "bob", room) as bob,
        native_member(livekit_server, "carol", room) as carol,
    ):
        members = {"alice": alice, "bob": bob}
        await publish({"bob": bob}, codec)
        await publish({"alice": alice}, codec, noisy=True)
        await carol.speak(HERTZ["carol"])
        await perceive(members)
        lost = [loses(connection, direction) for connection, direction in bob.directions()]
        await until(lambda: all(len(packets) >= 5 for packets in lost), PATIENCE)
        await renewed(members)
        await bob.hearing("carol", HERTZ["carol"])
        await carol.hearing("bob", HERTZ["bob"])
        assert not {"MissingKey", "InvalidKey", "InternalError"} & {state for _, state in bob.states}
