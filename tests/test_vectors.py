"""Vectors of other implementations through the wheel, both directions (tests/vectors/README.md names their makers).

The wheel takes no IV from outside, so what we seal is compared in two steps: the independent reference makes the
vectors' bytes, and, given the IV that we drew, it makes ours.
"""

import json
from pathlib import Path
from typing import Any

import pytest

import frameseal
import reference

VECTORS = Path(__file__).parent / "vectors"
LIVEKIT = json.loads((VECTORS / "livekit.json").read_text())
NATIVE = json.loads((VECTORS / "livekit-native.json").read_text())
FRAMES = LIVEKIT["frames"] + NATIVE["frames"]
PASSPHRASE = "my-shared-secret"
SECRETS: list[str | bytes] = [PASSPHRASE, PASSPHRASE.encode(), bytes(range(32))]


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


def ring_with(profile: str, secret: str | bytes, key_id: int = 0, **options: Any) -> frameseal.KeyRing:
    ring = frameseal.KeyRing(profile, ring_size=256, **options)
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


def test_a_slice_less_access_unit_of_the_worker_opens() -> None:
    case = next(case for case in LIVEKIT["encode_edge"] if "without slice" in case["name"])
    key = reference.derive("livekit", PASSPHRASE)
    frame = bytes.fromhex(case["clear_hex"])
    # The vector's own IV holds start codes, which no receiver survives; under another IV the frame is sound.
    sealed = reference.seal(key, frame, "h264", bytes(range(0x40, 0x4C)), clear=10)
    assert sealed[:10].hex() == case["forwarded_hex"][:20]
    assert frameseal.Decryptor(ring_with("livekit", PASSPHRASE), "h264").decrypt(sealed) == frame


def test_frames_that_the_worker_drops_are_errors_and_frames_that_it_opens_open() -> None:
    ring, opened, refused = ring_with("livekit", PASSPHRASE), 0, 0
    for case in LIVEKIT["decode_cases"]:
        if case["codec"] == "av1" or not case["name"].startswith(
            ("valid", "tampered", "IV", "trunc", "plain", "key index 3")
        ):
            continue
        decryptor = frameseal.Decryptor(ring, case["codec"])
        if case["forwarded"]:
            assert decryptor.decrypt(bytes.fromhex(case["wire_hex"])).hex() == case["forwarded_hex"]
            opened += 1
        else:
            with pytest.raises(frameseal.FrameError):
                decryptor.decrypt(bytes.fromhex(case["wire_hex"]))
            refused += 1
    assert (opened, refused) == (1, 13)
