"""The search for a sender that has ratcheted ahead: what it finds, what it costs, and who pays (the Python surface)."""

import json
import os
import threading
from typing import Any

import pytest

import frameseal
from support.paths import VECTORS

LIVEKIT = json.loads((VECTORS / "livekit.json").read_text())
NEXTCLOUD = json.loads((VECTORS / "nextcloud.json").read_text())
JITSI = json.loads((VECTORS / "jitsi.json").read_text())
PASSPHRASE = "my-shared-secret"
RAW = bytes(range(32))


def ring(secret: str | bytes = PASSPHRASE, window: int = 0, profile: str = "livekit") -> frameseal.KeyRing:
    made = frameseal.KeyRing(profile, ratchet_window=window)
    (made.set_passphrase if isinstance(secret, str) else made.set_key)(secret)
    return made


def sealed_after(steps: int, secret: str | bytes = PASSPHRASE) -> bytes:
    sender = ring(secret)
    for _ in range(steps):
        sender.ratchet()
    return frameseal.Encryptor(sender, "opus").encrypt(b"\x78frame")


def forged(number: int = 0) -> bytes:
    return b"\x78" + number.to_bytes(28, "big") + b"i" * 12 + b"\x0c\x00"


def opens(decryptor: frameseal.Decryptor, frame: bytes) -> bool:
    try:
        return decryptor.decrypt(frame) == b"\x78frame"
    except frameseal.AuthenticationFailed:
        return False


def test_a_passphrase_sender_is_found_once_its_steps_have_been_derived_elsewhere() -> None:
    receiver = ring(window=3)
    decryptor = frameseal.Decryptor(receiver, "opus")
    frame = sealed_after(2)
    assert receiver.pending_ratchets == []
    assert not opens(decryptor, frame)
    assert receiver.pending_ratchets == [0]

    helper = threading.Thread(target=receiver.derive_ratchet_step, args=[0])
    helper.start()
    helper.join()
    assert not opens(decryptor, frame)
    assert receiver.derive_ratchet_step(0) is True

    assert opens(decryptor, frame)
    assert decryptor.stats()["ratchets"] == 2
    assert receiver.fingerprint() != ring().fingerprint()


def test_the_window_is_derived_once_however_many_frames_are_forged() -> None:
    receiver = ring(window=2)
    decryptor = frameseal.Decryptor(receiver, "opus")
    derived = 0
    for number in range(500):
        assert not opens(decryptor, forged(number))
        for key_id in receiver.pending_ratchets:
            receiver.derive_ratchet_step(key_id)
            derived += 1
    assert derived == 2
    assert receiver.derive_ratchet_step(0) is False
    assert decryptor.consecutive_failures == 500
    assert opens(decryptor, sealed_after(0)), "the key that was there is still tried first"
    assert decryptor.stats()["ratchets"] == 0


