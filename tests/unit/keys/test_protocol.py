"""What providers share: bounds of numbers, and the keys of one participant, of which the newest call wins."""

import pytest

from frameseal import KeyRing, Profile
from frameseal._native import Secret
from frameseal.keys.protocol import ParticipantKeys, bounded

KEY = bytes(range(32))


@pytest.mark.parametrize("value", [0, 15])
def test_a_number_within_its_bounds_is_returned(value):
    assert bounded("key_id", value, 0, 15) == value


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (16, ValueError), (True, TypeError), (1.0, TypeError)])
def test_another_number_is_refused_by_name(value, error):
    with pytest.raises(error, match="key_id"):
        bounded("key_id", value, 0, 15)


def held() -> tuple[ParticipantKeys, KeyRing]:
    """Returns the keys of one participant, and a ring of theirs."""
    keys, ring = ParticipantKeys(), KeyRing(Profile.LIVEKIT)
    keys.rings[Profile.LIVEKIT] = ring
    return keys, ring


def test_the_first_key_sends_and_a_later_one_only_if_it_should():
    keys, ring = held()
    for turn, (key_id, send) in enumerate([(3, False), (4, False), (5, True)], 1):
        derived = [ring.derive_key(Secret(KEY), key_id)]
        keys.install(Secret(KEY), key_id, send, turn, derived)
    assert (ring.key_ids, keys.sending, ring.sending_key_id) == ([3, 4, 5], 5, 5)


def test_a_key_that_was_removed_while_another_call_derived_it_is_outdated():
    keys, ring = held()
    keys.install(Secret(KEY), 1, True, 1, [ring.derive_key(Secret(KEY), 1)])
    keys.forget(1, 3)
    assert keys.is_outdated(1, 2) and not keys.is_outdated(1, 4)
    assert (ring.key_ids, keys.secrets) == ([], {})


def test_rings_with_a_key_outlive_their_ciphers_and_others_do_not():
    keys, ring = held()
    keys.install(Secret(KEY), 0, True, 1, [ring.derive_key(Secret(KEY), 0)])
    del ring
    assert list(keys.rings) == [Profile.LIVEKIT] and keys.is_in_use()
    keys.forget(0, 2)
    assert list(keys.rings) == [] and not keys.is_in_use()
