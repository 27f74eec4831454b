"""Why frames do not open: each mistake that people make is named, and nothing else is taken for it."""

import asyncio
import base64
import itertools
import os
import random
import time
from collections import Counter
from functools import partial

import pytest

from frameseal import Decryptor, E2EEManager, Encryptor, KeyProvider, KeyRing, Profile
from frameseal._native import Secret, profile_info
from frameseal.codecs.plain import excerpt
from frameseal.e2ee import diagnosis
from frameseal.e2ee.diagnosis import ADVICE, MIN_FAILURES, Trials, diagnose
from frameseal.inspection import readings
from frameseal.inspection.shapes import MAX_EXCERPTS, MIN_VERDICT_FRAMES
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, VIDEO, Clock, TimedCall, delivered, provider, run_at_once
from support.plain_media import opus, pcm, video

TEXT = "sixteen letters and more"


def sealing(profile: str, key: str | bytes, *, key_id: int = 0, codec: str = "opus"):
    far = provider(None)
    far.set_shared_key(key, key_id=key_id)
    return Encryptor(far.ring_for(Profile(profile), "bob"), codec).encrypt


def sealed(profile: str, key: str | bytes, *, key_id: int = 0, frame: bytes = AUDIO, codec: str = "opus") -> bytes:
    return sealing(profile, key, key_id=key_id, codec=codec)(frame)


def verdict(frames, key, profile="livekit", codec="opus", key_id=0):
    """Diagnose the last of some frames, as in a call in which all of them have failed."""
    frames = [frames] if isinstance(frames, bytes) else frames
    secrets = {} if key is None else {0: Secret(key)}
    seen = [excerpt(frame) for frame in frames]
    found = diagnose(frames[-1], Profile(profile), codec, secrets, key_id, seen[-MAX_EXCERPTS:])
    if found is None:
        return None
    assert found[1]
    return found[0], found[2]


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


@pytest.mark.parametrize(("theirs", "ours"), [("jitsi", "nextcloud"), ("nextcloud", "jitsi"), ("nextcloud", "livekit")])
def test_two_vendors_of_raw_keys_are_told_apart_by_their_salts(theirs, ours):
    cause, advice, proven = diagnose(sealed(theirs, KEY), Profile(ours), "opus", {0: Secret(KEY)}, 0)
    assert (cause, proven) == ("other_salt", True)
    assert f"profile {theirs}" in advice


def test_another_salt_and_the_other_kdf_at_once_are_found_too():
    assert verdict(sealed("videosdk", TEXT.encode()), TEXT) == ("other_salt", True)


@pytest.mark.parametrize(
    ("theirs", "ours", "key"),
    [
        *(
            (theirs, ours, key)
            for theirs, ours in (("sframe", "livekit"), ("livekit", "sframe"), ("sframe", "videosdk"))
            for key in (TEXT, KEY)
        ),
        *((theirs, "stream", key) for theirs in ("livekit", "nextcloud", "sframe") for key in (KEY, KEY[:16])),
        *(("stream", ours, key) for ours in ("livekit", "nextcloud", "sframe") for key in (KEY, KEY[:16])),
    ],
)
def test_another_profile_is_proven_by_the_key_and_otherwise_seen(theirs, ours, key):
    seal = sealing(theirs, key)
    cause, advice, proven = diagnose(seal(AUDIO), Profile(ours), "opus", {0: Secret(key)}, None)
    assert (cause, proven) == ("other_profile", True)
    assert theirs in advice
    frames = [seal(AUDIO) for _ in range(MIN_VERDICT_FRAMES)]
    assert verdict(frames, OTHER_KEY, ours, key_id=None) == ("other_profile", False)
    assert verdict(frames[1:], OTHER_KEY, ours, key_id=None) is None


@pytest.mark.parametrize("profile", ["livekit", "nextcloud", "stream", "sframe"])
def test_the_right_key_under_another_id_is_found(profile):
    frame = sealed(profile, KEY, key_id=4)
    cause, advice, proven = diagnose(frame, Profile(profile), "opus", {0: Secret(KEY)}, 4)
    assert "under the key id 4" in advice
    assert (cause, proven) == ("other_key_id", True)


