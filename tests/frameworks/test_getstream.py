"""Calls of Stream's Python SDK, the real getstream 4, through a server that takes the place of Stream's."""

import asyncio
import gc
import weakref

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from getstream.video.rtc import ConnectionManager, connection_utils, participants, peer_connection
from getstream.video.rtc.pc import PublisherPeerConnection

from frameseal import aiortc
from frameseal.aiortc import UnsupportedStack
from frameseal.aiortc.rule import process
from frameseal.getstream import _State, attach, attach_all, stop_attaching
from frameworks.stream_members import KEYS, WRONG, encryption, member, pictures, tone, use
from frameworks.stream_server import StreamServer
from support.calls import plays, shows, until


@pytest.fixture(autouse=True)
def unruled_calls(monkeypatch):
    """Begin and end without a rule, which would hold for the calls of later tests too."""
    monkeypatch.setattr(_State, "rule", None)


@pytest.fixture
def server(monkeypatch):
    with StreamServer() as made:
        use(made, monkeypatch)
        yield made


def assert_sealed(published, key: bytes, at_least: int = 20, key_id: int = 0) -> None:
    """Check every frame of a track that the SFU has seen."""
    opened, unopened = published.read(key, key_id)
    assert unopened == []
    assert opened >= at_least


async def test_each_participant_is_heard_and_seen_under_a_key_of_their_own(server):
    async with (
        member(server, "alice", encryption(KEYS)) as alice,
        member(server, "bob", encryption(KEYS)) as bob,
        member(server, "eve", encryption({"eve": KEYS["alice"], "alice": WRONG, "bob": WRONG})) as eve,
    ):
        await alice.publish(tone(450), pictures("red"))
        await bob.publish(tone(900), pictures("blue"))
        await until(lambda: alice.sink("bob", "audio") and plays(alice.sink("bob", "audio"), 900))
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 450))
        await until(lambda: shows(alice.sink("bob", "video"), "blue") and shows(bob.sink("alice", "video"), "red"))
        assert len(eve.sinks) == 4
        assert not eve.heard
        for user_id in ("alice", "bob"):
            for kind in ("audio", "video"):
                assert_sealed(server.of(user_id, kind), KEYS[user_id])
        assert {body.get("e2ee") for body in server.joins} == {True}


async def test_a_call_without_the_adapter_is_found_in_the_clear(server):
    """The look at the wire finds what it looks for."""
    async with member(server, "alice", None) as alice, member(server, "bob", None) as bob:
        await alice.publish(tone())
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 450))
        opened, unopened = server.of("alice", "audio").read(KEYS["alice"])
        assert opened == 0
        assert len(unopened) > 20
        assert not any("e2ee" in body for body in server.joins)


@pytest.mark.parametrize("strategy", ["FAST", "REJOIN", "MIGRATE"])
async def test_connections_of_a_reconnect_are_sealed_from_their_first_frame(server, strategy):
    async with (
        member(server, "alice", encryption(KEYS)) as alice,
        member(server, "bob", encryption(KEYS)) as bob,
    ):
        await alice.publish(tone(450), pictures("red"))
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 450))
        before, publisher = len(server.tracks), alice.connection.publisher_pc
        if strategy == "FAST":
            await server.run(server.drop_sockets("alice"))
        else:
            await alice.connection.reconnector.reconnect(strategy, "a test")
        await until(lambda: server.of("alice", "audio", after=before) and server.of("alice", "video", after=before))
        assert (alice.connection.publisher_pc is publisher) == (strategy == "FAST")
        await until(lambda: len(bob.sinks) == 4 and plays(bob.sink("alice", "audio"), 450))
        await until(lambda: shows(bob.sink("alice", "video")))
        for published in server.tracks:
            assert_sealed(published, KEYS["alice"])


async def test_a_subscriber_that_joins_again_hears_everybody_again(server):
    async with (
        member(server, "alice", encryption(KEYS)) as alice,
        member(server, "bob", encryption(KEYS)) as bob,
    ):
        await alice.publish(tone(450))
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 450))
        first, subscriber = bob.sink("alice", "audio"), bob.connection.subscriber_pc
        await bob.connection.reconnector.reconnect("REJOIN", "a test")
        await until(lambda: bob.sink("alice", "audio") is not first and plays(bob.sink("alice", "audio"), 450))
        assert bob.connection.subscriber_pc is not subscriber
        assert [body.get("e2ee") for body in server.joins] == [True] * 3


