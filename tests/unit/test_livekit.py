"""`frameseal.livekit` against a stand-in of a LiveKit server."""

import asyncio
import base64
import json

import pytest
from livekit.protocol import models, rtc

import frameseal
from frameseal import (
    AuthenticationFailed,
    DataCryptor,
    Decryptor,
    E2EEManager,
    E2EEState,
    ExternalE2EEKeyProvider,
    KeyProvider,
    MalformedFrame,
    ReplayedFrame,
    UnknownKey,
)
from frameseal.livekit import NotAdmitted, Room, RoomError, join, signalling
from frameseal.livekit import room as livekit_room
from frameseal.livekit.data import MAX_DATA_BYTES
from support.calls import PASSPHRASE, Sink, key_ring, plays, tone_track, until
from support.livekit_stand_in import TRAILER, serving
from support.secret_search import said_by

ALICE, BOB = "token of alice", "token of bob"
CONNECTED = models.ParticipantInfo.State.ACTIVE
GONE = models.ParticipantInfo.State.DISCONNECTED


@pytest.fixture
async def server():
    async with serving() as made:
        yield made


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(livekit_room, "FIRST_WAIT", 0.01)


def provider(passphrase: str | None = PASSPHRASE) -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider()
    if passphrase is not None:
        made.set_shared_key(passphrase)
    return made


def listened(room: Room) -> list:
    events: list = []
    for name in (
        *("participant-joined", "participant-left", "track", "track-ended", "track-muted", "data", "data-refused"),
        *("publication-muted", "reconnecting", "reconnected", "left"),
    ):
        room.on(name, lambda value, name=name: events.append((name, value)))
    return events


def names(events: list) -> list[str]:
    return [name for name, _ in events]


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


# --- media -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theirs", [PASSPHRASE, "another passphrase", None])
async def test_a_tone_is_heard_with_the_key_and_by_nobody_else(server, theirs):
    async with (
        join(server.url, BOB, provider(theirs), ice_servers=()) as second,
        join(server.url, ALICE, provider(), ice_servers=()) as first,
    ):
        events = listened(second)
        await first.publish(tone_track("aiortc"))
        await until(lambda: "track" in names(events))
        track = next(value for name, value in events if name == "track")
        assert (track.participant.identity, track.kind, track.encrypted) == ("alice", "audio", True)
        sink = Sink(track.media)
        await until(lambda: len(server.packets) > 60)
        if theirs == PASSPHRASE:
            await until(lambda: plays(sink))
        else:
            assert sink.empty
        opener = Decryptor(key_ring(), "opus")
        assert all(opener.decrypt(forwarded.payload) for forwarded in server.packets)  # not one in the clear
    (asked,) = [each.add_track for each in server.latest("alice").requests if each.HasField("add_track")]
    assert (asked.encryption, asked.disable_red) == (models.Encryption.Type.GCM, True)


async def test_each_participant_is_opened_with_the_key_of_their_identity(server):
    own, theirs = KeyProvider(), KeyProvider()
    own.set_key("alice", PASSPHRASE)
    theirs.set_key("alice", PASSPHRASE)
    theirs.set_key("bob", "the key of bob")
    async with (
        join(server.url, BOB, theirs, ice_servers=()) as second,
        join(server.url, ALICE, own, ice_servers=()) as first,
    ):
        tracks: list = []
        second.on("track", tracks.append)
        await first.publish(tone_track("aiortc"))
        await until(lambda: tracks)
        sink = Sink(tracks[0].media)
        await until(lambda: plays(sink))


async def test_a_track_that_is_declared_unsealed_is_reported_and_never_received(server):
    server.declares_plain = True
    async with (
        join(server.url, BOB, provider(), ice_servers=()) as second,
        join(server.url, ALICE, provider(), ice_servers=()) as first,
    ):
        events = listened(second)
        await first.publish(tone_track("aiortc"))
        await until(lambda: second.participants["alice"].tracks)
        (track,) = second.participants["alice"].tracks.values()
        assert not track.encrypted and second.e2ee.state("alice", "audio") is E2EEState.InternalError
        with pytest.raises(ValueError, match="sealed"):
            await second.subscribe(track)
        # A server that forwards it all the same finds nobody who opens it.
        await server.forwarder.connect_subscriber(server.latest("bob"), server.latest("bob").info.sid)
        await until(lambda: len(server.packets) > 60)
        assert "track" not in names(events)
        assert [each.frames_out for each in second._visit._subscriber.attachment.counters] == [0]
    assert not any(each.HasField("subscription") for each in server.latest("bob").requests)


