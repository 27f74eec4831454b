"""Frames that a LiveKit server puts in, in the clear: which pass, how many, and that none counts as opened."""

import json
from pathlib import Path
from typing import Any

import pytest

import frameseal

CASES = json.loads((Path(__file__).parent / "vectors/livekit.json").read_text())["decode_cases"]
WITH_TRAILER = [case for case in CASES if case.get("options", {}).get("sif_trailer_hex")]
TRAILER = b"LK-ROCKS"
SILENCE = b"\xf8\xff\xfe" + bytes(77)

# livekit-client drops these since it does not know them; native SDKs and we know them.
KNOWN_TO_NATIVE = "SIF: h264 Annex-B SPS+PPS+IDR"


def decryptor(codec: str | None = "opus", key: bytes | None = bytes(32), **options: Any) -> frameseal.Decryptor:
    ring = frameseal.KeyRing("livekit")
    if key:
        ring.set_key(key)
    return frameseal.Decryptor(ring, codec, **options)


def test_the_vectors_are_there() -> None:
    assert len(WITH_TRAILER) == 8


@pytest.mark.parametrize("case", WITH_TRAILER, ids=lambda case: case["name"])
def test_what_the_worker_lets_pass_passes(case: dict[str, Any]) -> None:
    key = bytes(32) if case["receiver_key_indices"] else None
    receiver = decryptor(case["codec"], key, sif_trailer=bytes.fromhex(case["options"]["sif_trailer_hex"]))
    frame = bytes.fromhex(case["wire_hex"])
    if case["forwarded"]:
        assert receiver.decrypt(frame).hex() == case["forwarded_hex"]
    elif case["name"].startswith(KNOWN_TO_NATIVE):
        assert receiver.decrypt(frame) == frame[: -len(TRAILER)]
    else:
        with pytest.raises(frameseal.MalformedFrame):
            receiver.decrypt(frame)
    stats = receiver.stats()
    assert stats["injected"] + stats["injected_refused"] == 1
    assert stats["frames"] == stats["malformed"] == stats["unknown_key"] == receiver.consecutive_failures == 0


def test_an_injected_frame_can_be_told_from_an_opened_one() -> None:
    receiver = decryptor(sif_trailer=TRAILER)
    ring = frameseal.KeyRing("livekit")
    ring.set_key(bytes(32))
    sealed = frameseal.Encryptor(ring, "opus").encrypt(b"\x78frame")
    assert (receiver.decrypt(sealed), receiver.injected) == (b"\x78frame", 0)
    assert (receiver.decrypt(SILENCE + TRAILER), receiver.injected) == (SILENCE, 1)
    assert (receiver.decrypt(sealed), receiver.injected) == (b"\x78frame", 1)
    assert receiver.stats()["frames"] == 2


def test_a_hundred_in_a_row_pass_and_no_more() -> None:
    receiver = decryptor(sif_trailer=TRAILER)
    for _ in range(100):
        receiver.decrypt(SILENCE + TRAILER)
    with pytest.raises(frameseal.MalformedFrame):
        receiver.decrypt(SILENCE + TRAILER)
    assert receiver.stats()["injected"] == 100


def test_media_with_the_trailer_does_not_pass() -> None:
    receiver = decryptor(sif_trailer=TRAILER)
    with pytest.raises(frameseal.MalformedFrame):
        receiver.decrypt(b"\x78 a voice that is not in the room" + TRAILER)


def test_a_payload_of_another_codec_does_not_pass() -> None:
    for codec in ("vp8", "vp9", "h264", "h265", "pcmu", "g722", None):
        with pytest.raises(frameseal.MalformedFrame):
            decryptor(codec, sif_trailer=TRAILER).decrypt(SILENCE + TRAILER)


def test_it_is_off_unless_a_trailer_is_given() -> None:
    with pytest.raises(frameseal.FrameError):
        decryptor().decrypt(SILENCE + TRAILER)
    with pytest.raises(frameseal.FrameError):
        decryptor(sif_trailer=b"another trailer").decrypt(SILENCE + TRAILER)


@pytest.mark.parametrize("trailer", [b"", b"LK-ROCK"])
def test_a_trailer_that_chance_could_bring_about_is_refused(trailer: bytes) -> None:
    with pytest.raises(ValueError, match="at least 8 bytes"):
        decryptor(sif_trailer=trailer)
