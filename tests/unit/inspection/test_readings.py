"""`frameseal inspect` reads frames as their makers wrote them, and as the core does."""

import io
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from frameseal import CipherSuite, Decryptor, Encryptor, KeyRing, Profile
from frameseal.codecs import CODECS
from frameseal.codecs.plain import START_CODE
from frameseal.inspection.readings import Reading, key_id, openers, plaintext_signs, readings
from frameseal.inspection.shapes import IV_LEN, MIN_VERDICT_FRAMES
from frameseal.profiles import PROFILES
from frameseal.tools.cli import main
from support.paths import VECTORS
from support.plain_media import opus, pcm, video

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
    assert ("jitsi/nextcloud" in first.layout) == (case["codec"] in ("opus", "vp8"))
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


def test_each_value_of_an_sframe_header_has_its_own_range_small_ones_in_the_config_byte() -> None:
    for header, kid, ctr in (
        ("31", (0, 1), (0, 1)),
        ("900123", (1, 3), (0, 1)),
        ("39aabb", (0, 1), (1, 3)),
        ("99aabbccdd", (1, 3), (3, 5)),
    ):
        (reading,) = readings(bytes.fromhex(header) + bytes(20), "opus")
        ranges = [(part(reading, name).start, part(reading, name).end) for name in ("KID", "CTR", "SFrame header")]
        assert ranges == [kid, ctr, (0, len(header) // 2)]
        assert any(f"a header of {len(header) // 2} byte" in remark for remark in reading.remarks)
    for codec, front in (("h264", 5), ("h265", 6)):
        ring = KeyRing("sframe")
        ring.set_key(codec.encode() * 4, 0x123, counter=0)
        sealed = Encryptor(ring, codec).encrypt(b"\0\0\0\1\x65\x88" + bytes(range(40)))
        reading = readings(sealed, codec)[0]
        assert (part(reading, "KID").start, part(reading, "KID").end) == (front + 1, front + 3)
        assert part(reading, "KID").data == sealed[front + 1 : front + 3] == b"\x01\x23"


@pytest.mark.parametrize("suite", CipherSuite)
def test_a_raw_key_tells_the_suite_too_which_a_frame_does_not(suite: CipherSuite) -> None:
    ring = KeyRing("sframe", suite=suite, allow_draft=True)
    ring.set_key(b"suite of a frame" + bytes([suite]), 5)
    sealed = Encryptor(ring, "opus").encrypt(bytes(range(200)))
    (opener,) = openers(sealed, b"suite of a frame" + bytes([suite]), "opus")
    assert opener == (Profile.SFRAME, "any", suite)


@pytest.mark.parametrize("codec", ["opus", "vp8", "h264"])
@pytest.mark.parametrize("profile", [profile for profile in Profile if PROFILES[profile]["accepts_passphrases"]])
def test_a_passphrase_tells_the_profile(profile: Profile, codec: str) -> None:
    ring = KeyRing(profile, shared=profile is Profile.SFRAME)
    ring.set_passphrase("a passphrase", 2)
    head = {"opus": b"\x78", "vp8": b"\x10\x02\x00\x9d\x01\x2a\x08\0\x08\0", "h264": b"\0\0\0\1\x65\x88"}[codec]
    sealed = Encryptor(ring, codec).encrypt(head + bytes(range(200)))
    assert profile in {opener.profile for opener in openers(sealed, "a passphrase", codec)}
    assert {opener.profile for opener in openers(sealed, "a passphrase")} == {profile}
    assert openers(sealed, "another passphrase") == []


@pytest.mark.parametrize("profile", Profile)
def test_a_raw_key_tells_the_profile(profile: Profile) -> None:
    ring = KeyRing(profile, shared=profile is Profile.SFRAME)
    ring.set_key(bytes(range(32)), 2)
    sealed = Encryptor(ring, "vp8").encrypt(b"\x10\x02\x00\x9d\x01\x2a\x08\0\x08\0" + bytes(range(200)))
    assert {opener.profile for opener in openers(sealed, bytes(range(32)))} == {profile}


FIRST_FRAMES = {
    "opus": lambda: opus(24_000)[0],
    **{codec: partial(lambda codec: pcm(codec, "speech", 20)[0], codec) for codec in ("pcmu", "pcma", "g722")},
    **{codec: partial(lambda codec: video(codec)[0], codec) for codec in ("vp8", "vp9", "h264", "h265")},
    "av1": lambda: b"\x12\x00\x0a" + bytes(200),  # a temporal delimiter (AV1 specification, section 5.6), and more
}


@pytest.mark.parametrize(
    ("profile", "codec"),
    [(p, c) for p in Profile for c in CODECS if c not in PROFILES[p]["refused_codecs"]],
)
def test_the_core_reads_the_key_id_that_inspection_reads(profile: Profile, codec: str) -> None:
    frame = FIRST_FRAMES[codec]()
    ring = KeyRing(profile, key_ring_size=256, shared=profile is Profile.SFRAME)
    reader = Decryptor(ring, codec)
    for key in (0, 3, 200, 255):
        ring.set_key(bytes(range(32)), key)
        ring.sending_key_id = key
        sealed = Encryptor(ring, codec).encrypt(frame)
        assert reader.key_id_of(sealed) == key_id(sealed, profile, codec)
        assert reader.key_id_of(sealed) & 0xFF == key
    assert reader.key_id_of(b"") is None and reader.key_id_of(b"short") is None
    assert not any(reader.stats().values())


def test_plaintext_is_recognised_and_sealed_frames_are_not() -> None:
    vp8 = b"\x10\x02\x00\x9d\x01\x2a\x08\0\x08\0" + bytes(range(90))
    h264 = b"\0\0\0\1\x67\x42\0\0\0\1\x65\x88\x11\x12\0\0\1\x65\x44\x55\x66"
    assert plaintext_signs(vp8) and plaintext_signs(h264)
    ring = KeyRing("livekit")
    ring.set_passphrase("a passphrase")
    assert plaintext_signs(Encryptor(ring, "vp8").encrypt(vp8)) == []
    assert plaintext_signs(Encryptor(ring, "h264").encrypt(h264)) == []


MEDIA = {
    "opus": opus(12000),
    "opus, 24": opus(24000),
    "vp8": video("vp8"),
    "vp9": video("vp9"),
    "h264": video("h264"),
    "h265": video("h265"),
}


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("told", [True, False], ids=["codec told", "codec not told"])
def test_several_frames_tell_whether_they_were_sealed_and_one_does_not(
    name: str, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = name.partition(",")[0]
    options = ["--codec", codec] if told else []

    def inspected(frames: list[bytes], *more: str) -> tuple[int, str]:
        paths = [tmp_path / str(number) for number in range(len(frames))]
        for path, frame in zip(paths, frames, strict=True):
            path.write_bytes(frame)
        status = main(["inspect", *map(str, paths), *options, *more])
        return status, capsys.readouterr().out

    plain = list(MEDIA[name][8 : 8 + MIN_VERDICT_FRAMES])
    status, shown = inspected(plain)
    assert status == 1
    assert f"12 frames: they look like {codec} that was never sealed" in shown
    for frame in plain:
        assert inspected([frame])[0] == 1 or frame[-2] == IV_LEN  # by chance, one in 256
    status, shown = inspected(plain[1:])
    assert status == 1 and "too few to decide: pass 12" in shown
    for profile, said in (
        ("livekit", "they have the trailer of the profiles"),
        ("stream", "they have the footer of the profile stream"),
        ("sframe", "the counter advances"),
    ):
        if codec in PROFILES[profile]["refused_codecs"]:
            continue
        ring, key = KeyRing(profile), os.urandom(16)
        ring.set_key(key, 3)
        ring.sending_key_id = 3
        seal = Encryptor(ring, codec).encrypt
        frames = [sealed for sealed in map(seal, MEDIA[name]) if sealed][: MIN_VERDICT_FRAMES + 4]
        status, shown = inspected(frames)
        assert status == 0 and said in shown, profile
        assert inspected(frames, "--key-hex", key.hex())[0] == 0
        assert inspected(frames, "--key-hex", "11" * 16)[0] == 1


@pytest.mark.parametrize("codec", ["opus", "vp8", "vp9", "h264"])
@pytest.mark.parametrize(("size", "suite"), [(16, "AES_128_GCM_SHA256_128"), (32, "AES_256_GCM_SHA512_128")])
def test_one_frame_with_a_footer_is_told_apart_and_its_key_tells_the_suite(
    codec: str, size: int, suite: str, capsys: pytest.CaptureFixture[str]
) -> None:
    media = {"vp8": b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00", "vp9": b"\x82\x49\x83\x42", "opus": b"\xf8"}
    ring, key = KeyRing("stream"), os.urandom(size)
    ring.set_key(key)
    sealed = Encryptor(ring, codec).encrypt(media.get(codec, b"\0\0\0\1\x65\x88") + bytes(range(40))).hex()
    assert main(["inspect", sealed]) == 0
    shown = capsys.readouterr().out
    assert "\n\nstream: likely\n" in shown and "never have been sealed" not in shown
    assert main(["inspect", sealed, "--key-hex", key.hex()]) == 0
    assert f"The key opens it: profile stream, codec any, suite {suite}." in capsys.readouterr().out
    assert main(["inspect", sealed, "--key-hex", "11" * size]) == 1
    assert main(["inspect", sealed[:-2]]) == 1, "without its end it is not known"


def test_one_sframe_is_possible_and_cannot_be_told_from_opus(capsys: pytest.CaptureFixture[str]) -> None:
    ring = KeyRing("sframe")
    key = os.urandom(16)
    ring.set_key(key, 5)
    sealed = Encryptor(ring, "opus").encrypt(bytes(range(40))).hex()
    assert main(["inspect", sealed, "--codec", "opus"]) == 1
    shown = capsys.readouterr().out
    assert "sframe: possible" in shown and "One frame is too few to decide" in shown
    assert main(["inspect", sealed, "--codec", "opus", "--key-hex", key.hex()]) == 0
    assert "The key opens it: profile sframe" in capsys.readouterr().out


def test_a_frame_of_nothing_but_start_codes_is_read_in_one_pass() -> None:
    frame = b"\0\0\0\1\x65\x88" + b"\0\0\1\x65" * 50_000
    taken = [match.start() for match in START_CODE.finditer(frame)]
    assert len(taken) == 50_001
    assert CODECS["h264"].clear_len(frame) == 6
    assert CODECS["h264"].clear_len(b"\0\0\0\1\x67" + b"\0\0\1\x67" * 50) is None
    assert plaintext_signs(frame)


@pytest.mark.parametrize("length", range(40))
def test_short_frames_are_read_or_refused_and_nothing_else(length: int) -> None:
    for filler in (0x00, 0x0C, 0x80, 0x9F, 0xFF):
        for reading in readings(bytes([filler]) * length):
            assert all(0 <= piece.start <= piece.end <= length for piece in reading.parts)


OPUS = next(case for case in FRAMES if case["name"] == "opus 20 bytes")["wire_hex"]


def test_the_command_shows_ranges_and_says_what_is_likely(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", OPUS, "--codec", "opus", "--passphrase", "my-shared-secret"]) == 0
    shown = capsys.readouterr().out
    assert "livekit/videosdk/jitsi/nextcloud, opus: likely" in shown
    assert "[   36:   48)  IV                      11223344000003c0ffff83c1" in shown
    assert "The key opens it: profile livekit, codec opus." in shown


@pytest.mark.parametrize("content", [bytes.fromhex(OPUS), f"{OPUS}\n".encode()], ids=["bytes", "hex"])
def test_a_file_and_standard_input_hold_the_bytes_or_their_hex_digits(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "frame.bin"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    for argument in (OPUS, str(path), "-"):
        assert main(["inspect", argument]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"{len(OPUS) // 2} bytes\n\nlivekit/videosdk/jitsi/nextcloud, opus: likely")


def test_hex_digits_may_be_as_long_as_frames_are_and_written_as_tools_write_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = [OPUS[at : at + 2] for at in range(0, len(OPUS), 2)]
    for written in (":".join(pairs), " ".join(pairs), "0x" + ", 0x".join(pairs), OPUS.upper()):
        assert main(["inspect", written]) == 0
        assert "key index               0" in capsys.readouterr().out
    assert main(["inspect", "78" * 2000 + OPUS]) == 0
    assert capsys.readouterr().out.startswith(f"{2000 + len(pairs)} bytes\n")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["ff" * 3], 1, "No layout fits"),
        ([OPUS, "--key-hex", "00" * 16], 1, "No profile opens it"),
        (["neither/file/nor/hex"], 2, "a frame must be a file, or hex digits"),
        (["abc"], 2, "two for each byte"),
        (["q" * 5000], 2, "a frame must be a file, or hex digits"),
        (["."], 2, "a frame must be a file, or hex digits"),
        ([""], 1, "No layout fits"),
        ([OPUS, "--key-hex", "0011"], 2, "16 bytes"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments]) == status
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert all(len(line) < 160 for line in shown.err.splitlines())
