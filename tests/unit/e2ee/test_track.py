"""A track's counters and its kind; what becomes of its states is in test_manager.py."""

import pytest

from frameseal.e2ee.track import checked_kind, sum_counters


def test_counters_of_a_tracks_transforms_add_up_and_those_of_a_shared_key_do_not():
    first = {"decrypted": 3, "key_exhausted": 1, "key_0_frames": 10}
    second = {"decrypted": 4, "malformed": 1, "key_exhausted": 2, "key_0_frames": 12}
    total = {"decrypted": 7, "malformed": 1, "key_exhausted": 3, "key_0_frames": 12}
    assert sum_counters([first, second]) == total
    assert sum_counters([]) == {}


def test_a_kind_is_audio_or_video():
    assert [checked_kind(kind) for kind in ("audio", "video")] == ["audio", "video"]
    for kind in ("", "AUDIO", "screen"):
        with pytest.raises(ValueError, match="kind"):
            checked_kind(kind)
