"""The cryptor for other SDKs: frames in, frames out, on any thread, with no event loop anywhere."""

import functools
import gc
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points

import pytest

from frameseal import E2EEMissingKey, E2EEState
from frameseal.frame_cryptor import MAX_TRACKS, CallCryptor, FrameCryptor
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, VIDEO, provider

ALICES_MIC = {"participant_id": "alice", "kind": "audio", "codec": "opus"}
ALICES_CAMERA = {"participant_id": "alice", "kind": "video", "codec": "vp8", "track_id": "camera"}
S = E2EEState


@pytest.mark.parametrize("profile", ["livekit", "videosdk", "nextcloud", "stream", "sframe"])
def test_what_one_side_seals_the_other_opens(profile):
    here, there = CallCryptor(provider(), profile), CallCryptor(provider(), profile)
    assert isinstance(here, FrameCryptor)
    for frame, track in ((AUDIO, ALICES_MIC), (VIDEO, ALICES_CAMERA)):
        sealed = here.encrypt(frame, **track)
        assert sealed is not None and frame[10:] not in sealed
        assert there.decrypt(sealed, **track) == frame


def test_what_must_not_go_on_is_none_and_nothing_raises():
    keyless, wrong = CallCryptor(provider(None)), CallCryptor(provider(OTHER_KEY))
    sealed = CallCryptor(provider()).encrypt(AUDIO, **ALICES_MIC)
    assert keyless.encrypt(AUDIO, **ALICES_MIC) is None
    for frame in (sealed, AUDIO, b"", b"\x00" * 40):
        assert keyless.decrypt(frame, **ALICES_MIC) is None
        assert wrong.decrypt(frame, **ALICES_MIC) is None


def test_states_are_told_at_once_in_the_frames_own_thread_and_a_bad_listener_harms_nothing(caplog):
    told = []

    def listen(change):
        told.append((threading.current_thread(), change.participant_id, change.kind, change.state))
        raise ValueError("of a listener")

    keys = provider(None)
    cryptor = CallCryptor(keys, on_state_change=listen)
    here = threading.current_thread()
    assert cryptor.encrypt(AUDIO, **ALICES_MIC) is None
    keys.set_shared_key(KEY)
    assert all(cryptor.encrypt(AUDIO, **ALICES_MIC) for _ in range(5))
    assert told == [(here, "alice", "audio", S.MissingKey), (here, "alice", "audio", S.EncryptionSuccess)]
    assert "of a listener" in caplog.text


def test_every_one_of_the_seven_states_is_told():
    told = []
    keys = provider(None, failure_tolerance=1)
    cryptor = CallCryptor(keys, on_state_change=told.append)
    right, wrong = CallCryptor(provider()), CallCryptor(provider(OTHER_KEY))
    assert cryptor.encrypt(VIDEO, **ALICES_CAMERA) is None
    keys.set_shared_key(KEY)
    assert cryptor.encrypt(VIDEO, **ALICES_CAMERA)
    assert cryptor.encrypt(b"\x01", **ALICES_CAMERA) is None
    assert cryptor.encrypt(None, **ALICES_CAMERA) is None
    for _ in range(2):
        assert cryptor.decrypt(wrong.encrypt(AUDIO, **ALICES_MIC), **ALICES_MIC) is None
    assert cryptor.decrypt(right.encrypt(AUDIO, **ALICES_MIC), **ALICES_MIC) == AUDIO
    assert [(change.direction, change.state) for change in told] == [
        ("send", S.MissingKey),
        ("send", S.EncryptionSuccess),
        ("send", S.EncryptionFailed),
        ("send", S.InternalError),
        ("receive", S.DecryptionFailed),
        ("receive", S.InvalidKey),
        ("receive", S.DecryptionSuccess),
    ]
    assert {change.state for change in told} == set(E2EEState)
    assert {change.track_id for change in told} == {"camera", "audio opus"}


def test_a_missing_key_can_be_asked_for_where_it_is_missed():
    keys, asked = provider(None), []

    def fetch(missing):
        asked.append(missing)
        keys.set_shared_key(KEY, missing.key_id)

    far = provider(None)
    far.set_shared_key(KEY, 3)
    there, here = CallCryptor(far), CallCryptor(keys, on_missing_key=fetch)
    sealed = [there.encrypt(AUDIO, **ALICES_MIC) for _ in range(3)]
    assert [here.decrypt(frame, **ALICES_MIC) for frame in sealed] == [None, AUDIO, AUDIO]
    assert asked == [E2EEMissingKey("alice", "audio", 3)]