async def test_without_a_key_no_packet_leaves(server):
    async with join(server.url, ALICE, provider(None), ice_servers=()) as room:
        track = tone_track("aiortc")
        await room.publish(track)
        await until(lambda: track.samples_sent > 48_000)
        with pytest.raises(UnknownKey):
            await room.send(b"hello")
    assert server.packets == []


async def test_muted_tracks_send_nothing_and_the_server_can_mute_but_not_unmute(server):
    async with join(server.url, ALICE, provider(), ice_servers=()) as room:
        events, source = listened(room), tone_track("aiortc")
        publication = await room.publish(source)
        await until(lambda: server.packets)
        await server.latest("alice").send(mute=rtc.MuteTrackRequest(sid=publication.sid, muted=True))
        await until(lambda: "publication-muted" in names(events))
        await asyncio.sleep(0.5)  # the frame that was being encoded, and packets under way
        sent, drawn = len(server.packets), source.samples_sent
        await server.latest("alice").send(mute=rtc.MuteTrackRequest(sid=publication.sid, muted=False))
        await until(lambda: source.samples_sent > drawn + 24_000)
        assert len(server.packets) == sent and publication.muted
        await room.mute(publication, False)
        await until(lambda: len(server.packets) > sent)
        with pytest.raises(ValueError, match="published already"):
            await room.publish(source)


# --- joining ---------------------------------------------------------------------------------------------------------


async def test_the_token_travels_in_a_header_and_stands_in_no_error(server):
    stranger = "a token of nobody"
    with pytest.raises(NotAdmitted) as caught:
        async with join(server.url, stranger, provider()):
            pass
    assert not any(stranger in text for text in said_by(caught.value))
    assert "token" not in server.queries[0]
    for server.refusing, hint in ((503, "503"), (404, "404: check the URL")):
        with pytest.raises(RoomError, match=hint) as caught:
            async with join(server.url, ALICE, provider()):
                pass
        assert type(caught.value) is RoomError and not any(ALICE in text for text in said_by(caught.value))


async def test_a_server_that_is_not_there_is_told_from_a_token_that_is_refused():
    with pytest.raises(RoomError, match="check the URL") as caught:
        async with join("ws://127.0.0.1:1", ALICE, provider()):
            pass
    assert type(caught.value) is RoomError and not any(ALICE in text for text in said_by(caught.value))


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(signalling, "ANSWER_TIMEOUT", 0.2)
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with silent:
        host, port = silent.sockets[0].getsockname()
        with pytest.raises(RoomError, match="TimeoutError"):
            async with join(f"ws://{host}:{port}", ALICE, provider()):
                pass


async def test_an_identity_that_is_not_the_tokens_is_refused(server):
    """A lying server could have this side seal with the key of another participant."""
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "alice"}).encode()).decode().rstrip("=")
    server.tokens = {token: "mallory" for token in (f"e30.{claims}.sig", "e30.W10.sig", "a.b.c", ALICE)}
    for token in server.tokens:
        room = join(server.url, token, provider())
        if "e30.ey" not in token:
            async with room as joined:
                assert joined.identity == "mallory"
            continue
        with pytest.raises(RoomError, match="another identity"):
            async with room:
                pass


async def test_a_server_that_ends_the_join_says_why(server):
    server.first = rtc.SignalResponse(leave=rtc.LeaveRequest(reason=models.DisconnectReason.JOIN_FAILURE))
    with pytest.raises(RoomError, match="JOIN_FAILURE"):
        async with join(server.url, ALICE, provider()):
            pass


async def test_what_the_token_does_not_grant_is_said_at_once(server):
    server.permission = models.ParticipantPermission(can_subscribe=True)
    async with join(server.url, ALICE, provider(), ice_servers=()) as room:
        with pytest.raises(RoomError, match="can_publish:"):
            await room.publish(tone_track("aiortc"))
        with pytest.raises(RoomError, match="can_publish_data"):
            await room.send(b"hello")
        granted = models.ParticipantInfo(identity="alice", permission=models.ParticipantPermission(can_publish=True))
        await server.latest("alice").send(update=rtc.ParticipantUpdate(participants=[granted]))
        await until(lambda: room._members.own.permission.can_publish)
        await room.publish(tone_track("aiortc"))