@pytest.mark.parametrize("profile", ["livekit", "nextcloud", "stream", "sframe"])
def test_a_wrong_key_is_called_one_and_not_proven(profile):
    seal = sealing(profile, OTHER_KEY)
    frames = [seal(AUDIO) for _ in range(MIN_VERDICT_FRAMES)]
    assert verdict(frames, KEY, profile, key_id=None) == ("wrong_key", False)
    assert verdict(frames, None, profile, key_id=None) == ("wrong_key", False)


# By name: the codec, and a function that encodes the media. Encoding takes seconds, so no import of this file does it.
PLAIN = {
    **{f"opus, {rate}": ("opus", partial(opus, rate)) for rate in (8000, 12000, 16000, 24000, 32000, 64000)},
    **{f"opus, music, {mode}": ("opus", partial(opus, 48000, mode, "music")) for mode in ("voip", "audio", "lowdelay")},
    **{f"opus, {kind}": ("opus", partial(opus, 24000, "voip", kind)) for kind in ("silence", "tone", "noise")},
    "opus, lost and silent": ("opus", partial(opus, 24000, "voip", "speech", fec="1", dtx="1", packet_loss="10")),
    "opus, constant": ("opus", partial(opus, 24000, "voip", "speech", vbr="off")),
    "opus, 60 ms": ("opus", partial(opus, 24000, "voip", "speech", frame_duration="60")),
    **{
        f"{codec}, {kind}, {length} ms": (codec, partial(pcm, codec, kind, length))
        for codec in ("pcmu", "pcma", "g722")
        for kind in ("speech", "silence", "tone")
        for length in (10, 20, 30)
    },
    **{
        f"{codec}, {kind}": (codec, partial(video, codec, kind))
        for codec in ("vp8", "vp9", "h264", "h265")
        for kind in ("moving", "still", "noise", "black")
    },
    "h264, slices": ("h264", partial(video, "h264", slices="4")),
    "h264, no whole picture": ("h264", partial(video, "h264", **{"intra-refresh": "1"})),
}


def media(name: str) -> tuple[str, list[bytes]]:
    """Returns the codec and the frames of the media in `PLAIN` under this name."""
    codec, encode = PLAIN[name]
    return codec, encode()


PROFILES = {name: [p for p in Profile if PLAIN[name][0] not in profile_info(p)["refused_codecs"]] for name in PLAIN}


@pytest.mark.parametrize("name", PLAIN)
def test_media_that_were_never_sealed_are_told_apart_wherever_a_track_begins(name):
    """The sender's encryption is off: the commonest case of all."""
    codec, frames = media(name)
    for profile in PROFILES[name]:
        for start in range(0, len(frames) - MAX_EXCERPTS, 11):
            for count in (MIN_VERDICT_FRAMES, MAX_EXCERPTS):
                run = frames[start : start + count]
                assert verdict(run, None, profile, codec, key_id=None) == ("not_sealed", False), (profile, start)


@pytest.mark.parametrize("name", PLAIN)
def test_the_same_media_sealed_are_never_taken_for_plain(name):
    codec, frames = media(name)
    for theirs in PROFILES[name]:
        seal = sealing(theirs, OTHER_KEY, key_id=3, codec=codec)
        out = [frame for frame in map(seal, frames) if frame]
        for ours in PROFILES[name]:
            same_layout = profile_info(theirs)["layout"] == profile_info(ours)["layout"]
            expected = "wrong_key" if same_layout else "other_profile"
            for start in range(0, len(out) - MAX_EXCERPTS, 23):
                run = out[start : start + MAX_EXCERPTS]
                assert verdict(run, None, ours, codec, key_id=None) == (expected, False), (theirs, ours, start)


@pytest.mark.parametrize("codec", ["opus", "pcmu", "vp8", "vp9", "h264", "h265", None])
def test_what_no_format_and_no_codec_fits_is_called_unknown(codec):
    dice = random.Random(7)
    for _ in range(50):
        run = [dice.randbytes(dice.randrange(41, 400)) for _ in range(MAX_EXCERPTS)]
        for profile in ("livekit", "sframe"):
            assert verdict(run, None, profile, codec, key_id=None) == ("unknown_format", False)


