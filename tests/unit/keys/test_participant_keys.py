"""Keys per participant beside a shared key: who is opened with what, and what becomes of keys over a call."""

import gc
import weakref

import pytest

from frameseal import (
    AuthenticationFailed,
    DataCryptor,
    Decryptor,
    E2EEManager,
    Encryptor,
    ExternalE2EEKeyProvider,
    KeyProvider,
    KeyRing,
    Profile,
    UnknownKey,
)
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, delivered

PROFILES = [Profile.LIVEKIT, Profile.STREAM, Profile.SFRAME]
BOBS_KEY = bytes(range(50, 82))


def sealed(provider: KeyProvider, participant: str, profile: Profile = Profile.LIVEKIT) -> bytes:
    return Encryptor(provider.ring_for(profile, participant), "opus").encrypt(AUDIO)


def opened(provider: KeyProvider, participant: str, frame: bytes, profile: Profile = Profile.LIVEKIT) -> bytes:
    return Decryptor(provider.ring_for(profile, participant), "opus").decrypt(frame)


def keyed(**keys: bytes) -> KeyProvider:
    """A provider with keys of participants, by their names; "shared" is the shared one."""
    made = KeyProvider()
    for name, key in keys.items():
        made.set_shared_key(key) if name == "shared" else made.set_key(name, key)
    return made