@pytest.mark.parametrize(("trailer", "known"), [(TRAILER, TRAILER), (b"", None), (b"short", None)])
async def test_the_trailer_of_blank_frames_comes_from_the_join_answer(server, trailer, known):
    server.trailer = trailer
    e2ee = E2EEManager(provider(), "livekit", sif_trailer=bytes(8))
    async with join(server.url, ALICE, e2ee) as room:
        assert (room.e2ee, room.identity, e2ee.sif_trailer) == (e2ee, "alice", known)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"url": "ftp://host"}, ValueError),
        ({"url": "wss://user:password@host"}, ValueError),
        ({"url": "wss://host/?access_token=x"}, ValueError),
        ({"token": "line\nbreak"}, ValueError),
        ({"token": b"bytes"}, TypeError),
        ({"e2ee": "a passphrase"}, TypeError),
        ({"attempts": -1}, ValueError),
        ({"ice_servers": ["stun:host"]}, TypeError),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(server, arguments, error):
    with pytest.raises(error):
        async with join(**{"url": server.url, "token": ALICE, "e2ee": provider(), **arguments}):
            pass
    assert server.headers == []


# --- reconnecting and leaving ----------------------------------------------------------------------------------------


async def test_a_lost_connection_is_joined_anew_with_a_fresh_token_and_its_tracks(server, quick):
    fresh = "a fresh token of alice"
    server.tokens[fresh] = "alice"
    tokens = iter([ALICE, fresh])

    async def token() -> str:
        return next(tokens)

    async with join(server.url, token, provider(), ice_servers=()) as room:
        events = listened(room)
        await room.publish(tone_track("aiortc"))
        await until(lambda: len(server.packets) > 20)
        await server.clients[0].socket.close()
        await until(lambda: "reconnected" in names(events))
        before = len(server.packets)
        await until(lambda: len(server.packets) > before + 20)
        opener = Decryptor(key_ring(), "opus")
        assert all(opener.decrypt(forwarded.payload) for forwarded in server.packets)
        ivs = [forwarded.payload[-14:-2] for forwarded in server.packets]
        assert len(set(ivs)) == len(ivs)  # no nonce is used again
        assert server.headers[1]["Authorization"] == f"Bearer {fresh}"
    assert [each.WhichOneof("message") for each in server.latest("alice").requests][-1] == "leave"


async def test_a_connection_that_the_server_closes_is_made_anew_although_the_web_socket_is_open(server, quick):
    async with join(server.url, ALICE, provider(), ice_servers=()) as room:
        events = listened(room)
        await room.publish(tone_track("aiortc"))
        await until(lambda: server.packets)
        await server.forwarder.close()
        await until(lambda: "reconnected" in names(events))
        server.packets.clear()
        await until(lambda: server.packets)


async def test_a_later_token_of_somebody_else_is_refused(server, quick):
    tokens = iter([ALICE, BOB])
    async with join(server.url, lambda: next(tokens), provider(), attempts=1) as room:
        await server.clients[0].socket.close()
        assert await room.wait_left() == "the connection was lost"
    await until(lambda: all(client.socket.closed for client in server.clients))


async def test_the_token_that_the_server_has_sent_since_is_used_to_join_anew(server, quick, caplog):
    fresh = "fresh token of alice"
    async with join(server.url, ALICE, provider()) as room:
        events = listened(room)
        server.tokens = {fresh: "alice"}  # the first token has expired
        await server.latest("alice").send(refresh_token=fresh)
        await server.latest("alice").send(pong_resp=rtc.Pong())
        await server.clients[0].socket.close()
        await until(lambda: "reconnected" in names(events))
    assert [each["Authorization"] for each in server.headers] == [f"Bearer {ALICE}", f"Bearer {fresh}"]
    assert "token of alice" not in caplog.text


