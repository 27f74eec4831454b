"""Vectors of other implementations through the wheel, both directions (tests/vectors/README.md names their makers).

The wheel takes no IV from outside, so what we seal is compared in two steps: the independent reference makes the
vectors' bytes, and, given the IV that we drew, it makes ours.
"""

import json
from typing import Any

import pytest

import frameseal
from support import reference
from support.paths import VECTORS

LIVEKIT = json.loads((VECTORS / "livekit.json").read_text())
NATIVE = json.loads((VECTORS / "livekit-native.json").read_text())
FRAMES = LIVEKIT["frames"] + NATIVE["frames"]
PASSPHRASE = "my-shared-secret"
SECRETS: list[str | bytes] = [PASSPHRASE, PASSPHRASE.encode(), bytes(range(32))]


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


def ring_with(profile: str, secret: str | bytes, key_id: int = 0, **options: Any) -> frameseal.KeyRing:
    ring = frameseal.KeyRing(profile, key_ring_size=256, **options)
    if isinstance(secret, str):
        ring.set_passphrase(secret, key_id)
    else:
        ring.set_key(secret, key_id)
    return ring


def ring_of(case: dict[str, Any]) -> frameseal.KeyRing:
    """Find the secret whose AES key made a frame."""
    key = bytes.fromhex(case["aes_key_hex"])
    for profile in reference.SALTS:
        for secret in SECRETS:
            if reference.derive(profile, secret, len(key)) == key:
                return ring_with(profile, secret, case["key_index"], key_size=len(key) * 8)
    raise AssertionError(f"no secret of the vectors gives the key of {named(case)}")


@pytest.mark.parametrize("case", FRAMES, ids=named)
def test_every_frame_of_theirs_opens(case: dict[str, Any]) -> None:
    opened = frameseal.Decryptor(ring_of(case), case["codec"]).decrypt(bytes.fromhex(case["wire_hex"]))
    assert opened.hex() == case.get("decoded_hex", case["clear_hex"])


@pytest.mark.parametrize("case", FRAMES, ids=named)
def test_what_we_seal_is_what_they_would_have_sealed(case: dict[str, Any]) -> None:
    key, codec = bytes.fromhex(case["aes_key_hex"]), case["codec"]
    normal = bytes.fromhex(case.get("decoded_hex", case["clear_hex"]))
    iv, index = bytes.fromhex(case["iv_hex"]), case["key_index"]
    if case.get("decoded_equals_clear", True):
        assert reference.seal(key, normal, codec, iv, index).hex() == case["wire_hex"]

    sealed = frameseal.Encryptor(ring_of(case), codec).encrypt(bytes.fromhex(case["clear_hex"]))

    without_sei = reference.unseal(key, sealed, codec)
    assert without_sei == normal or "SEI" in named(case)
    ours = reference.take_apart(sealed, codec)
    assert ours.iv != iv
    assert reference.seal(key, without_sei, codec, ours.iv, index) == sealed


@pytest.mark.parametrize("case", LIVEKIT["kdf"], ids=lambda case: f"{case['name']} {case['key_bits']}")
def test_every_key_is_derived_as_they_derive_it(case: dict[str, Any]) -> None:
    if case["product"] == "videosdk" and case["key_bits"] == 256:
        with pytest.raises(ValueError, match="128"):
            frameseal.KeyRing("videosdk", key_size=256)
        return
    key, secret = bytes.fromhex(case["aes_key_hex"]), bytes.fromhex(case["input_hex"])
    ring = frameseal.KeyRing(case["product"], key_size=case["key_bits"])
    if case["kdf"] == "HKDF":
        ring.set_key(secret)
    elif "passphrase" in case:
        ring.set_passphrase(case["passphrase"])
    else:
        ring.set_passphrase(secret)
    assert frameseal.Decryptor(ring).decrypt(reference.seal(key, b"theirs", None, b"i" * 12)) == b"theirs"
    assert reference.unseal(key, frameseal.Encryptor(ring).encrypt(b"ours"), None) == b"ours"


@pytest.mark.parametrize("chain", LIVEKIT["ratchet_chains"], ids=named)
def test_every_ratchet_chain_goes_the_same_way(chain: dict[str, Any]) -> None:
    ring = frameseal.KeyRing(chain["product"])
    start = bytes.fromhex(chain["steps"][0]["material_hex"])
    (ring.set_passphrase if chain["kdf"] == "PBKDF2" else ring.set_key)(start)
    encryptor = frameseal.Encryptor(ring)
    for number, step in enumerate(chain["steps"]):
        if number:
            ring.ratchet()
        assert reference.unseal(bytes.fromhex(step["aes_key_hex"]), encryptor.encrypt(b"step"), None) == b"step"