def test_what_a_server_repeats_opens_once_where_a_window_was_asked_for():
    here, there = CallCryptor(provider()), CallCryptor(provider(), replay_window=64)
    sealed = here.encrypt(AUDIO, **ALICES_MIC)
    assert [there.decrypt(sealed, **ALICES_MIC) for _ in range(2)] == [AUDIO, None]


def test_an_sdk_finds_it_without_naming_the_package():
    (found,) = entry_points(group="webrtc.frame_cryptors", name="frameseal")
    assert found.load() is CallCryptor


async def test_a_running_loop_changes_nothing():
    told = []
    cryptor = CallCryptor(provider(), on_state_change=told.append)
    assert cryptor.encrypt(AUDIO, **ALICES_MIC)
    assert [change.state for change in told] == [S.EncryptionSuccess]


def test_many_threads_make_one_cipher_per_track_and_no_frame_twice():
    here, there = CallCryptor(provider()), CallCryptor(provider(), replay_window=4096)
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda number: here.encrypt(AUDIO, **ALICES_MIC), range(800)))
        opened = list(pool.map(lambda frame: there.decrypt(frame, **ALICES_MIC), sealed))
    assert len(set(sealed)) == 800 and opened == [AUDIO] * 800
    assert len(here._senders["alice"]) == len(there._receivers["alice"]) == 1


def test_a_participant_who_left_is_forgotten_and_may_come_back():
    told = []
    cryptor = CallCryptor(provider(), on_state_change=told.append)
    for _ in range(2):
        assert cryptor.encrypt(AUDIO, **ALICES_MIC)
        cryptor.remove_participant("alice")
    assert [change.state for change in told] == [S.EncryptionSuccess] * 2
    assert not cryptor._senders


def test_what_the_caller_got_wrong_is_an_error():
    cryptor = CallCryptor(provider())
    with pytest.raises(ValueError, match="kind"):
        cryptor.encrypt(AUDIO, participant_id="alice", kind="smell", codec="opus")
    with pytest.raises(ValueError, match="av1"):
        cryptor.decrypt(AUDIO, participant_id="alice", kind="video", codec="av1")
    with pytest.raises(ValueError, match="profile"):
        CallCryptor(provider(), "none")
    for option in ("hold_frames", "loop", "no_such_option"):
        with pytest.raises(TypeError, match=option):
            CallCryptor(provider(), **{option: 1})


def test_a_track_that_ended_is_let_go_of_and_its_state_with_it():
    keys = provider(None)
    cryptor, there = CallCryptor(keys), CallCryptor(provider())
    for number in range(MAX_TRACKS + 10):  # muted and unmuted, each time with another id
        track = {"participant_id": "alice", "kind": "video", "codec": "vp8", "track_id": f"camera {number}"}
        cryptor.encrypt(VIDEO, **track)
        cryptor.decrypt(there.encrypt(VIDEO, **track), **track)
        for each in (cryptor, there):
            each.remove_track("alice", "video", track_id=f"camera {number}")
    assert not cryptor._senders and not cryptor._receivers and not cryptor._call.tracks()
    cryptor.decrypt(there.encrypt(AUDIO, **ALICES_MIC), **ALICES_MIC)
    cryptor.decrypt(there.encrypt(VIDEO, **ALICES_CAMERA), **ALICES_CAMERA)
    cryptor.remove_track("alice", "audio")
    cryptor.remove_track("alice", "audio")
    cryptor.remove_track("bob", "video", track_id="camera")
    assert [(track.kind, track.state) for track in cryptor._call.tracks()] == [("video", S.MissingKey)]


@pytest.mark.parametrize("name", ["on_state_change", "on_missing_key"])
def test_a_callback_that_no_loop_would_run_is_refused(name):
    async def coroutine(value):
        pass

    for wrong in (coroutine, functools.partial(coroutine, 1)):
        with pytest.raises(TypeError, match=f"{name} must not be a coroutine function"):
            CallCryptor(provider(), **{name: wrong})
    with pytest.raises(TypeError, match=f"{name} must be a function, not int"):
        CallCryptor(provider(), **{name: 5})


def test_a_coroutine_that_comes_back_all_the_same_is_closed_and_logged(caplog):
    class Callback:
        async def __call__(self, change):
            raise AssertionError("nobody runs this")

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "coroutine was never awaited"
        assert CallCryptor(provider(), on_state_change=Callback()).encrypt(AUDIO, **ALICES_MIC)
        gc.collect()
    assert "returned a coroutine" in caplog.text
