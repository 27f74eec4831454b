"""An audio codec that nobody has is one row: hook, states, diagnosis and inspection handle it with no line changed.

The core's half is rust/core/tests/rows.rs: its rows are made at compile time. So here `codec_info`, which would return
the core's row, and the two ciphers are stand-ins, which know the codec as an audio codec, like Opus.
"""

import asyncio
from types import SimpleNamespace

import pytest

from frameseal import Decryptor, E2EEState, Encryptor, KeyRing, Profile, codecs
from frameseal.aiortc import attach
from frameseal.aiortc.proxies import OpeningDecoder, SealingEncoder
from frameseal.codecs import CodecRow, plain
from frameseal.e2ee import call, diagnosis
from frameseal.inspection import readings
from frameseal.inspection.shapes import MAX_EXCERPTS, Shape
from frameseal.tools.cli import main
from support.calls import manager, part, record

NAME = "lyra"
TICKS = 320  # 20 ms of 16 kHz
KEY = bytes(range(32))
FRAMES = [b"\x5a" + number.to_bytes(2, "big") * 30 for number in range(MAX_EXCERPTS)]


def known_as(codec):
    return "opus" if codec == NAME else codec


class StandInEncryptor:
    def __new__(cls, ring, codec=None):
        return Encryptor(ring, known_as(codec))


class StandInDecryptor:
    def __new__(cls, ring, codec=None, *window, **options):
        return Decryptor(ring, known_as(codec), *window, **options)

    @staticmethod
    def holds_blank(profile, codec, frame):
        return codec != NAME and Decryptor.holds_blank(profile, codec, frame)


@pytest.fixture(autouse=True)
def row(monkeypatch):
    core = codecs.codec_info
    info = {"name": NAME, "kind": "audio", "clock_rate": 16_000, "clear_rule": "audio", "nal_header_len": 0}
    monkeypatch.setattr(codecs, "codec_info", lambda name: info if name == NAME else core(name))
    for module in (call, diagnosis, readings):
        monkeypatch.setattr(module, "Decryptor", StandInDecryptor)
    monkeypatch.setattr(call, "Encryptor", StandInEncryptor)
    row = CodecRow(
        name=NAME,
        ticks=lambda payload: TICKS,
        clear_len=plain.clear_audio,
        is_plain=lambda seen: plain.most([each.data[:1] == b"\x5a" for each in seen]),
    )
    monkeypatch.setitem(codecs.CODECS, NAME, row)
    return row


def slot_of(pc, owner, e2ee):
    attach(pc, e2ee, local_id="alice", remote_id="alice")
    slot = vars(owner)["_frameseal_slot"]
    slot.start()
    return slot


async def test_the_hook_seals_and_opens_it_and_reports_its_states(stack, monkeypatch):
    def untouched(codec, payload):
        raise AssertionError("RTP has no header of its own for an audio codec")

    monkeypatch.setattr(part(stack, "rtcrtpreceiver"), "depayload", untouched)
    codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters(f"audio/{NAME}", 16000, payloadType=97)
    sending, receiving = part(stack).RTCPeerConnection(), part(stack).RTCPeerConnection()
    ours, theirs = manager(), manager()
    sent, received = record(ours), record(theirs)
    sender = slot_of(sending, sending.addTransceiver("audio").sender, ours)
    receiver = slot_of(receiving, receiving.addTransceiver("audio").receiver, theirs)
    inner = SimpleNamespace(encode=lambda frame, force_keyframe: (FRAMES[:3], 1234))
    payloads, _ = SealingEncoder(inner, codec, sender).encode("frame", False)
    assert [payload.offset for payload in payloads] == [0, TICKS, 2 * TICKS]
    decoded = []
    decoder = OpeningDecoder(
        SimpleNamespace(decode=lambda frame: decoded.append(frame.data) or ["sound"]), codec, receiver
    )
    for payload in payloads:
        assert decoder.decode(SimpleNamespace(data=bytes(payload), timestamp=0)) == ["sound"]
    assert decoded == FRAMES[:3]
    assert decoder.decode(SimpleNamespace(data=b"\x5a a plain frame of the codec, with no trailer", timestamp=0)) == []
    await asyncio.sleep(0)
    states = [[(change.kind, change.state) for _, change in changes] for changes in (sent, received)]
    assert states[0] == [("audio", E2EEState.EncryptionSuccess)]
    assert states[1][0] == ("audio", E2EEState.DecryptionSuccess)
    assert (receiver.counters.codec, receiver.counters.frames_out, receiver.counters.keyframe_requests) == (NAME, 3, 0)
    await sending.close()
    await receiving.close()


def sealed_frames() -> list[bytes]:
    ring = KeyRing("livekit")
    ring.set_key(KEY)
    seal = StandInEncryptor(ring, NAME).encrypt
    return [seal(frame) for frame in FRAMES]


def test_inspection_reads_it(capsys):
    frame = sealed_frames()[0]
    first = readings.readings(frame, NAME)[0]
    assert first.likely and first.codec == NAME and first.parts[0].data == b"\x5a"
    assert [opener.profile for opener in readings.openers(frame, KEY, NAME)] == [Profile.LIVEKIT]
    assert main(["inspect", frame.hex(), "--codec", NAME, "--key-hex", KEY.hex()]) == 0
    assert f"The key opens it: profile livekit, codec {NAME}." in capsys.readouterr().out


def test_its_plain_frames_are_told_from_sealed_ones():
    assert readings.verdict(FRAMES, NAME) == readings.verdict(FRAMES) == (Shape.PLAIN, NAME)
    assert readings.verdict(sealed_frames(), NAME) == (Shape.TRAILER, NAME)
    seen = [plain.excerpt(frame) for frame in FRAMES]
    cause, _, proven = diagnosis.diagnose(FRAMES[-1], Profile.LIVEKIT, NAME, {}, None, seen)
    assert (cause, proven) == ("not_sealed", False)