def test_a_frame_that_lost_its_head_or_a_repeated_one_does_not_change_a_verdict():
    codec, frames = media("vp8, moving")
    seal = sealing("livekit", OTHER_KEY, codec=codec)
    out = [seal(frame) for frame in frames[:16]]
    out[3], out[9] = out[3][5:], out[9][700:]
    assert verdict(out, KEY, codec=codec) == ("wrong_key", False)
    seal = sealing("sframe", OTHER_KEY, codec=codec)
    out = [seal(frame) for frame in frames[:16]]
    out[5] = out[4]
    assert verdict(out, KEY, "sframe", codec, key_id=None) == ("wrong_key", False)
    plain = list(frames[:16])
    plain[2] = plain[2][40:]
    for profile in ("livekit", "sframe"):
        assert verdict(plain, KEY, profile, codec, key_id=None) == ("not_sealed", False)


@pytest.mark.parametrize("length", range(0, 48))
def test_no_frame_however_short_breaks_a_diagnosis(length):
    for codec in ("opus", "vp8", "h264", None):
        for profile in ("livekit", "sframe"):
            for filling in (b"\0", b"\x0c", b"\xff"):
                assert verdict(filling * length, None, profile, codec, key_id=None) in (None, ("injected", False))
                found = verdict([filling * length] * MAX_EXCERPTS, None, profile, codec, key_id=None)
                assert found is not None and found[0] in ADVICE
    assert verdict(b"\x0c" * length, KEY, key_id=None) is None


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


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        (profile, name)
        for profile in ("livekit", "videosdk", "nextcloud", "stream", "sframe")
        for name in ("opus, 12000", "opus, 24000", "pcmu, speech, 20 ms", "vp8, moving", "h264, moving")
        if profile in PROFILES[name]
    ],
)
async def test_a_call_whose_sender_does_not_seal_hears_that(name, profile):
    """In sframe its frames name keys that are not there: then it is no question of keys."""
    codec, frames = media(name)
    (found,) = await heard(E2EEManager(provider(KEY), profile), list(frames[:40]), codec)
    assert (found.cause, found.proven) == ("not_sealed", False)


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
async def test_a_key_that_is_late_is_no_case_for_a_diagnosis(profile, caplog):
    keys = provider(None)
    e2ee, seal = E2EEManager(keys, profile), sealing(profile, KEY, key_id=3)
    diagnoses: list = []
    e2ee.on("e2ee-diagnosis", diagnoses.append)
    bob = e2ee.receiver_transform("bob", "audio", "opus")
    for _ in range(40):
        bob.decrypt(seal(AUDIO))
    await looked(e2ee)
    keys.set_shared_key(KEY, 3)
    assert bob.decrypt(seal(AUDIO)) == AUDIO
    await looked(e2ee)
    assert diagnoses == [] and caplog.messages == []


async def test_a_key_under_another_id_is_named_though_its_id_reads_as_missing():
    (found,) = await heard(E2EEManager(provider(KEY), "livekit"), [sealed("livekit", KEY, key_id=4)] * 40)
    assert (found.cause, found.proven) == ("other_key_id", True)
    assert "under the key id 4" in found.advice


async def test_frames_that_open_in_between_start_the_count_anew():
    e2ee = E2EEManager(provider(KEY), "livekit")
    diagnoses: list = []
    e2ee.on("e2ee-diagnosis", diagnoses.append)
    good, wrong = sealing("livekit", KEY), sealing("livekit", OTHER_KEY)
    bob = e2ee.receiver_transform("bob", "audio", "opus")
    for _ in range(40):
        bob.decrypt(wrong(AUDIO))
        bob.decrypt(wrong(AUDIO))
        assert bob.decrypt(good(AUDIO)) == AUDIO
    await looked(e2ee)
    assert diagnoses == []


async def test_what_is_kept_of_frames_that_fail_is_bounded_and_let_go():
    e2ee = E2EEManager(provider(KEY), "livekit")
    bob = e2ee.receiver_transform("bob", "video", "vp8")
    wrong, good = (sealing("livekit", key, codec="vp8") for key in (OTHER_KEY, KEY))
    for _ in range(100):
        bob.decrypt(wrong(VIDEO + bytes(100_000)))
    seen = e2ee._call._diagnostician._failing[bob.track].seen
    assert len(seen) == MAX_EXCERPTS and sum(len(each.data) for each in seen) <= MAX_EXCERPTS * 1280
    assert bob.decrypt(good(VIDEO)) == VIDEO
    assert len(seen) == 0
    await looked(e2ee)