@pytest.mark.parametrize("profile", PROFILES)
def test_each_participant_is_opened_with_their_own_key(profile):
    here, there = keyed(alice=KEY, bob=BOBS_KEY), keyed(alice=KEY, bob=BOBS_KEY)
    for name in ("alice", "bob"):
        assert opened(there, name, sealed(here, name, profile), profile) == AUDIO
    with pytest.raises((AuthenticationFailed, UnknownKey)):
        opened(there, "alice", sealed(here, "bob", profile), profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_who_has_no_key_of_their_own_uses_the_shared_one(profile):
    here, there = keyed(shared=KEY), keyed(shared=KEY, bob=BOBS_KEY)
    assert opened(there, "carol", sealed(here, "carol", profile), profile) == AUDIO
    # Bob has one, so who seals with the shared key is not taken for him.
    with pytest.raises((AuthenticationFailed, UnknownKey)):
        opened(there, "bob", sealed(here, "bob", profile), profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_key_that_comes_after_the_track_serves_the_ciphers_that_are_there(profile):
    here, there = KeyProvider(), KeyProvider()
    encryptor = Encryptor(here.ring_for(profile, "alice"), "opus")
    decryptor = Decryptor(there.ring_for(profile, "alice"), "opus")
    with pytest.raises(UnknownKey):
        encryptor.encrypt(AUDIO)
    for provider in (here, there):
        provider.set_shared_key(KEY)
    assert decryptor.decrypt(encryptor.encrypt(AUDIO)) == AUDIO
    for provider in (here, there):
        provider.set_key("alice", OTHER_KEY)
    own = encryptor.encrypt(AUDIO)
    assert decryptor.decrypt(own) == AUDIO
    with pytest.raises((AuthenticationFailed, UnknownKey)):
        opened(keyed(shared=KEY), "alice", own, profile)
    for provider in (here, there):
        provider.remove("alice")
    assert opened(keyed(shared=KEY), "alice", encryptor.encrypt(AUDIO), profile) == AUDIO


@pytest.mark.parametrize("profile", PROFILES)
def test_who_leaves_and_comes_back_under_the_same_id_gets_new_keys_in_the_same_ring(profile):
    here, there = keyed(bob=KEY), keyed(bob=KEY)
    ring = there.ring_for(profile, "bob")
    before = sealed(here, "bob", profile)
    there.remove("bob")
    there.remove("bob")
    with pytest.raises(UnknownKey):
        opened(there, "bob", before, profile)
    for provider in (here, there):
        provider.set_key("bob", BOBS_KEY)
    assert there.ring_for(profile, "bob") is ring
    assert opened(there, "bob", sealed(here, "bob", profile), profile) == AUDIO


def test_one_of_several_keys_can_be_removed():
    made = keyed(bob=KEY)
    made.set_key("bob", OTHER_KEY, 1)
    made.remove("bob", 0)
    assert made.key_ids_of("bob") == [1]
    made.set_shared_key(KEY)
    made.set_shared_key(OTHER_KEY, 1)
    made.remove()
    assert made.key_ids == [] and made.key_ids_of("bob") == [1]


@pytest.mark.parametrize("participant", [None, "alice"])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_key_can_be_there_before_it_is_sent_with(profile, participant):
    here, there = KeyProvider(), KeyProvider()
    for provider in (here, there):
        for key_id, key in enumerate((KEY, OTHER_KEY)):
            if participant is None:
                provider.set_shared_key(key, key_id, send=False)
            else:
                provider.set_key(participant, key, key_id, send=False)
    assert here.sending_key_id(participant) == 0, "the first key is the only one to send with"
    assert opened(there, "alice", sealed(here, "alice", profile), profile) == AUDIO
    here.set_sending_key_id(1, participant)
    frame = sealed(here, "alice", profile)
    assert opened(there, "alice", frame, profile) == AUDIO
    there.remove(participant, 1)
    with pytest.raises(UnknownKey):
        opened(there, "alice", frame, profile)
    with pytest.raises(ValueError, match="key_id must have a key to send with, and 7 has none"):
        here.set_sending_key_id(7, participant)


@pytest.mark.parametrize("key", ["a passphrase", KEY])
@pytest.mark.parametrize("participant", [None, "alice"])
def test_a_ratchet_step_moves_the_rings_that_are_there_and_those_to_come(key, participant):
    early, late = KeyProvider(), KeyProvider()
    for provider in (early, late):
        if participant is None:
            provider.set_shared_key(key)
        else:
            provider.set_key(participant, key)
    before = sealed(early, "alice")
    early.ratchet(participant)
    late.ratchet(participant)
    assert opened(late, "alice", sealed(early, "alice")) == AUDIO
    with pytest.raises(AuthenticationFailed):
        opened(late, "alice", before)
    with pytest.raises(ValueError, match="key_id must have a key to ratchet, and 5 has none"):
        early.ratchet(participant, 5)
    # A key that is set anew starts from its own beginning.
    for provider in (early, late):
        provider.remove(participant)
    with pytest.raises(UnknownKey):
        sealed(early, "alice")


def test_a_room_with_sframe_sets_a_fresh_key_and_does_not_ratchet():
    made = keyed(shared=KEY)
    made.ring_for(Profile.SFRAME, "alice")
    livekit = made.ring_for(Profile.LIVEKIT, "alice").fingerprint()
    with pytest.raises(ValueError, match="the profile sframe has no ratchet"):
        made.ratchet()
    assert made.ring_for(Profile.LIVEKIT, "alice").fingerprint() == livekit, "no ring has taken the step"


def test_a_native_ratchet_chain_comes_out_as_livekit_makes_it():
    plain, provided = KeyRing("livekit"), keyed(shared=KEY)
    plain.set_key(KEY)
    for _ in range(3):
        plain.ratchet()
        provided.ratchet()
    assert Decryptor(plain, "opus").decrypt(sealed(provided, "alice")) == AUDIO


def test_keys_are_exported_only_by_a_provider_that_was_made_for_it():
    closed, open_ = keyed(shared=KEY), KeyProvider(allow_export=True)
    closed.ring_for(Profile.LIVEKIT, "alice")
    with pytest.raises(PermissionError, match="allow_export=True"):
        closed.export_key()
    with pytest.raises(ValueError, match="there is no ring to export from"):
        open_.export_key()
    open_.set_shared_key("a passphrase")
    open_.set_key("bob", KEY)
    open_.ring_for(Profile.LIVEKIT, "bob")
    assert (open_.export_key(), open_.export_key("bob")) == (b"a passphrase", KEY)
    with pytest.raises(ValueError, match="no key"):
        open_.export_key("bob", 3)
    open_.ratchet("bob")
    ratcheted = open_.export_key("bob")
    assert len(ratcheted) == 32 and ratcheted != KEY
    for_later = KeyRing("livekit")
    for_later.set_key(ratcheted)
    assert Decryptor(for_later, "opus").decrypt(sealed(open_, "bob")) == AUDIO


async def test_listeners_hear_which_key_was_set_or_ratcheted_and_never_the_key():
    made = KeyProvider()
    heard: list = []
    made.on("key-set", lambda event: heard.append(("set", event.participant_id, event.key_id)))
    made.on("key-ratcheted", lambda event: heard.append(("ratcheted", event.participant_id, event.key_id)))
    made.set_shared_key(KEY, 3)
    made.set_key("bob", OTHER_KEY)
    made.ratchet("bob")
    await delivered()
    assert heard == [("set", None, 3), ("set", "bob", 0), ("ratcheted", "bob", 0)]


def test_a_provider_made_before_any_loop_tells_its_listeners_once_a_manager_has_one():
    import asyncio

    made, heard = KeyProvider(), []
    made.on("key-set", heard.append)
    made.set_shared_key(KEY)
    assert heard == []

    async def call():
        E2EEManager(made, "videosdk")
        await delivered()

    asyncio.run(call())
    assert [(event.participant_id, event.key_id) for event in heard] == [(None, 0)]


def test_a_room_is_enabled_by_the_shared_key_or_by_ones_own():
    for name in ("shared", "alice"):
        made = keyed(**{name: KEY})
        e2ee = E2EEManager(made, "livekit")
        e2ee.sender_transform("alice", "audio", "opus")
        assert e2ee.is_e2ee_enabled
        made.remove(None if name == "shared" else name)
        assert not e2ee.is_e2ee_enabled
    assert not E2EEManager(keyed(bob=KEY), "livekit").is_e2ee_enabled


def test_the_provider_of_one_key_for_all_takes_no_other():
    with pytest.raises(ValueError, match="use a KeyProvider"):
        ExternalE2EEKeyProvider().set_key("bob", KEY)


def test_nobody_in_particular_has_no_key_of_their_own():
    made = KeyProvider()
    for nobody, error in ((None, TypeError), (5, TypeError), ("", ValueError)):
        with pytest.raises(error, match="participant_id"):
            made.set_key(nobody, KEY)
    assert repr(made) == "KeyProvider(key_ids=[], sending_key_id=0)", "and above all, not everybody"


def test_repr_names_key_ids_and_neither_a_key_nor_a_participant():
    made = keyed(shared=KEY, bob=OTHER_KEY)
    assert repr(made) == "KeyProvider(key_ids=[0], sending_key_id=0, participants=1)"


def test_frames_are_counted_for_the_key_that_seals_them():
    made = keyed(shared=KEY, alice=OTHER_KEY)
    assert made.frames_sealed("alice") == made.frames_sealed() == made.frames_sealed("nobody") == 0
    for _ in range(5):
        sealed(made, "alice")
    assert (made.frames_sealed("alice"), made.frames_sealed()) == (5, 0)


@pytest.mark.parametrize("profile", [Profile.LIVEKIT, Profile.SFRAME])
def test_five_hundred_participants_share_a_passphrase_that_is_derived_once(profile):
    made = KeyProvider()
    made.set_shared_key("a passphrase")
    rings = [made.ring_for(profile, f"participant {number}") for number in range(500)]
    frame = sealed(made, "participant 0", profile)
    assert Decryptor(rings[499], "opus").decrypt(frame) == AUDIO
    assert len(set(map(id, rings))) == 500


# --- who has gone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_of_participants_who_have_gone_nothing_is_kept(profile):
    made = keyed(shared=KEY)
    rings = []
    for number in range(50):
        name = f"guest {number}"
        if number % 2:
            made.set_key(name, BOBS_KEY)
        decryptor = Decryptor(made.ring_for(profile, name), "opus")
        rings.append(weakref.ref(made.ring_for(profile, name)))
        assert rings[-1]() is not None
        made.remove(name)
        del decryptor
    assert [ring for ring in rings if ring() is not None] == []
    assert len(made._own) <= 1


@pytest.mark.parametrize(
    "cipher",
    [lambda ring: Encryptor(ring, "opus"), lambda ring: Decryptor(ring, "opus"), DataCryptor],
    ids=["Encryptor", "Decryptor", "DataCryptor"],
)
def test_a_ring_lives_as_long_as_a_cipher_has_it_and_gets_the_keys_that_come_later(cipher):
    made = KeyProvider()
    using = cipher(made.ring_for(Profile.LIVEKIT, "bob"))
    made.ring_for(Profile.LIVEKIT, "carol")
    ring = weakref.ref(made.ring_for(Profile.LIVEKIT, "bob"))
    assert ring() is not None
    made.set_key("bob", BOBS_KEY)
    assert ring().key_ids == [0]
    made.remove("bob")
    made.set_key("bob", KEY)
    assert made.ring_for(Profile.LIVEKIT, "bob") is ring()
    del using
    assert ring().key_ids == [0], "a ring that has a key is kept, for its counters"
    made.remove("bob")
    assert ring() is None


def test_a_sender_who_starts_again_with_the_same_key_does_not_count_from_the_start():
    made, there = keyed(alice=KEY), keyed(alice=KEY)
    decryptor = Decryptor(there.ring_for(Profile.SFRAME, "alice"), "opus")
    for _ in range(3):
        assert decryptor.decrypt(sealed(made, "alice", Profile.SFRAME)) == AUDIO  # or it would be a replay


def test_a_shared_key_that_comes_late_reaches_the_tracks_that_are_there():
    made = KeyProvider()
    encryptor = Encryptor(made.ring_for(Profile.LIVEKIT, "alice"), "opus")
    gc.collect()
    made.set_shared_key(KEY)
    assert opened(keyed(shared=KEY), "alice", encryptor.encrypt(AUDIO)) == AUDIO
