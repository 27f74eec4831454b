"""Why frames do not open: each mistake that people make is named, and nothing else is taken for it."""

import asyncio

import pytest

from e2ee_helpers import AUDIO, KEY, OTHER_KEY, VIDEO, delivered, provider
from frameseal import Decryptor, E2EEManager, Encryptor, KeyRing, Profile
from frameseal._native import Secret
from frameseal.diagnosis import ADVICE, FAILURES_BEFORE, diagnose
from frameseal.inspection import IV_LEN

TEXT = "sixteen letters and more"


def sealed(profile: str, key: str | bytes, *, key_id: int = 0, frame: bytes = AUDIO, codec: str = "opus") -> bytes:
    far = provider(None)
    far.set_shared_key(key, key_id=key_id)
    return Encryptor(far.ring_for(Profile(profile), "bob"), codec).encrypt(frame)


def verdict(frame, key, profile="livekit", codec="opus", key_id=0):
    secrets = {} if key is None else {0: Secret(key)}
    cause, advice, proven = diagnose(frame, Profile(profile), codec, secrets, key_id)
    assert advice
    return cause, proven


@pytest.mark.parametrize("profile", ["livekit", "videosdk"])
def test_text_against_bytes_is_told_in_both_directions(profile):
    assert verdict(sealed(profile, TEXT.encode()), TEXT, profile) == ("hkdf", True)
    assert verdict(sealed(profile, TEXT), TEXT.encode(), profile) == ("pbkdf2", True)
    assert "pass bytes, not str" in ADVICE["hkdf"]


@pytest.mark.parametrize("key", [TEXT, KEY])
def test_another_vendors_salt_is_named(key):
    cause, advice, proven = diagnose(sealed("videosdk", key), Profile.LIVEKIT, "opus", {0: Secret(key)}, 0)
    assert (cause, proven) == ("other_salt", True)
    assert "profile videosdk" in advice


def test_another_salt_and_the_other_kdf_at_once_are_found_too():
    assert verdict(sealed("videosdk", TEXT.encode()), TEXT) == ("other_salt", True)


@pytest.mark.parametrize("key", [TEXT, KEY])
@pytest.mark.parametrize(("theirs", "ours"), [("sframe", "livekit"), ("livekit", "sframe"), ("sframe", "videosdk")])
def test_another_profile_is_proven_by_the_key_and_otherwise_seen(key, theirs, ours):
    frame = sealed(theirs, key)
    cause, advice, proven = diagnose(frame, Profile(ours), "opus", {0: Secret(key)}, None)
    assert (cause, proven) == ("other_profile", True)
    assert theirs in advice
    if theirs == "livekit":  # an SFrame with a KID that was drawn looks like anything
        assert verdict(frame, OTHER_KEY, ours, key_id=None) == ("other_profile", False)


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_the_right_key_under_another_id_is_found(profile):
    frame = sealed(profile, KEY, key_id=4)
    cause, advice, proven = diagnose(frame, Profile(profile), "opus", {0: Secret(KEY)}, 4)
    assert "under the key id 4" in advice
    assert (cause, proven) == ("other_key_id", True)


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_a_wrong_key_is_called_one_and_not_proven(profile):
    frame = sealed(profile, OTHER_KEY)
    while profile == "sframe" and frame[-2] == IV_LEN:  # one tag in 256 ends as a trailer does
        frame = sealed(profile, OTHER_KEY)
    assert verdict(frame, KEY, profile, key_id=None) == ("wrong_key", False)
    assert verdict(frame, None, profile, key_id=None) == ("wrong_key", False)


def test_media_that_was_never_sealed_is_told_apart():
    keyframe = b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00" + bytes(range(60))
    assert verdict(keyframe, KEY, codec="vp8", key_id=None) == ("not_sealed", False)
    h264 = b"\0\0\0\1\x67\x42\0\0\0\1\x68\xce" + b"\0\0\0\1\x65" + b"\x88" * 40 + b"\0\0\0\1\x65" + b"\x99" * 40
    assert verdict(h264, KEY, codec="h264", key_id=None) == ("not_sealed", False)


