"""Sealed data channels: in a call over 127.0.0.1, and against whoever forwards the messages."""

import asyncio
import logging
from typing import Any

import pytest
from pyee.asyncio import AsyncIOEventEmitter

import frameseal
from frameseal.aiortc import seal_data_channel
from frameseal.datachannel import SealedDataChannel, wrap
from support.calls import STACKS, part

KEY = bytes(range(32))


def cryptor(key: bytes | None = KEY, bind_context: bool = True, profile: str = "livekit") -> frameseal.DataCryptor:
    ring = frameseal.KeyRing(profile, shared=profile == "sframe")
    if key:
        ring.set_key(key)
    return frameseal.DataCryptor(ring, bind_context)


class Pipe(AsyncIOEventEmitter):
    """One end of a channel in memory: what is sent is delivered to `other`, and kept."""

    def __init__(self, label: str = "chat") -> None:
        super().__init__()
        self.label, self.readyState, self.bufferedAmount = label, "open", 0
        self.sent: list[bytes | str] = []
        self.other: Pipe | None = None

    def send(self, data: bytes | str) -> None:
        self.sent.append(data)
        if self.other is not None:
            self.other.emit("message", data)

    def close(self) -> None:
        self.readyState = "closed"
        self.emit("close")


def collected(channel: SealedDataChannel) -> tuple[list[object], list[frameseal.FrameError]]:
    messages: list[object] = []
    refused: list[frameseal.FrameError] = []
    channel.on("message", messages.append)
    channel.on("message-refused", refused.append)
    return messages, refused


def pair(**options: Any) -> tuple[SealedDataChannel, SealedDataChannel]:
    a, b = Pipe(), Pipe()
    a.other, b.other = b, a
    alice = wrap(a, cryptor(**options), local_id="alice", remote_id="bob")
    return alice, wrap(b, cryptor(**options), local_id="bob", remote_id="alice")


@pytest.mark.parametrize("profile", ["livekit", "jitsi", "nextcloud", "sframe"])
@pytest.mark.parametrize("bind_context", [False, True])
def test_messages_arrive_as_they_were_sent_text_as_text(bind_context: bool, profile: str) -> None:
    alice, bob = pair(bind_context=bind_context, profile=profile)
    messages, refused = collected(bob)
    sent: list[bytes | str] = ["hello", b"hello", "", b"", "dåg 🔑", bytes(60_000)]
    for message in sent:
        alice.send(message)
    alice.send(bytearray(b"buffer"))
    assert messages == [*sent, b"buffer"]
    assert [type(message) for message in messages[:4]] == [str, bytes, str, bytes]
    assert refused == []
    assert isinstance(alice.channel, Pipe)
    assert all(isinstance(packet, bytes) and b"hello" not in packet for packet in alice.channel.sent)


def test_what_is_in_the_clear_altered_replayed_or_reflected_is_refused() -> None:
    alice, bob = pair()
    messages, refused = collected(bob)
    wire, home = bob.channel, alice.channel
    assert isinstance(wire, Pipe)
    assert isinstance(home, Pipe)
    reflected, refused_by_alice = collected(alice)
    alice.send("pay 10")
    packet = home.sent[0]
    assert isinstance(packet, bytes)
    for message in ("in the clear", b"in the clear", packet[:5] + bytes([packet[5] ^ 1]) + packet[6:], packet, b""):
        wire.emit("message", message)
    home.emit("message", packet)
    assert messages == ["pay 10"]
    assert [type(error).__name__ for error in refused] == [
        "MalformedFrame",
        "MalformedFrame",
        "AuthenticationFailed",
        "ReplayedFrame",
        "MalformedFrame",
    ]
    assert [type(error).__name__ for error in refused_by_alice] == ["AuthenticationFailed"]
    assert reflected == []


def test_an_sframe_channel_refuses_what_is_in_the_clear_altered_replayed_or_of_another_key() -> None:
    alice, bob = pair(profile="sframe")
    messages, refused = collected(bob)
    assert isinstance(bob.channel, Pipe)
    assert isinstance(alice.channel, Pipe)
    reflected, refused_by_alice = collected(alice)
    bob.send("hello")  # two senders under one key: each has a KID of its own
    alice.send("pay 10")
    packet = alice.channel.sent[0]
    assert isinstance(packet, bytes)
    eves = cryptor(bytes(32), profile="sframe").encrypt_packet(b"\x01pay 99")
    for message in ("in the clear", bytes([packet[0] | 1]) + packet[1:], packet, eves, b""):
        bob.channel.emit("message", message)
    alice.channel.emit("message", packet)
    assert (messages, reflected) == (["pay 10"], ["hello"])
    assert [type(error).__name__ for error in refused] == [
        "MalformedFrame",
        "AuthenticationFailed",
        "ReplayedFrame",
        "AuthenticationFailed",
        "MalformedFrame",
    ]
    assert [type(error).__name__ for error in refused_by_alice] == ["AuthenticationFailed"]


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_a_message_opens_in_its_own_channel_only(profile: str) -> None:
    alice, _ = pair(profile=profile)
    alice.send("for chat")
    assert isinstance(alice.channel, Pipe)
    other = Pipe("files")
    messages, refused = collected(wrap(other, cryptor(profile=profile), local_id="bob", remote_id="alice"))
    other.emit("message", alice.channel.sent[0])
    assert messages == []
    assert [type(error) for error in refused] == [frameseal.AuthenticationFailed]


