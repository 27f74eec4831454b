"""The table of profiles: the same vendors as the core's, and a made-up row that inspection knows at once."""

import pytest

from frameseal import Decryptor, Encryptor, KeyRing, Profile
from frameseal._native import CODECS as CODEC_NAMES
from frameseal._native import PROFILES as CORE
from frameseal._native import profile_info
from frameseal.e2ee.diagnosis import diagnose
from frameseal.inspection import readings
from frameseal.profiles import PROFILES, is_sframe
from frameseal.tools.cli import main
from support.plain_media import opus

KEY = bytes(range(32))


def test_every_profile_of_the_core_is_public_and_no_other():
    assert {profile.value for profile in Profile} == set(CORE)
    assert set(PROFILES) == set(Profile)
    assert [profile for profile in Profile if is_sframe(profile)] == [Profile.SFRAME]
    with pytest.raises(ValueError, match=r"^unknown profile: expected one of livekit, "):
        is_sframe("a passphrase in the wrong place")


@pytest.mark.parametrize("profile", Profile)
def test_a_row_says_what_the_core_does(profile):
    info = profile_info(profile)
    ring = KeyRing(profile)
    if info["accepts_passphrases"]:
        ring.set_passphrase("a passphrase")
    else:
        with pytest.raises(ValueError):
            ring.set_passphrase("a passphrase")
    for codec in CODEC_NAMES:
        if codec in info["refused_codecs"]:
            with pytest.raises(ValueError):
                Encryptor(ring, codec)
        else:
            Encryptor(ring, codec)


@pytest.fixture
def vendor(monkeypatch):
    """A made-up vendor. The core makes its rows at compile time (rust/core/tests/rows.rs): here a ring of VideoSDK
    stands in for one of the vendor."""
    row = {"name": "acme", "layout": "trailer", "accepts_passphrases": False, "refused_codecs": ("vp8", "av1")}
    monkeypatch.setitem(PROFILES, "acme", row)

    def key_ring(profile, **options):
        return KeyRing("videosdk" if profile == "acme" else profile, **options)

    monkeypatch.setattr(readings, "KeyRing", key_ring)
    return "acme"


def sealed_by_vendor(codec: str, frame: bytes) -> bytes:
    ring = KeyRing("videosdk")
    ring.set_key(KEY)
    sealed = Encryptor(ring, codec).encrypt(frame)
    assert Decryptor(ring, codec).decrypt(sealed) == frame
    return sealed


def test_inspection_knows_a_made_up_vendor(vendor, capsys):
    frame = sealed_by_vendor("opus", opus(24000)[9])
    assert vendor in readings.readings(frame, "opus")[0].profiles
    picture = sealed_by_vendor("vp8", b"\x11 a delta frame of VP8")
    assert vendor not in readings.readings(picture, "vp8")[0].profiles
    assert {opener.profile for opener in readings.openers(frame, KEY, "opus")} == {"videosdk", vendor}
    assert main(["inspect", frame.hex(), "--codec", "opus", "--key-hex", KEY.hex()]) == 0
    shown = capsys.readouterr().out
    assert "livekit/videosdk/jitsi/nextcloud/acme, opus: likely" in shown
    assert "The key opens it: profile acme, codec opus." in shown


def test_no_passphrase_is_tried_with_a_vendor_that_has_none(vendor, monkeypatch):
    tried = []

    def key_ring(profile, **options):
        tried.append(profile)
        return KeyRing(profile, **options)

    monkeypatch.setattr(readings, "KeyRing", key_ring)
    assert readings.openers(sealed_by_vendor("opus", opus(24000)[9]), "a passphrase", "opus") == []
    assert "livekit" in tried and vendor not in tried and "jitsi" not in tried


def test_a_diagnosis_names_a_made_up_vendor(vendor):
    frames = [sealed_by_vendor("opus", frame) for frame in opus(24000)[:16]]
    seen = [readings.excerpt(frame) for frame in frames]
    cause, advice, proven = diagnose(frames[-1], Profile.SFRAME, "opus", {}, None, seen)
    assert (cause, proven) == ("other_profile", False)
    assert vendor in advice


def test_the_programs_offer_a_made_up_vendor_where_it_fits(vendor, capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    offered = capsys.readouterr().out
    assert "livekit" in offered and vendor not in offered  # the demo's key is a passphrase