def test_two_threads_derive_each_step_once() -> None:
    receiver = ring(window=4)
    more: list[bool] = []
    threads = [threading.Thread(target=lambda: more.append(receiver.derive_ratchet_step(0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(more) == [False, True, True, True]


@pytest.mark.parametrize("ahead", [0, 1, 8, 16, 17])
def test_a_raw_key_is_followed_at_once_within_the_window(ahead: int) -> None:
    receiver = ring(RAW, window=16)
    decryptor = frameseal.Decryptor(receiver, "opus")
    assert opens(decryptor, sealed_after(ahead, RAW)) == (ahead <= 16)
    assert receiver.pending_ratchets == []


def test_a_step_that_was_taken_is_not_taken_back() -> None:
    decryptor = frameseal.Decryptor(ring(RAW, window=2), "opus")
    assert opens(decryptor, sealed_after(1, RAW))
    assert not opens(decryptor, sealed_after(0, RAW))
    assert opens(decryptor, sealed_after(3, RAW))


def test_deriving_for_a_key_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no key is set under id 5"):
        ring().derive_ratchet_step(5)


@pytest.mark.parametrize("case", JITSI["auto_ratchet"], ids=lambda case: f"{case['sender_steps_ahead']} steps ahead")
def test_jitsis_senders_are_followed_as_far_as_jitsi_follows_them(case: dict[str, Any]) -> None:
    decryptor = frameseal.Decryptor(ring(RAW, window=8, profile="jitsi"), "opus")
    frame = bytes.fromhex(case["wire_hex"])
    if case["decrypted"]:
        assert decryptor.decrypt(frame).hex() == case["clear_hex"]
    else:
        with pytest.raises(frameseal.AuthenticationFailed):
            decryptor.decrypt(frame)


@pytest.mark.parametrize("case", JITSI["frames"], ids=lambda case: case["name"])
def test_jitsis_frames_open(case: dict[str, Any]) -> None:
    receiver = frameseal.KeyRing("jitsi")
    receiver.set_key(bytes.fromhex(case["secret_hex"]), case["key_index"])
    decryptor = frameseal.Decryptor(receiver, case["codec"])
    assert decryptor.decrypt(bytes.fromhex(case["wire_hex"])).hex() == case["clear_hex"]


@pytest.mark.parametrize("case", NEXTCLOUD["auto_ratchet"], ids=lambda case: f"{case['sender_steps_ahead']} ahead")
def test_nextclouds_senders_are_followed_as_far_as_nextcloud_follows_them(case: dict[str, Any]) -> None:
    decryptor = frameseal.Decryptor(ring(RAW, window=case["window"], profile="nextcloud"), "vp8")
    frame = bytes.fromhex(case["wire_hex"])
    if case["decrypted"]:
        assert decryptor.decrypt(frame).hex() == case["clear_hex"]
    else:
        with pytest.raises(frameseal.AuthenticationFailed):
            decryptor.decrypt(frame)


@pytest.mark.parametrize("profile", ["jitsi", "nextcloud"])
def test_these_profiles_take_raw_keys_only_and_codecs_whose_frames_survive(profile: str) -> None:
    with pytest.raises(ValueError, match="no password KDF"):
        ring("text", profile=profile)
    for codec in ("vp9", "h264", "h265", "av1"):
        with pytest.raises(ValueError, match="no layout"):
            frameseal.Encryptor(ring(RAW, profile=profile), codec)


def test_frames_are_counted_until_the_key_is_exhausted() -> None:
    sender = frameseal.KeyRing("livekit", usage_limit=20)
    sender.set_key(RAW)
    assert (sender.frames_sealed(), sender.usage_limit, sender.usage_warning) == (0, 20, 15)
    encryptors = [frameseal.Encryptor(sender, codec) for codec in ("opus", "vp8")]
    for number in range(20):
        encryptors[number % 2].encrypt(b"\x10\x02\x00\x9d\x01\x2a\x08\x00\x08\x00 frame")
    for again in (sender.set_key, lambda _: None):
        again(RAW)  # the same key: its count stays
        with pytest.raises(frameseal.KeyExhausted) as error:
            encryptors[0].encrypt(b"\x78frame")
        assert error.value.kid == 0
        assert sender.frames_sealed() == 20
    sender.set_key(bytes(32))
    assert encryptors[0].encrypt(b"\x78frame")
    assert sender.frames_sealed() == 1


def family(limit: int, how: str) -> frameseal.KeyRing:
    sender = frameseal.KeyRing("sframe", usage_limit=limit, shared=how == "shared")
    if how == "epoch":
        sender.set_epoch(5, os.urandom(16), epoch_bits=4, sender_bits=2, sender_index=1)
    else:
        sender.set_key(os.urandom(16), key_id=5)
    return sender


@pytest.mark.parametrize("how", ["plain", "shared", "epoch"])
def test_sframe_keys_are_counted_and_exhausted_too(how: str) -> None:
    sender = family(8, how)
    encryptors = [frameseal.Encryptor(sender, codec) for codec in ("opus", "vp8")]
    data = frameseal.DataCryptor(sender)
    for number in range(4):
        encryptors[number % 2].encrypt(b"frame")
        data.encrypt_packet(b"message")
    assert sender.frames_sealed(5) == 8
    with pytest.raises(frameseal.KeyExhausted):
        encryptors[1].encrypt(b"frame")
    stats = encryptors[0].stats()
    assert (stats["frames"], stats["key_frames"], stats["key_limit"], stats["key_warning"]) == (2, 8, 8, 6)


def test_stats_say_how_far_the_sending_key_is_used_up() -> None:
    sender = frameseal.KeyRing("livekit")
    encryptor, other = (frameseal.Encryptor(sender, "opus") for _ in range(2))

    def of_key() -> tuple[int, int, int]:
        stats = encryptor.stats()
        return stats["key_frames"], stats["key_limit"], stats["key_warning"]

    assert of_key() == (0, 0, 0)
    sender.set_key(RAW)
    for each in (encryptor, other, other):
        each.encrypt(b"\x78frame")
    assert of_key() == (3, sender.usage_limit, sender.usage_warning) == (3, 2**32, int(2**24.5))
    sender.set_key(RAW)
    assert of_key()[0] == 3
    sender.ratchet()
    assert of_key()[0] == 0
    sender.remove_key(0)
    assert of_key() == (0, 0, 0)


def test_limits_that_nonces_do_not_allow_are_refused() -> None:
    for limit in (0, 2**32 + 1):
        with pytest.raises(ValueError, match="usage_limit must be between 1 and 4294967296"):
            frameseal.KeyRing("livekit", usage_limit=limit)
    unlimited = ring(RAW)
    assert (unlimited.usage_limit, unlimited.usage_warning) == (2**32, int(2**24.5))
    with pytest.raises(ValueError, match="no key"):
        unlimited.frames_sealed(3)


@pytest.mark.parametrize("case", LIVEKIT["auto_ratchet"], ids=lambda case: f"{case['sender_steps_ahead']} steps ahead")
def test_livekits_senders_are_followed_further_than_its_worker_follows_them(case: dict[str, Any]) -> None:
    receiver = ring(RAW, window=case["receiver_ratchetWindowSize"])
    assert frameseal.Decryptor(receiver, "opus").decrypt(bytes.fromhex(case["wire_hex"])).hex() == case["clear_hex"]
    for event in case["key_ratcheted_events"]:
        after = frameseal.KeyRing("livekit")
        after.set_key(bytes.fromhex(event["chain_hex"]))
        assert receiver.fingerprint() == after.fingerprint()
