"""Key providers: keys go in before and after rings exist, and never come out."""

import copy
import logging
import pickle

import pytest

from frameseal import (
    AuthenticationFailed,
    Decryptor,
    Encryptor,
    ExternalE2EEKeyProvider,
    KeyProvider,
    KeyRing,
    Profile,
    UnknownKey,
)
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, provider


def sealed_by(made: ExternalE2EEKeyProvider, profile: Profile = Profile.LIVEKIT) -> bytes:
    return Encryptor(made.ring_for(profile, "alice"), "opus").encrypt(AUDIO)


def opened_by(made: ExternalE2EEKeyProvider, sealed: bytes, profile: Profile = Profile.LIVEKIT) -> bytes:
    return Decryptor(made.ring_for(profile, "alice"), "opus").decrypt(sealed)


@pytest.mark.parametrize("key", ["a passphrase", KEY, bytearray(KEY), memoryview(KEY)])
def test_a_key_set_before_the_ring_exists_and_one_set_after_it_are_the_same(key):
    before, after = provider(key), provider(None)
    ring = after.ring_for(Profile.LIVEKIT, "alice")
    after.set_shared_key(key)
    assert ring.key_ids == before.ring_for(Profile.LIVEKIT, "alice").key_ids == [0]
    assert opened_by(after, sealed_by(before)) == opened_by(before, sealed_by(after)) == AUDIO


def test_the_same_characters_as_text_and_as_bytes_are_different_keys():
    with pytest.raises(AuthenticationFailed):
        opened_by(provider(b"sixteen letters."), sealed_by(provider("sixteen letters.")))


def test_everybody_in_the_meeting_shares_one_ring_per_profile():
    made = provider()
    ring = made.ring_for(Profile.LIVEKIT, "alice")
    assert made.ring_for(Profile.LIVEKIT, "bob") is ring
    assert made.ring_for(Profile.VIDEOSDK, "alice") is not ring
    with pytest.raises(AuthenticationFailed):
        opened_by(made, sealed_by(made, Profile.LIVEKIT), Profile.VIDEOSDK)


def test_the_ring_speaks_the_core_api_and_carries_the_providers_options():
    ring = provider(failure_tolerance=7).ring_for(Profile.VIDEOSDK, "alice")
    assert isinstance(ring, KeyRing)
    assert (ring.profile, ring.failure_tolerance, ring.sending_key_id) == ("videosdk", 7, 0)


@pytest.mark.parametrize("ring_first", [True, False])
def test_the_most_recently_set_key_sends_and_the_older_ones_still_open(ring_first):
    made = provider(None)
    if ring_first:
        made.ring_for(Profile.LIVEKIT, "alice")
    made.set_shared_key(KEY, key_id=3)
    old = sealed_by(made)
    made.set_shared_key(OTHER_KEY, key_id=1)
    assert (made.ring_for(Profile.LIVEKIT, "alice").sending_key_id, made.key_ids) == (1, [1, 3])
    assert opened_by(made, old) == AUDIO
    assert sealed_by(made)[-1] == 1
    assert made.ring_for(Profile.VIDEOSDK, "alice").sending_key_id == 1


def test_replacing_a_key_under_its_id_makes_the_old_one_useless():
    made = provider(KEY)
    old = sealed_by(made)
    made.set_shared_key(OTHER_KEY)
    with pytest.raises(AuthenticationFailed):
        opened_by(made, old)