async def test_what_a_key_proves_is_not_outdone_by_what_a_frame_looks_like():
    e2ee = E2EEManager(provider(TEXT), "livekit")
    plain = b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00" + bytes(range(60))
    (found,) = await heard(e2ee, [plain, *[sealed("videosdk", TEXT, frame=VIDEO, codec="vp8")] * 40], "vp8")
    assert (found.cause, found.proven) == ("other_salt", True)


async def looked(e2ee: E2EEManager) -> None:
    """Let a diagnosis that has begun end."""
    await delivered()
    await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, idle, e2ee), 30)
    await delivered()


def idle(e2ee: E2EEManager) -> None:
    while e2ee._call._diagnostician._busy:
        time.sleep(0.01)


async def test_a_frame_or_two_that_fail_are_no_case_for_a_diagnosis():
    e2ee = E2EEManager(provider(KEY), "livekit")
    assert MIN_FAILURES == 3
    good = sealed("livekit", KEY)
    diagnoses: list = []
    e2ee.on("e2ee-diagnosis", diagnoses.append)
    bob = e2ee.receiver_transform("bob", "audio", "opus")
    for frame in (sealed("livekit", OTHER_KEY), good, sealed("livekit", OTHER_KEY), good):
        bob.decrypt(frame)
    await looked(e2ee)
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


# --- keys that were spelt differently --------------------------------------------------------------------------------

RAW = bytes(range(190, 222))
SPELT = {
    "base64 for bytes": (RAW, base64.b64encode(RAW).decode(), "as base64 text"),
    "bytes for base64": (base64.b64encode(RAW).decode(), RAW, "base64-decoded"),
    "bytes for the bytes of base64": (base64.b64encode(RAW), RAW, "base64-decoded"),
    "bytes for URL-safe base64": (base64.urlsafe_b64encode(RAW).decode().rstrip("="), RAW, "base64-decoded"),
    "URL-safe base64 for bytes": (RAW, base64.urlsafe_b64encode(RAW).decode(), "as URL-safe base64 text"),
    "the bytes of base64 for bytes": (RAW, base64.b64encode(RAW), "as base64 text, taken for bytes"),
    "hex for bytes": (RAW, RAW.hex(), "as hex text"),
    "bytes for hex": (RAW.hex().upper(), RAW, "hex-decoded"),
    "a line end": (TEXT, f"{TEXT}\n", "with a line end behind it"),
    "no line end": (f"{TEXT}\n", TEXT, "without the line end behind it"),
    "a CR LF": (TEXT, f"{TEXT}\r\n", "with a CR LF behind it"),
    "no CR LF": (f"{TEXT}\r\n", TEXT, "without the line end behind it"),
    "a space": (TEXT, f"{TEXT} ", "with a space behind it"),
    "no spaces": (f" {TEXT} ", TEXT, "without the spaces around it"),
    "bytes with a line end": (RAW, RAW + b"\n", "with a line end behind it"),
    "bytes of text with a line end": (TEXT, f"{TEXT}\n".encode(), "with a line end behind it, taken for bytes"),
    "NFD": ("na\u00efve caf\u00e9", "nai\u0308ve cafe\u0301", "in the Unicode form NFD"),
    "NFC": ("nai\u0308ve cafe\u0301", "na\u00efve caf\u00e9", "in the Unicode form NFC"),
    "NFKC": ("\ufb01ne print", "fine print", "in the Unicode form NFKC"),
    "Latin-1": ("na\u00efve caf\u00e9 au lait", "na\u00efve caf\u00e9 au lait".encode("latin-1"), "in Latin-1"),
    "quotes": (TEXT, f'"{TEXT}"', "with quotes around it"),
    "upper case": (TEXT, TEXT.upper(), "in upper case"),
}