@pytest.mark.parametrize("case", LIVEKIT["auto_ratchet"], ids=lambda case: f"{case['sender_steps_ahead']} steps ahead")
def test_a_sender_that_ratcheted_is_followed_within_the_window(case: dict[str, Any]) -> None:
    # LiveKit's worker tests one step only, whatever its window says; its native SDK, and we, go through the window.
    ring = ring_with("livekit", bytes(range(32)), ratchet_window=case["receiver_ratchetWindowSize"])
    assert frameseal.Decryptor(ring, "opus").decrypt(bytes.fromhex(case["wire_hex"])).hex() == case["clear_hex"]


@pytest.mark.parametrize("case", LIVEKIT["encode_edge"], ids=named)
def test_the_edge_cases_of_sending_come_out_as_the_worker_has_them_or_safer(case: dict[str, Any]) -> None:
    name, frame = named(case), bytes.fromhex(case["clear_hex"])
    ring = frameseal.KeyRing("livekit") if name.startswith("no key") else ring_with("livekit", PASSPHRASE)
    match name.split(maxsplit=1)[0].rstrip(":"):
        case "av1":
            with pytest.raises(ValueError, match="av1"):
                frameseal.Encryptor(ring, "av1")
        case "no":
            with pytest.raises(frameseal.UnknownKey):
                frameseal.Encryptor(ring, case["codec"]).encrypt(frame)
        case "vp8":  # the worker's pipe dies of these; here one frame is refused
            with pytest.raises(frameseal.MalformedFrame):
                frameseal.Encryptor(ring, case["codec"]).encrypt(frame)
        case "encryption":  # the worker has a switch that lets frames out in the clear; we have none
            assert frame[1:] not in frameseal.Encryptor(ring, case["codec"]).encrypt(frame)
        case "empty" | "h264":  # an access unit without a slice waits for one, as others do not agree how to seal it
            assert frameseal.Encryptor(ring, case["codec"]).encrypt(frame) == b""
        case other:
            raise AssertionError(f"a case that this test does not know: {other}")


def test_a_slice_less_access_unit_of_the_worker_opens() -> None:
    case = next(case for case in LIVEKIT["encode_edge"] if "without slice" in case["name"])
    key = reference.derive("livekit", PASSPHRASE)
    frame = bytes.fromhex(case["clear_hex"])
    # The vector's own IV holds start codes, which no receiver survives; under another IV the frame is sound.
    sealed = reference.seal(key, frame, "h264", bytes(range(0x40, 0x4C)), clear=10)
    assert sealed[:10].hex() == case["forwarded_hex"][:20]
    assert frameseal.Decryptor(ring_with("livekit", PASSPHRASE), "h264").decrypt(sealed) == frame


@pytest.mark.parametrize("case", LIVEKIT["decode_cases"], ids=named)
def test_receiving_comes_out_as_the_worker_has_it_or_safer(case: dict[str, Any]) -> None:
    name, wire, codec = named(case), bytes.fromhex(case["wire_hex"]), case["codec"]
    options = case.get("options", {})
    ring = frameseal.KeyRing("livekit", ratchet_window=options.get("ratchetWindowSize", 0))
    for key_id in case.get("receiver_key_indices", []):
        ring.set_passphrase("another" if name.startswith("wrong passphrase") else PASSPHRASE, key_id)
    if codec == "av1":
        with pytest.raises(ValueError, match="av1"):
            frameseal.Decryptor(ring, codec)
        return
    decryptor = frameseal.Decryptor(ring, codec)
    # Where the worker goes by signalling, the answer here is to refuse; frames that a server injects: test_sif.py.
    refused = name.startswith(("sender known", "encryption state", "SIF"))
    # What tells a VP8 key frame is its first byte, so there is no type to lose.
    if name.startswith("vp8 key frame fed as delta"):
        assert decryptor.decrypt(wire)[3:10] == wire[3:10]
        return
    if case["forwarded"] and not refused:
        assert decryptor.decrypt(wire).hex() == case["forwarded_hex"]
        return
    with pytest.raises(frameseal.FrameError) as failed:
        decryptor.decrypt(wire)
    reasons = {error["reason"] for error in case["errors"]}
    if "MissingKey" in reasons and len(wire) > 30 and wire[-2] == 12:
        assert (type(failed.value), failed.value.kid) == (frameseal.UnknownKey, wire[-1])
    elif "MissingKey" in reasons:  # what is no trailer names no key
        assert type(failed.value) is frameseal.MalformedFrame
    elif "InvalidKey" in reasons:
        kinds = frameseal.AuthenticationFailed, frameseal.MalformedFrame
        assert type(failed.value) is kinds[name.startswith("IV length")]


