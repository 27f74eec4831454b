"""`frameseal inspect` reads frames as their makers wrote them, and as the core does."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from frameseal import Encryptor, KeyRing, Profile
from frameseal.cli import main
from frameseal.inspection import Reading, openers, plaintext_signs, readings

VECTORS = Path(__file__).parent / "vectors"
FRAMES = [
    case
    for name in ("livekit.json", "livekit-native.json")
    for case in json.loads((VECTORS / name).read_text())["frames"]
]
SFRAMES = json.loads((VECTORS / "sframe-rfc9605.json").read_text())


def part(reading: Reading, name: str) -> Any:
    return next(part for part in reading.parts if part.name == name)


@pytest.mark.parametrize("case", FRAMES, ids=lambda case: case["name"])
def test_a_trailer_is_taken_to_pieces_as_its_maker_put_it_together(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["wire_hex"])
    first = readings(sealed, case["codec"])[0]
    assert first.layout.startswith("livekit/videosdk")
    assert ("jitsi" in first.layout) == (case["codec"] in ("opus", "vp8"))
    assert first.likely
    assert part(first, "clear bytes (AAD)").data.hex() == case["aad_hex"]
    assert part(first, "IV").data.hex() == case["iv_hex"]
    assert part(first, "key index").note == str(case["key_index"])
    body = first.parts[1:]
    assert all(left.end == right.start for left, right in zip(first.parts, body, strict=False))
    assert (
        sum(len(piece.data) for piece in first.parts)
        == len(sealed) - case["escapes_inserted" if "escapes_inserted" in case else "key_index"]
    )


@pytest.mark.parametrize("case", SFRAMES["header"][::7], ids=lambda case: case["encoded"])
def test_an_sframe_header_says_what_it_says(case: dict[str, Any]) -> None:
    reading = next(r for r in readings(bytes.fromhex(case["encoded"]) + bytes(20)) if r.layout == "sframe")
    assert (part(reading, "KID").note, part(reading, "CTR").note) == (str(case["kid"]), str(case["ctr"]))
    assert part(reading, "SFrame header").data.hex() == case["encoded"]


@pytest.mark.parametrize("codec", ["opus", "vp8", "h264"])
@pytest.mark.parametrize("profile", [profile for profile in Profile if profile is not Profile.JITSI])
def test_a_passphrase_tells_the_profile(profile: Profile, codec: str) -> None:
    ring = KeyRing(profile, shared=profile is Profile.SFRAME)
    ring.set_passphrase("a passphrase", 2)
    head = {"opus": b"\x78", "vp8": b"\x10\x02\x00\x9d\x01\x2a\x08\0\x08\0", "h264": b"\0\0\0\1\x65\x88"}[codec]
    sealed = Encryptor(ring, codec).encrypt(head + bytes(range(200)))
    assert profile in {opener for opener, _ in openers(sealed, "a passphrase", codec)}
    assert {opener for opener, _ in openers(sealed, "a passphrase")} == {profile}
    assert openers(sealed, "another passphrase") == []


@pytest.mark.parametrize("profile", Profile)
def test_a_raw_key_tells_the_profile(profile: Profile) -> None:
    ring = KeyRing(profile, shared=profile is Profile.SFRAME)
    ring.set_key(bytes(range(32)), 2)
    sealed = Encryptor(ring, "vp8").encrypt(b"\x10\x02\x00\x9d\x01\x2a\x08\0\x08\0" + bytes(range(200)))
    assert {opener for opener, _ in openers(sealed, bytes(range(32)))} == {profile}


def test_plaintext_is_recognised_and_sealed_frames_are_not() -> None:
    vp8 = b"\x10\x02\x00\x9d\x01\x2a\x08\0\x08\0" + bytes(range(90))
    h264 = b"\0\0\0\1\x67\x42\0\0\0\1\x65\x88\x11\x12\0\0\1\x65\x44\x55\x66"
    assert plaintext_signs(vp8) and plaintext_signs(h264)
    ring = KeyRing("livekit")
    ring.set_passphrase("a passphrase")
    assert plaintext_signs(Encryptor(ring, "vp8").encrypt(vp8)) == []
    assert plaintext_signs(Encryptor(ring, "h264").encrypt(h264)) == []


@pytest.mark.parametrize("length", range(40))
def test_short_frames_are_read_or_refused_and_nothing_else(length: int) -> None:
    for filler in (0x00, 0x0C, 0x80, 0x9F, 0xFF):
        for reading in readings(bytes([filler]) * length):
            assert all(0 <= piece.start <= piece.end <= length for piece in reading.parts)


OPUS = next(case for case in FRAMES if case["name"] == "opus 20 bytes")["wire_hex"]


def test_the_command_shows_ranges_and_says_what_is_likely(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", OPUS, "--codec", "opus", "--passphrase", "my-shared-secret"]) == 0
    shown = capsys.readouterr().out
    assert "livekit/videosdk/jitsi, opus: likely" in shown
    assert "[   36:   48)  IV                      11223344000003c0ffff83c1" in shown
    assert "The key opens it: profile livekit, codec opus." in shown


def test_a_file_and_standard_input_hold_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "frame.bin"
    path.write_bytes(bytes.fromhex(OPUS))
    assert main(["inspect", str(path)]) == 0
    from_file = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes.fromhex(OPUS))))
    assert main(["inspect", "-"]) == 0
    assert capsys.readouterr().out == from_file


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["ff" * 3], 1, "No layout fits"),
        ([OPUS, "--key-hex", "00" * 16], 1, "No profile opens it"),
        (["neither/file/nor/hex"], 2, "neither a file nor hex digits"),
        ([OPUS, "--key-hex", "0011"], 2, "16 bytes"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments]) == status
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