def tried_to_the_end(frame, key, profile, codec="opus"):
    """Diagnose a frame as often as it takes."""
    tries, secrets = Trials(), {0: Secret(key)}
    for _ in range(200):
        found = diagnose(frame, Profile(profile), codec, secrets, 0 if profile != "sframe" else None, (), tries)
        if found is not None or tries.ended:
            return found
    raise AssertionError("tries without end")


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
@pytest.mark.parametrize("name", SPELT)
def test_a_key_that_the_sender_spells_differently_is_named_and_how(name, profile):
    ours, theirs, spelling = SPELT[name]
    cause, advice, proven = tried_to_the_end(sealed(profile, theirs), ours, profile)
    assert (cause, proven) == ("other_spelling", True)
    assert advice.startswith(f"the sender's key is yours, {spelling}")
    for secret in (ours, theirs):
        shown = secret if isinstance(secret, str) else secret.hex()
        assert shown.strip() not in advice


def test_a_raw_key_that_is_spelt_differently_is_found_in_another_profile_too():
    cause, advice, proven = tried_to_the_end(sealed("videosdk", RAW), base64.b64encode(RAW).decode(), "livekit")
    assert (cause, proven) == ("other_spelling", True)
    assert "base64-decoded, in the profile videosdk" in advice


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(RAW.hex().encode(), RAW), (RAW[:16].hex(), RAW[:16]), (base64.b64encode(RAW).decode(), RAW), (RAW + b"\n", RAW)],
    ids=["the digits as bytes", "the digits as text", "base64", "with a line break"],
)
@pytest.mark.parametrize("receiver", ["stream", "livekit"])
def test_an_aes_key_that_is_spelt_differently_is_found_whatever_its_length(receiver, ours, theirs):
    cause, advice, proven = tried_to_the_end(sealed("stream", theirs), ours, receiver)
    assert (cause, proven) == ("other_spelling", True)
    assert ("in the profile stream" in advice) is (receiver != "stream")


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_another_key_is_found_in_no_spelling(profile):
    assert tried_to_the_end(sealed(profile, OTHER_KEY), TEXT, profile) is None
    assert tried_to_the_end(sealed(profile, "another text"), RAW, profile) is None


def test_a_key_has_a_bounded_number_of_spellings_and_none_shows_it():
    for key in (*(ours for ours, _, _ in SPELT.values()), "x", "\u00e9" * 5000, os.urandom(100_000)):
        spellings = Secret(key).spellings()
        assert len(spellings) <= 68
        names = [name for name, _ in spellings]
        assert len(set(names)) == len(names) and all(len(name) < 80 for name in names)
        assert all(type(secret) is Secret for _, secret in spellings)
        assert key == "x" or not any(str(key) in f"{name}{secret!r}" for name, secret in spellings)


class Clocks:
    """A wall clock that is told the time, and the CPU's, on which a password KDF takes 12 ms and all else nothing."""

    def __init__(self, monkeypatch) -> None:
        self.wall, self.cpu, self.derivations = Clock(), 0.0, 0
        monkeypatch.setattr(diagnosis, "thread_time", lambda: self.cpu)
        monkeypatch.setattr(diagnosis, "_opens", self.opens)
        monkeypatch.setattr(diagnosis, "BUDGET", diagnosis.Budget())

    def call(self, keys) -> TimedCall:
        return TimedCall(keys, self.wall, "livekit", background=run_at_once)

    def opens(self, frame, codec, way) -> bool:
        self.derivations += way.secret.is_passphrase
        self.cpu += 0.012 * way.secret.is_passphrase
        return False


@pytest.mark.parametrize("tracks", [1, 20])
async def test_tries_of_many_passphrases_are_bounded_at_once_and_over_a_minute(monkeypatch, tracks):
    """A derivation is slow, so they are counted."""
    clocks, keys = Clocks(monkeypatch), KeyProvider(key_ring_size=16)
    for key_id in range(16):
        keys.set_shared_key(f"passphrase number {key_id}", key_id)
    e2ee, seal = clocks.call(keys), sealing("livekit", OTHER_KEY)
    receivers = [e2ee.receiver_transform("bob", "audio", "opus", track_id=str(n)) for n in range(tracks)]
    minute, last = [], 0
    for second in range(90):
        for bob in receivers:
            for _ in range(3):
                bob.decrypt(seal(AUDIO))
            assert clocks.derivations - last <= 9, "a try is 100 ms, and ends with the derivation that it is at"
            last = clocks.derivations
        minute.append(clocks.derivations)
        if second >= 60:
            assert (minute[second] - minute[second - 60]) * 0.012 <= 6.0, "a tenth of a core"
        clocks.wall.now += 1
    assert clocks.derivations > 100, "and they go on"


