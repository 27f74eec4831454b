"""The cryptor for other SDKs: frames in, frames out, on any thread, with no event loop anywhere."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2ee_helpers import AUDIO, KEY, OTHER_KEY, VIDEO, provider
from frameseal import E2EEState
from frameseal.backend import CallCryptor, FrameCryptor

ALICES_MIC = {"participant_id": "alice", "kind": "audio", "codec": "opus"}
ALICES_CAMERA = {"participant_id": "alice", "kind": "video", "codec": "vp8", "track_id": "camera"}
S = E2EEState


@pytest.mark.parametrize("profile", ["livekit", "videosdk", "sframe"])
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
    assert len(here._senders) == len(there._receivers) == 1


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