def test_what_no_format_fits_is_called_unknown():
    assert verdict(b"\x9f" * 40, KEY, key_id=None) == ("unknown_format", False)
    assert verdict(b"\x01", KEY, key_id=None) == ("unknown_format", False)


@pytest.mark.parametrize("length", range(0, 48))
def test_no_frame_however_short_breaks_a_diagnosis(length):
    for codec in ("opus", "vp8", "h264", None):
        for filling in (b"\0", b"\x0c", b"\xff"):
            assert verdict(filling * length, KEY, codec=codec, key_id=None)[0] in ADVICE


async def heard(e2ee: E2EEManager, frames: list[bytes], codec: str = "opus"):
    diagnoses: list = []
    e2ee.on("e2ee-diagnosis", diagnoses.append)
    bob = e2ee.receiver_transform("bob", "audio" if codec == "opus" else "video", codec, track_id="t")
    for frame in frames:
        assert bob.decrypt(frame) is None
    for _ in range(500):
        await asyncio.sleep(0.01)
        if diagnoses:
            break
    await delivered()
    return diagnoses


async def test_a_call_whose_sides_mean_text_and_bytes_hears_what_to_do(caplog):
    e2ee = E2EEManager(provider(TEXT), "livekit")
    frames = [sealed("livekit", TEXT.encode())] * 40
    (found,) = await heard(e2ee, frames)
    assert (found.participant_id, found.kind, found.track_id, found.cause, found.proven) == (
        "bob",
        "audio",
        "t",
        "hkdf",
        True,
    )
    assert found.advice == ADVICE["hkdf"]
    assert "pass bytes, not str" in caplog.text and TEXT not in caplog.text


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_a_picture_in_the_clear_is_remembered_from_its_key_frame(codec):
    key_frame = {
        "vp8": b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00" + bytes(range(60)),
        "h264": b"\0\0\0\1\x67\x42" + b"\0\0\0\1\x65" + b"\x88" * 40 + b"\0\0\0\1\x65" + b"\x99" * 40,
    }[codec]
    delta = {"vp8": b"\x31" + bytes(range(60)), "h264": b"\0\0\0\1\x41" + b"\x9a" * 60}[codec]
    (found,) = await heard(E2EEManager(provider(KEY), "livekit"), [key_frame, *[delta] * 40], codec)
    assert (found.cause, found.proven) == ("not_sealed", False)
    (found,) = await heard(E2EEManager(provider(KEY), "livekit"), [delta] * 40, codec)
    assert found.cause != "not_sealed"


async def test_what_a_key_proves_is_not_outdone_by_what_a_frame_looks_like():
    e2ee = E2EEManager(provider(TEXT), "livekit")
    plain = b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00" + bytes(range(60))
    (found,) = await heard(e2ee, [plain, *[sealed("videosdk", TEXT, frame=VIDEO, codec="vp8")] * 40], "vp8")
    assert (found.cause, found.proven) == ("other_salt", True)


async def test_a_frame_or_two_that_fail_are_no_case_for_a_diagnosis():
    e2ee = E2EEManager(provider(KEY), "livekit")
    assert FAILURES_BEFORE == 3
    good = sealed("livekit", KEY)
    diagnoses: list = []
    e2ee.on("e2ee-diagnosis", diagnoses.append)
    bob = e2ee.receiver_transform("bob", "audio", "opus")
    for frame in (sealed("livekit", OTHER_KEY), good, sealed("livekit", OTHER_KEY), good):
        bob.decrypt(frame)
    await asyncio.sleep(0.05)
    assert diagnoses == []


async def test_a_diagnosis_neither_opens_a_frame_nor_changes_a_key():
    keys = provider(TEXT)
    e2ee = E2EEManager(keys, "videosdk")
    (found,) = await heard(e2ee, [sealed("livekit", TEXT, frame=VIDEO, codec="vp8")] * 40, "vp8")
    assert found.cause == "other_salt"
    ring = keys.ring_for(Profile.VIDEOSDK, "bob")
    assert (ring.key_ids, ring.profile) == ([0], "videosdk")
    mine = KeyRing("videosdk")
    mine.set_passphrase(TEXT)
    assert Decryptor(mine, "opus").decrypt(Encryptor(ring, "opus").encrypt(AUDIO)) == AUDIO