class Tried(list):
    """The ways that a call's diagnoses try, on clocks that are told the time."""

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.clocks = Clocks(monkeypatch)
        monkeypatch.setattr(diagnosis, "_opens", self.opens)

    def opens(self, frame, codec, way) -> bool:
        self.append((way.cause, str(way.words), way.profile, way.secret.is_passphrase))
        return self.clocks.opens(frame, codec, way)

    def by(self, bob, frames) -> int:
        """Let frames fail for a second. Return the number of ways that were tried."""
        before = len(self)
        for frame in frames:
            bob.decrypt(frame)
        self.clocks.wall.now += 1
        return len(self) - before


async def test_tries_go_on_where_they_ended_and_start_anew_with_another_key(monkeypatch):
    tried, keys = Tried(monkeypatch), provider(TEXT)
    e2ee, seal = tried.clocks.call(keys), sealing("livekit", OTHER_KEY)
    diagnoses: list = []
    e2ee.on("e2ee-diagnosis", diagnoses.append)
    bob = e2ee.receiver_transform("bob", "audio", "opus")
    while tried.by(bob, (seal(AUDIO) for _ in range(12))):
        pass
    assert len(set(tried)) == len(tried)
    assert [found.cause for found in diagnoses] == ["wrong_key"]
    total = len(tried)
    keys.set_shared_key(f"{TEXT} ")
    tried.clocks.wall.now += 10
    assert tried.by(bob, (seal(AUDIO) for _ in range(12))) > 0
    assert tried[total][0] == tried[0][0]


@pytest.mark.parametrize(
    "looks", [[(0, True), (0, False)], [(0, False), (0, True)], [(0, True), (1, True), (1, False)]]
)
async def test_no_way_is_left_out_or_tried_twice_because_a_frame_looks_otherwise(monkeypatch, looks):
    """One frame's bytes may be an SFrame header, and the next one's not. After a rotation, frames name another key."""
    seal = {key_id: sealing("livekit", OTHER_KEY, key_id=key_id) for key_id in (0, 1)}

    def frame(key_id: int, like_sframe: bool) -> bytes:
        while True:
            sealed = seal[key_id](AUDIO)
            if (readings.key_id(sealed, "sframe", "opus") is not None) is like_sframe:
                return sealed

    async def ways(looks) -> Counter:
        tried, keys = Tried(monkeypatch), provider(TEXT)
        keys.set_shared_key(f"{TEXT} of old", 1)
        bob = tried.clocks.call(keys).receiver_transform("bob", "audio", "opus")
        shown = itertools.cycle(looks)
        while tried.by(bob, [frame(*next(shown))] * 12):
            pass
        return Counter(way for way in tried if way[0] != "other_key_id")  # its number depends on the id that is named

    expected = await ways([(0, True)])
    assert expected.total() > 100
    assert await ways(looks) == expected


async def test_a_call_in_which_a_key_is_spelt_differently_hears_how(caplog):
    e2ee = E2EEManager(provider(f"{TEXT}\r\n"), "livekit")
    found = await heard(e2ee, [sealed("livekit", TEXT)] * 40)
    assert found[-1].cause == "other_spelling" and found[-1].proven
    assert "without the line end behind it" in found[-1].advice
    assert TEXT not in caplog.text + repr(found)


async def test_frames_that_were_never_sealed_cost_no_derivation(monkeypatch):
    clocks = Clocks(monkeypatch)
    e2ee = E2EEManager(provider(TEXT), "livekit")
    (found,) = await heard(e2ee, list(video("vp8")[:40]), "vp8")
    assert found.cause == "not_sealed"
    assert clocks.derivations <= 16, "one frame in 256 ends as a trailer does"