async def test_a_token_that_cannot_be_made_now_is_asked_for_again(server, quick, caplog):
    made = iter([ALICE, OSError(f"no answer to {ALICE}"), ALICE])

    def token() -> str:
        value = next(made)
        if isinstance(value, OSError):
            raise value
        return value

    async with join(server.url, token, provider()) as room:
        events = listened(room)
        await server.clients[0].socket.close()
        await until(lambda: "reconnected" in names(events))
    assert len(server.headers) == 2 and "OSError" in caplog.text and ALICE not in caplog.text


async def test_a_token_that_has_expired_ends_the_room_with_a_reason(server, quick):
    async with join(server.url, ALICE, provider()) as room:
        server.tokens = {}
        await server.clients[0].socket.close()
        assert "not admitted" in await room.wait_left()
    assert len(server.headers) == 2


async def test_a_track_is_unpublished_while_the_connection_is_lost(server, quick):
    async with join(server.url, ALICE, provider(), ice_servers=(), attempts=1000) as room:
        events = listened(room)
        gone = await room.publish(tone_track("aiortc"))
        server.refusing = 503
        await server.clients[0].socket.close()
        await until(lambda: "reconnecting" in names(events))
        await room.unpublish(gone)
        server.refusing = 0
        await until(lambda: "reconnected" in names(events))
        server.packets.clear()
        await room.publish(tone_track("aiortc"))
        await until(lambda: server.packets)
        assert len(room.publications) == 1
    assert len([each for each in server.latest("alice").requests if each.HasField("add_track")]) == 1


async def test_a_track_that_is_muted_while_the_connection_is_lost_is_published_muted(server, quick):
    async with join(server.url, ALICE, provider(), ice_servers=(), attempts=1000) as room:
        events, source = listened(room), tone_track("aiortc")
        publication = await room.publish(source)
        server.refusing = 503
        await server.clients[0].socket.close()
        await until(lambda: "reconnecting" in names(events))
        await room.mute(publication)
        server.packets.clear()
        server.refusing = 0
        await until(lambda: "reconnected" in names(events))
        drawn = source.samples_sent
        await until(lambda: source.samples_sent > drawn + 24_000)
        assert server.packets == []
        await room.mute(publication, False)
        await until(lambda: server.packets)
    requests = server.latest("alice").requests
    assert [each.add_track.muted for each in requests if each.HasField("add_track")] == [True]
    assert [each.mute.muted for each in requests if each.HasField("mute")] == [False]


async def test_the_attempts_to_join_anew_are_bounded(server, quick):
    async with join(server.url, ALICE, provider(), attempts=2) as room:
        server.refusing = 503
        await server.clients[0].socket.close()
        assert await room.wait_left() == "the connection was lost"
        assert len(server.headers) == 3
        with pytest.raises(RoomError, match="not connected"):
            await room.send(b"hello")


async def test_a_server_that_asks_for_it_is_joined_anew(server, quick):
    async with join(server.url, ALICE, provider()) as room:
        events = listened(room)
        await server.clients[0].send(leave=rtc.LeaveRequest(can_reconnect=True))
        await until(lambda: "reconnected" in names(events))
    assert names(events)[:2] == ["reconnecting", "reconnected"]


async def test_a_participant_whom_the_server_removes_does_not_return(server, quick):
    async with join(server.url, ALICE, provider()) as room:
        leave = rtc.LeaveRequest(reason=models.DisconnectReason.PARTICIPANT_REMOVED)
        await server.clients[0].send(leave=leave)
        assert await room.wait_left() == "PARTICIPANT_REMOVED"
    assert len(server.headers) == 1


# --- participants ----------------------------------------------------------------------------------------------------


async def made(passphrase: str | None = PASSPHRASE) -> tuple[Room, list]:
    e2ee = E2EEManager(provider(passphrase), "livekit")
    room = Room("ws://127.0.0.1", ALICE, e2ee, ice_servers=(), subscribe=True, attempts=0)
    room._members.own.identity = "alice"
    return room, listened(room)


async def test_the_end_of_an_earlier_visit_does_not_end_a_later_one():
    room, events = await made()
    room._members.update([models.ParticipantInfo(identity="bob", sid="PA_1", state=CONNECTED)])
    room._members.update([models.ParticipantInfo(identity="bob", sid="PA_2", state=CONNECTED)])
    room._members.update([models.ParticipantInfo(identity="bob", sid="PA_1", state=GONE)])
    room._members.update([models.ParticipantInfo(identity="alice", sid="PA_0", state=CONNECTED)])
    await settled()
    assert names(events) == ["participant-joined", "participant-left", "participant-joined"]
    assert [each.sid for each in room.participants.values()] == ["PA_2"]