def test_an_authentic_packet_that_is_no_message_is_refused() -> None:
    keys = cryptor(bind_context=False)
    wire = Pipe()
    messages, refused = collected(wrap(wire, cryptor(bind_context=False)))
    for payload in (b"", b"\x02x", b"\x01\xff"):
        wire.emit("message", keys.encrypt_packet(payload))
    assert messages == []
    assert [type(error) for error in refused] == [frameseal.MalformedFrame] * 3


def test_nothing_is_sent_without_a_key_and_the_caller_is_told() -> None:
    alice, _ = pair(key=None)
    with pytest.raises(frameseal.UnknownKey):
        alice.send("secret")
    with pytest.raises(TypeError, match="str or bytes, not int"):
        alice.send(5)  # type: ignore[arg-type]
    assert isinstance(alice.channel, Pipe)
    assert alice.channel.sent == []


def test_refusals_and_listeners_that_fail_are_logged_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "frameseal")
    alice, bob = pair()
    assert isinstance(bob.channel, Pipe)
    for _ in range(50):
        bob.channel.emit("message", b"noise")
    assert len(caplog.records) == 1

    @bob.on("message")
    def fails(message: object) -> None:
        raise RuntimeError("of the listener")

    alice.send("one")
    assert "of the listener" in caplog.text
    assert "one" not in caplog.messages[-1]


def test_the_channels_own_events_and_state_come_through() -> None:
    alice, _ = pair()
    assert isinstance(alice.channel, Pipe)
    seen: list[str] = []
    for event in ("open", "bufferedamountlow", "close"):
        alice.on(event, lambda event=event: seen.append(event))
        if event != "close":
            alice.channel.emit(event)
    assert (alice.label, alice.readyState, alice.bufferedAmount) == ("chat", "open", 0)
    alice.close()
    assert seen == ["open", "bufferedamountlow", "close"]
    assert alice.readyState == "closed"
    assert alice.event_names() == set()
    assert repr(alice) == "<SealedDataChannel>"


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
@pytest.mark.parametrize("stack", STACKS)
async def test_a_sealed_channel_between_two_peers(stack: str, profile: str) -> None:
    offerer, answerer = part(stack).RTCPeerConnection(), part(stack).RTCPeerConnection()
    received: asyncio.Queue[object] = asyncio.Queue()
    wire: list[bytes | str] = []
    bobs: list[SealedDataChannel] = []

    @answerer.on("datachannel")
    def announced(channel: Any) -> None:
        channel.on("message", wire.append)
        bob = wrap(channel, cryptor(profile=profile), local_id="bob", remote_id="alice")
        bob.on("message", received.put_nowait)
        bob.on("message-refused", received.put_nowait)
        bobs.append(bob)

    raw = offerer.createDataChannel("chat")
    alice = wrap(raw, cryptor(profile=profile), local_id="alice", remote_id="bob")
    opened, answers = asyncio.Event(), asyncio.Queue()
    alice.on("open", opened.set)

    @alice.on("message")
    async def answered(message: object) -> None:
        await answers.put(message)

    try:
        await offerer.setLocalDescription(await offerer.createOffer())
        await answerer.setRemoteDescription(offerer.localDescription)
        await answerer.setLocalDescription(await answerer.createAnswer())
        await offerer.setRemoteDescription(answerer.localDescription)
        await asyncio.wait_for(opened.wait(), 30)

        sent: list[bytes | str] = ["hello", b"\x00\x01", "", bytes(30_000)]
        for message in sent:
            alice.send(message)
        assert [await asyncio.wait_for(received.get(), 30) for _ in sent] == sent
        assert all(isinstance(packet, bytes) for packet in wire)
        if profile == "livekit":
            assert all(packet[:2] == b"\xf5\x01" for packet in wire)
        else:
            assert [packet[0] & 15 for packet in wire] == list(range(len(sent))), "the counters of SFrame headers"
        assert not any(b"hello" in packet for packet in wire if isinstance(packet, bytes))

        raw.send("past the wrapper")
        assert isinstance(await asyncio.wait_for(received.get(), 30), frameseal.MalformedFrame)

        bobs[0].send("and back")
        assert await asyncio.wait_for(answers.get(), 30) == "and back"
    finally:
        await asyncio.gather(offerer.close(), answerer.close())


@pytest.mark.parametrize("profile", ["livekit", "sframe", "videosdk"])
@pytest.mark.parametrize("own", [True, False], ids=["a key each", "a shared key"])
def test_a_channel_is_sealed_with_the_keys_of_the_calls_media(profile: str, own: bool) -> None:
    def call() -> frameseal.E2EEManager:
        keys = frameseal.KeyProvider()
        if own:
            keys.set_key("alice", KEY)
            keys.set_key("bob", bytes(range(40, 72)))
        else:
            keys.set_shared_key(KEY)
        return frameseal.E2EEManager(keys, profile)

    here, there = Pipe(), Pipe()
    here.other, there.other = there, here
    alice = seal_data_channel(here, call(), local_id="alice", remote_id="bob")
    bob = seal_data_channel(there, call(), local_id="bob", remote_id="alice")
    (heard_by_bob, _), (heard_by_alice, refused) = collected(bob), collected(alice)
    alice.send("hello")
    bob.send(b"hello yourself")
    assert (heard_by_bob, heard_by_alice) == (["hello"], [b"hello yourself"])
    here.emit("message", here.sent[0])
    assert len(refused) == 1, "sent back to who sent it"
    assert b"hello" not in b"".join(map(bytes, here.sent + there.sent))