@pytest.mark.parametrize("anonymous", [False, True], ids=["track ids", "stream ids"])
async def test_nothing_of_an_unknown_user_is_decoded_until_the_user_is_known(server, anonymous):
    server.hidden.add("alice")
    server.anonymous_ids = anonymous
    async with (
        member(server, "alice", encryption(KEYS)) as alice,
        member(server, "bob", encryption(KEYS)) as bob,
    ):
        await alice.publish(tone(450))
        await until(lambda: bob.sinks and len(server.of("alice", "audio").packets) > 50)
        assert not bob.heard
        await server.run(server.introduce("alice"))
        (sink,) = [sink for _, sink in bob.sinks]
        await until(lambda: plays(sink, 450))
        assert_sealed(server.of("alice", "audio"), KEYS["alice"])


async def test_a_key_under_another_index_and_a_late_key(server):
    ours, theirs = encryption(KEYS), encryption({"bob": KEYS["bob"]})
    async with member(server, "alice", ours) as alice, member(server, "bob", theirs) as bob:
        await alice.publish(tone(450))
        await until(lambda: theirs.state("alice", "audio") == "MissingKey")
        assert not bob.heard
        theirs.provider.set_key("alice", KEYS["alice"])
        await until(lambda: plays(bob.sink("alice", "audio"), 450))
        fresh = bytes(range(100, 132))  # AES-256 beside AES-128
        theirs.provider.set_key("alice", fresh, 201)
        before = len(server.of("alice", "audio").packets)
        ours.provider.set_key("alice", fresh, 201)
        await until(lambda: len(server.of("alice", "audio").packets) > before + 60)
        assert plays(bob.sink("alice", "audio"), 450)
        published = server.of("alice", "audio")
        old, new = published.read(KEYS["alice"]), published.read(fresh, 201)
        assert old[0] > 20
        assert new[0] > 20
        assert len(old[1]) == new[0]


async def test_the_encoder_of_the_sdk_is_sealed(server):
    """The SDK puts an encoder of its own into the sender, past the hook's proxy."""
    async with member(server, "alice", encryption(KEYS)) as alice:
        await alice.publish(video=pictures())
        await until(lambda: server.of("alice", "video") and len(server.of("alice", "video").frames()) > 20)
        (counters,) = [each for each in alice.attachment.counters if each.direction == "send" and each.kind]
        assert counters.codec == "h264"
        assert counters.foreign > 20
        assert_sealed(server.of("alice", "video"), KEYS["alice"])


async def test_a_detached_call_sends_nothing_and_continues_when_it_is_attached_again(server):
    async with member(server, "alice", encryption(KEYS)) as alice, member(server, "bob", encryption(KEYS)) as bob:
        await alice.publish(tone(450))
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 450))
        alice.attachment.detach()
        alice.attachment.detach()
        assert alice.attachment.detached
        await alice.connection.reconnector.reconnect("REJOIN", "a test")  # a connection that is made while detached
        await until(lambda: server.of("alice", "audio", after=1))
        await asyncio.sleep(0.5)  # 25 frames of the tone
        assert server.of("alice", "audio", after=1).packets == []
        attach(alice.connection, alice.e2ee)
        await until(lambda: len(server.of("alice", "audio", after=1).packets) > 50)
        await until(lambda: plays(bob.sink("alice", "audio"), 450))
        for published in server.tracks:
            assert_sealed(published, KEYS["alice"])


async def test_a_call_that_has_connected_without_encryption_is_refused(server):
    async with member(server, "alice", None) as alice:
        with pytest.raises(RuntimeError, match="has connected without encryption"):
            attach(alice.connection, encryption(KEYS))
        with pytest.raises(RuntimeError, match="has connected without encryption"):
            attach_all(encryption(KEYS))
        assert _State.rule is None
    attach(alice.connection, encryption(KEYS))  # it was left
    with pytest.raises(RuntimeError, match="attached already"):
        attach(alice.connection, encryption(KEYS))


async def test_every_call_of_the_process_is_attached(server):
    made = []

    def manager_of(connection):
        made.append(connection)
        return encryption(KEYS)

    attach_all(manager_of)
    async with member(server, "alice", None) as alice, member(server, "bob", encryption(KEYS)) as bob:
        await alice.publish(tone(450))
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 450))
        assert_sealed(server.of("alice", "audio"), KEYS["alice"])
        assert made == [alice.connection]  # bob was attached explicitly
    stop_attaching()
    async with member(server, "alice", None) as alice:
        await alice.publish(tone(450))
        await until(lambda: len(server.of("alice", "audio", after=1).packets) > 20)
        assert server.of("alice", "audio", after=1).read(KEYS["alice"])[0] == 0


