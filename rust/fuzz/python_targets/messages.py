"""Checks the parsers of everything but frames: a LiveKit server's messages, a key server's answers, rotations, names.

The first byte of an input chooses the parser. The others are the message.
"""

from functools import cache
from types import SimpleNamespace

from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from frameseal import KeyRing
from frameseal._json import MAX_DEPTH, parse_json
from frameseal.archive.places import quoted, unquoted
from frameseal.codecs.rtp import media_type
from frameseal.keys import fetch
from frameseal.livekit import signalling
from frameseal.livekit.data import DataMessage, DataMessages, DataRefused
from frameseal.livekit.participants import Participants
from frameseal.tools.meet.rotation_message import MeetingKey, RotationOpener, RotationRefused

KEY = bytes(range(32))


def check(data: bytes) -> bool:
    """Pass the message to the chosen parser. Return True if it is accepted."""
    if not data:
        return False
    parsers = (_data, _participants, _json, _key, _rotation, _recording, _texts)
    return parsers[data[0] % len(parsers)](data[1:])


@cache
def _ring() -> KeyRing:
    ring = KeyRing("livekit")
    ring.set_key(KEY)
    return ring


def _e2ee():
    """Return what the parsers call of a manager."""
    return SimpleNamespace(
        profile="livekit",
        provider=SimpleNamespace(ring_for=lambda profile, participant_id: _ring()),
        report_not_encrypted=lambda *arguments, **keywords: None,
        remove_participant=lambda participant_id: None,
    )


def _data(data: bytes) -> bool:
    events = []
    messages = DataMessages(_e2ee(), lambda identity: identity == "alice", lambda *event: events.append(event))
    messages.receive(data)
    messages.receive(data)
    first = [event for event in events if isinstance(event[1], DataMessage)]
    assert len(first) <= 1, "a message opens twice"
    assert all(isinstance(event[1], DataMessage | DataRefused) for event in events) and len(events) <= 2
    return bool(first)


def _participants(data: bytes) -> bool:
    try:
        message = rtc.SignalResponse.FromString(data)
    except DecodeError:
        return False
    events = []
    participants = Participants(_e2ee(), lambda *event: events.append(event[0]), subscribes=True)
    participants.update(message.update.participants)
    participants.update(message.join.other_participants)
    present = [info.identity for info in message.update.participants]
    assert set(participants.by_identity) <= {*present, *(info.identity for info in message.join.other_participants)}
    assert all(track.participant.tracks[track.sid] is track for track in participants.tracks())
    participants.keep_only([])
    assert not participants.by_identity
    assert events.count("participant-joined") == events.count("participant-left")
    assert events.count("track-published") == events.count("track-unpublished")
    return bool(events)


def _json(data: bytes) -> bool:
    try:
        value = parse_json(data)
    except ValueError as error:
        assert f"{MAX_DEPTH} levels" in str(error) and error.__cause__ is None, "the error says more than it should"
        return False
    return value is not None


def _key(data: bytes) -> bool:
    key = fetch._parse_answer(data)
    return key is not None and len(key.key) >= fetch.MIN_KEY_BYTES and 0 <= key.key_id <= 255


@cache
def _present() -> MeetingKey:
    return MeetingKey("the passphrase of a meeting")


@cache
def _opener() -> RotationOpener:
    return RotationOpener(_present())


def _rotation(data: bytes) -> bool:
    try:
        return _opener().open(data).key_id == _present().key_id + 1
    except RotationRefused:
        return False


def _recording(data: bytes) -> bool:
    text = data.decode("utf-8", "surrogateescape")  # as the names of files are decoded
    recording = unquoted(text)
    assert recording is None or quoted(recording) == text
    return recording is not None


def _texts(data: bytes) -> bool:
    text = data.decode("latin-1")
    media_type(text)
    assert 0 <= fetch._wait(0, text) <= fetch.MAX_WAIT * (1 + fetch.JITTER)
    assert isinstance(signalling._subject_of(text), str | None)
    accepted = 0
    for judge in (signalling.checked_url, signalling.checked_token):
        try:
            judge(text)
        except ValueError as error:
            assert len(text) < 8 or text not in str(error), "the error quotes a secret"
        else:
            accepted += 1
    return accepted > 0