def test_a_removed_key_opens_nothing_and_the_sending_key_cannot_be_removed():
    made = provider(KEY)
    old = sealed_by(made)
    with pytest.raises(ValueError, match="key_id must not be the sending key id, which is 0"):
        made.remove_shared_key(0)
    made.set_shared_key(OTHER_KEY, key_id=1)
    made.remove_shared_key(0)
    made.remove_shared_key(0)
    assert made.key_ids == made.ring_for(Profile.LIVEKIT, "alice").key_ids == [1]
    with pytest.raises(UnknownKey) as caught:
        opened_by(made, old)
    assert caught.value.kid == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratchet_window_size": -1}, "ratchet_window_size must be between 0 and 16, not -1"),
        ({"ratchet_window_size": 17}, "ratchet_window_size must be between 0 and 16, not 17"),
        ({"failure_tolerance": -2}, "failure_tolerance must be between -1 and"),
        ({"key_ring_size": 0}, "key_ring_size must be between 1 and 256, not 0"),
        ({"key_ring_size": 257}, "key_ring_size must be between 1 and 256, not 257"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        ExternalE2EEKeyProvider(**options)


@pytest.mark.parametrize(
    ("kind", "name"), [(KeyProvider, "ratchet_window"), (ExternalE2EEKeyProvider, "ratchet_window_size")]
)
def test_a_ratchet_window_has_one_name_in_each_class(kind, name):
    """The ring's word, and VideoSDK's documented one where the class is VideoSDK's; the attribute is one."""
    other = {"ratchet_window": "ratchet_window_size", "ratchet_window_size": "ratchet_window"}[name]
    assert kind(**{name: 5}).ratchet_window == kind(True, 5).ratchet_window == 5
    with pytest.raises(ValueError, match=f"^{name} must be between 0 and 16, not 17"):
        kind(**{name: 17})
    with pytest.raises(TypeError, match=other):
        kind(**{other: 5})
    assert not hasattr(kind(), "ratchet_window_size")


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_options_of_another_type_are_refused(value):
    with pytest.raises(TypeError, match="failure_tolerance must be an int"):
        ExternalE2EEKeyProvider(failure_tolerance=value)


@pytest.mark.parametrize("options", [{"ratchet_window_size": 16}, {"failure_tolerance": 0}, {"key_ring_size": 256}])
def test_options_at_their_limits_are_accepted_by_the_native_ring_too(options):
    made = provider(KEY, **options)
    assert opened_by(made, sealed_by(made)) == AUDIO


@pytest.mark.parametrize(("size", "key_id"), [(16, -1), (16, 16), (1, 1)])
def test_a_key_id_outside_the_ring_is_refused(size, key_id):
    made = provider(None, key_ring_size=size)
    for change in (lambda: made.set_shared_key(KEY, key_id=key_id), lambda: made.remove_shared_key(key_id)):
        with pytest.raises(ValueError, match="key_id must be between 0 and"):
            change()


@pytest.mark.parametrize("key", ["", b"", b"fifteen letters", bytearray(15)])
def test_an_empty_or_short_key_is_refused_and_changes_nothing(key):
    made = provider(KEY)
    with pytest.raises(ValueError):
        made.set_shared_key(key, key_id=5)
    assert (made.key_ids, made.ring_for(Profile.LIVEKIT, "alice").sending_key_id) == ([0], 0)


@pytest.mark.parametrize("key", [None, 5, object()])
def test_a_key_that_is_neither_text_nor_a_buffer_is_a_type_error(key):
    with pytest.raises(TypeError):
        provider(None).set_shared_key(key)


def test_a_non_ascii_passphrase_is_warned_about_without_showing_it(caplog):
    with caplog.at_level(logging.WARNING, logger="frameseal"):
        provider("päßwörd")
    assert "non-ASCII" in caplog.text
    assert "päßwörd" not in caplog.text


def test_repr_shows_key_ids_and_no_key():
    made = provider("hunter2 hunter2")
    made.set_shared_key(KEY, key_id=4)
    assert repr(made) == "ExternalE2EEKeyProvider(key_ids=[0, 4], sending_key_id=4)"


def test_nothing_in_the_providers_own_memory_contains_the_key():
    made = provider("hunter2 hunter2")
    made.ring_for(Profile.LIVEKIT, "alice")
    held = [made.__dict__, made._shared, *made._shared.secrets.values(), *made._shared.rings.values()]
    assert all("hunter2" not in repr(thing) for thing in held)
    assert not any(isinstance(value, str | bytes) for value in made._shared.secrets.values())


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_provider_cannot_leave_the_process(copying):
    with pytest.raises(TypeError, match="it holds keys"):
        copying(provider())