async def test_a_wish_to_hear_a_track_is_kept(server, quick):
    """News of the participant, and joining anew, do not subscribe again to what was unsubscribed."""
    track = models.TrackInfo(sid="TR_1", type=models.TrackType.AUDIO, mime_type="audio/opus", encryption=1)
    async with join(server.url, BOB, provider()), join(server.url, ALICE, provider()) as room:
        events = listened(room)
        server.latest("bob").info.tracks.append(track)
        await server.announce(server.latest("bob"))
        await until(lambda: wishes(server) == [True])
        (heard,) = room.participants["bob"].tracks.values()
        await room.subscribe(heard, False)
        server.latest("bob").info.tracks[0].muted = True
        await server.announce(server.latest("bob"))
        await until(lambda: "track-muted" in names(events))
        await until(lambda: wishes(server) == [True, False])
        await server.latest("alice").socket.close()
        await until(lambda: "reconnected" in names(events))
        assert wishes(server) == []
        await room.subscribe(heard)
        await until(lambda: wishes(server) == [True])
        await server.latest("alice").socket.close()
        await until(lambda: names(events).count("reconnected") == 2)
        await until(lambda: wishes(server) == [True])


def wishes(server) -> list[bool]:
    requests = server.latest("alice").requests
    return [each.subscription.subscribe for each in requests if each.HasField("subscription")]


# --- data ------------------------------------------------------------------------------------------------------------


def sealed(payload: bytes, ring=None) -> models.EncryptedPacket:
    inner = models.EncryptedPacketPayload(user=models.UserPacket(payload=payload, topic="chat"))
    iv, key_index, value = DataCryptor(ring or key_ring()).encrypt(inner.SerializeToString())
    return models.EncryptedPacket(iv=iv, key_index=key_index, encrypted_value=value)


async def test_only_sealed_data_of_participants_is_delivered_and_once():
    room, events = await made()
    room._members.update([models.ParticipantInfo(identity="bob", sid="PA_1", state=CONNECTED)])
    other = frameseal.KeyRing("livekit")
    other.set_passphrase("another passphrase")
    good = models.DataPacket(participant_identity="bob", encrypted_packet=sealed(b"hello"))
    for packet in (
        good,
        good,
        models.DataPacket(participant_identity="bob", encrypted_packet=sealed(b"hello", other)),
        models.DataPacket(participant_identity="bob", user=models.UserPacket(payload=b"in the clear")),
        models.DataPacket(participant_identity="nobody", encrypted_packet=sealed(b"hello")),
        models.DataPacket(
            participant_identity="bob", encrypted_packet=models.EncryptedPacket(iv=b"", key_index=1 << 31)
        ),
    ):
        room._messages.receive(packet.SerializeToString())
    for noise in (b"\xff\xff", "text", b""):
        room._messages.receive(noise)
    # A feigned return does not make the server's copy of a message new.
    room._members.update([models.ParticipantInfo(identity="bob", sid="PA_1", state=GONE)])
    room._members.update([models.ParticipantInfo(identity="bob", sid="PA_2", state=CONNECTED)])
    room._messages.receive(good.SerializeToString())
    await settled()
    (message,) = [value for name, value in events if name == "data"]
    assert (message.participant_id, message.payload, message.topic) == ("bob", b"hello", "chat")
    errors = [type(value.error) for name, value in events if name == "data-refused"]
    assert errors[:4] == [ReplayedFrame, AuthenticationFailed, MalformedFrame, MalformedFrame]
    assert errors[-1] is ReplayedFrame and len(errors) == 6


async def test_data_that_is_too_long_or_misaddressed_is_refused():
    room, _ = await made()
    for arguments, error in (
        ({"payload": bytes(MAX_DATA_BYTES + 1)}, ValueError),
        ({"payload": "text"}, TypeError),
        ({"payload": b"", "to": "bob"}, TypeError),
        ({"payload": b"", "topic": "\ud83d"}, ValueError),
        ({"payload": b""}, RoomError),
    ):
        with pytest.raises(error):
            await room.send(**arguments)