async def test_a_rule_that_raises_lets_no_call_be_joined(server):
    def forgets(connection):
        return None

    attach_all(forgets)
    with pytest.raises(TypeError, match="e2ee must return an E2EEManager"):
        async with member(server, "alice", None):
            pass
    assert server.joins == []


async def test_connections_of_other_code_are_attached_too(server):
    async with member(server, "alice", encryption(KEYS)) as alice:
        made = PublisherPeerConnection(alice.connection, RTCConfiguration(iceServers=[]))
        foreign = RTCPeerConnection()
        alice.connection.publisher_pc = foreign
        for pc in (made, foreign):
            with pytest.raises(RuntimeError, match="attached already"):
                aiortc.attach(pc, alice.e2ee, local_id="alice", remote_id="bob")
        with pytest.raises(TypeError, match="must be an RTCPeerConnection"):
            alice.connection.publisher_pc = object()
        assert alice.connection.publisher_pc is foreign
        alice.connection.publisher_pc = None
        await made.close()
        await foreign.close()


async def test_the_adapter_wins_over_the_rule_for_all_connections_of_aiortc(monkeypatch):
    monkeypatch.setattr(process, "rule", None)
    aiortc.attach_all(encryption({}), local_id="rule", remote_id="rule")
    connection = ConnectionManager(None, "alice")
    attachment = attach(connection, encryption(KEYS))
    made = PublisherPeerConnection(connection, RTCConfiguration(iceServers=[]))
    made.addTrack(tone())
    aiortc.stop_attaching()
    assert not attachment.detached
    with pytest.raises(RuntimeError, match="attached already"):  # the rule's attachment would be replaced
        aiortc.attach(made, encryption(KEYS), local_id="alice", remote_id="bob")
    await made.close()


async def test_a_participant_who_left_leaves_no_state(server):
    e2ee = encryption(KEYS)
    async with member(server, "alice", encryption(KEYS)) as alice, member(server, "bob", e2ee) as bob:
        await alice.publish(tone(450))
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 450))
        assert e2ee.state("alice", "audio") == "DecryptionSuccess"
        await server.run(server.end("alice"))
        await until(lambda: e2ee.state("alice", "audio") is None)


async def test_a_call_that_is_over_is_freed(server):
    async with member(server, "alice", encryption(KEYS)) as alice:
        await alice.publish(tone(450))
        found = weakref.ref(alice.connection), weakref.ref(alice.attachment), weakref.ref(alice.connection.publisher_pc)
    del alice
    await until(lambda: gc.collect() >= 0 and not any(each() for each in found))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"e2ee": b"key"}, TypeError),
        ({"connection": object()}, TypeError),
        ({"local_id": b"alice"}, TypeError),
        ({"local_id": ""}, ValueError),
        ({"remote_id": "bob"}, TypeError),
        ({"announce": 1}, TypeError),
    ],
)
async def test_a_wrong_argument_is_refused_and_changes_nothing(change, error):
    connection = ConnectionManager(None, "alice")
    given = {"connection": connection, "e2ee": encryption(KEYS)} | change
    with pytest.raises(error):
        attach(given.pop("connection"), given.pop("e2ee"), **given)
    assert attach(connection, encryption(KEYS)).detached is False


async def test_a_call_without_a_user_is_refused():
    with pytest.raises(ValueError, match="local_id must be given"):
        attach(ConnectionManager(None), encryption(KEYS))
    assert attach(ConnectionManager(None), encryption(KEYS), local_id="alice")


async def test_a_call_that_is_not_announced_is_sealed_too(server):
    async with member(server, "alice", encryption(KEYS), announce=False) as alice:
        await alice.publish(tone(450))
        await until(lambda: len(server.of("alice", "audio").packets) > 30)
        assert_sealed(server.of("alice", "audio"), KEYS["alice"])
    assert not any("e2ee" in body for body in server.joins)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (peer_connection.PeerConnectionManager, "setup_subscriber"),
        (participants.ParticipantsState, "get_user_from_track_id"),
        (connection_utils, "join_call_coordinator_request"),
    ],
)
def test_an_sdk_that_is_built_otherwise_is_refused_and_left_unchanged(monkeypatch, owner, name):
    attach_all(encryption(KEYS))  # installs
    stop_attaching()
    monkeypatch.setattr(_State, "sdk", None)
    monkeypatch.setattr(owner, name, lambda: None)
    before = PublisherPeerConnection.__init__, connection_utils.build_body_dict
    with pytest.raises(UnsupportedStack, match=r"getstream 4\.3\.0 is not built"):
        attach_all(encryption(KEYS))
    assert (PublisherPeerConnection.__init__, connection_utils.build_body_dict) == before
    assert _State.rule is None