SHOWN_BY_SEALING = [case for case in LIVEKIT["nalu"] if not case.get("throws") and case["detectedCodec"] != "unknown"]


@pytest.mark.parametrize("case", SHOWN_BY_SEALING, ids=named)
@pytest.mark.parametrize("signalled", ["h264", "h265"])
def test_what_stays_clear_ends_two_bytes_into_the_slice_that_the_worker_finds(
    case: dict[str, Any], signalled: str
) -> None:
    frame, clear = bytes.fromhex(case["data_hex"]), case["unencryptedBytes"]
    sealed = frameseal.Encryptor(ring_with("livekit", PASSPHRASE), signalled).encrypt(frame)
    at = reference.clear_len(case["detectedCodec"], sealed)
    assert sealed[at - 6 : at] == b"\0\0\0\1" + frame[clear - 2 : clear]
    opened = reference.unseal(reference.derive("livekit", PASSPHRASE), sealed, case["detectedCodec"])
    assert opened[at:] == frame[clear:]


@pytest.mark.parametrize("case", [case for case in LIVEKIT["nalu"] if case not in SHOWN_BY_SEALING], ids=named)
def test_what_the_worker_finds_no_slice_in_is_held_back_or_refused(case: dict[str, Any]) -> None:
    ring = ring_with("livekit", PASSPHRASE)
    encryptor, frame = frameseal.Encryptor(ring, "h264"), bytes.fromhex(case["data_hex"])
    if "leading data" in case.get("throws", ""):
        with pytest.raises(frameseal.MalformedFrame):
            encryptor.encrypt(frame)
    elif named(case) == "h264 AUD only":
        # Too near the end to be seen, but not once it is sealed: receivers take it for a slice of H.265, and so do we.
        assert frameseal.Decryptor(ring, "h264").decrypt(encryptor.encrypt(frame)) == frame
    elif named(case).startswith("data partition"):
        # No slice to the worker, but a part of a picture: nobody may see it, in front of the next slice or elsewhere.
        with pytest.raises(frameseal.MalformedFrame):
            encryptor.encrypt(frame)
    else:
        assert encryptor.encrypt(frame) == b""


@pytest.mark.parametrize("case", LIVEKIT["rbsp"], ids=lambda case: case["raw_hex"] or "nothing")
def test_escapes_are_taken_out_of_what_is_received_as_the_worker_does(case: dict[str, Any]) -> None:
    key, iv, clear = reference.derive("livekit", PASSPHRASE), b"\x11" * 12, b"\0\0\0\1\x41\xe0"
    raw, escaped = bytes.fromhex(case["raw_hex"]), bytes.fromhex(case["escaped_hex"])
    assert bytes.fromhex(case["unescaped_hex"]) == raw
    # The vector is the beginning of the ciphertext; behind it a byte that ends every run of zeros.
    stream = reference.AESGCM(key).encrypt(iv, bytes(len(raw) + 1), None)[: len(raw) + 1]
    plain = bytes(a ^ b for a, b in zip(raw + b"\xff", stream, strict=True))
    sealed = reference.seal(key, clear + plain, "h264", iv)
    assert sealed.startswith(clear + escaped + b"\xff")
    assert frameseal.Decryptor(ring_with("livekit", PASSPHRASE), "h264").decrypt(sealed) == clear + plain


# The group is about a bare function; here it is judged by what goes out, so bytes that no sender would put in front of
# a slice are left out: ones without a start code, and start codes with no NAL unit behind.
START_CODES = [
    case
    for case in LIVEKIT["start_code_normalization"]
    if case["out_hex"].startswith("00000001") and not case["out_hex"].endswith("000001")
]


@pytest.mark.parametrize("case", START_CODES, ids=lambda case: case["in_hex"])
def test_start_codes_before_the_first_slice_become_four_bytes_long(case: dict[str, Any]) -> None:
    # Units that are no slices, so that the slice behind them is the first.
    before, after = (
        bytes.fromhex(case[name].replace("41", "67").replace("01bb", "0168")) for name in ("in_hex", "out_hex")
    )
    sealed = frameseal.Encryptor(ring_with("livekit", PASSPHRASE), "h264").encrypt(before + b"\0\0\1\x41\xe0\xaa\xbb")
    assert sealed.startswith(after + b"\0\0\0\1\x41\xe0")
    assert len(START_CODES) == 2
