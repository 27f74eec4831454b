"""While a provider derives a key, which takes long for a passphrase, no other call waits; and the newest call wins."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import frameseal.keys.provider
from frameseal import Encryptor, KeyProvider, KeyRing, Profile
from frameseal._native import DerivedKey, Secret
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY

MAX_SECONDS = 60  # what waits longer waits for ever; nothing is slept


class SlowRing:
    """A ring whose derivations last as long as a test wants. Stands in for `KeyRing` in the provider."""

    begun, may_end = threading.Event(), threading.Event()
    slow = frozenset[str]()

    def __init__(self, profile: str, *, fallback: "SlowRing | None" = None, **options) -> None:
        self.ring = KeyRing(profile, fallback=fallback and fallback.ring, **options)

    def __getattr__(self, name: str):
        return getattr(self.ring, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "ring":
            super().__setattr__(name, value)
        else:
            setattr(self.ring, name, value)

    def _derive(self, name: str) -> None:
        if name in self.slow:
            type(self).slow = frozenset()  # the others are quick
            self.begun.set()
            assert self.may_end.wait(MAX_SECONDS), "somebody waited for the derivation"

    def set_secret(self, secret: Secret, key_id: int = 0) -> None:
        self._derive("set_secret")
        self.ring.set_secret(secret, key_id)

    def derive_key(self, secret: Secret, key_id: int = 0) -> DerivedKey:
        self._derive("derive_key")
        return self.ring.derive_key(secret, key_id)

    def ratchet(self, key_id: int = 0) -> int:
        self._derive("ratchet")
        return self.ring.ratchet(key_id)

    def derive_ratchet(self, key_id: int = 0) -> DerivedKey:
        self._derive("derive_ratchet")
        return self.ring.derive_ratchet(key_id)


@pytest.fixture
def keys(monkeypatch) -> KeyProvider:
    """A provider of slow rings, with a shared key and one of bob's."""
    monkeypatch.setattr(frameseal.keys.provider, "KeyRing", SlowRing)
    SlowRing.begun, SlowRing.may_end = threading.Event(), threading.Event()
    made = KeyProvider(allow_export=True, ratchet_window=2)
    made.set_shared_key(KEY)
    made.set_key("bob", OTHER_KEY, 1)
    made.rings = [made.ring_for(Profile.LIVEKIT, who) for who in ("alice", "bob")]
    return made


class During:
    """Runs a call in a thread until it derives, and what is in the block meanwhile; then the call may end."""

    def __init__(self, *names: str, call: Callable[[], object]) -> None:
        self.names, self.call = names, call
        self.pool = ThreadPoolExecutor(2)

    def __enter__(self) -> "During":
        SlowRing.slow = frozenset(self.names)
        self.result: Future[object] = self.pool.submit(self.call)
        assert SlowRing.begun.wait(MAX_SECONDS)
        return self

    def at_once(self, call: Callable[[], object]) -> object:
        """Return what *call* does, if it waits for nothing."""
        return self.pool.submit(call).result(MAX_SECONDS / 2)

    def __exit__(self, *_) -> None:
        SlowRing.may_end.set()
        self.pool.shutdown()
        self.result.result()


SETTING = ("derive_key", "set_secret")
STEPPING = ("derive_ratchet", "ratchet")
CALLS: dict[str, tuple[tuple[str, ...], Callable[[KeyProvider], object]]] = {
    "set_shared_key": (SETTING, lambda keys: keys.set_shared_key("a passphrase", 2)),
    "set_key": (SETTING, lambda keys: keys.set_key("bob", "a passphrase", 2)),
    "ring_for": (SETTING, lambda keys: keys.ring_for(Profile.VIDEOSDK, "carol")),
    "ratchet": (STEPPING, lambda keys: keys.ratchet()),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_method_answers_while_another_thread_derives(keys, name):
    slow, call = CALLS[name]
    with During(*slow, call=lambda: call(keys)) as during:
        assert during.at_once(lambda: keys.key_ids) == [0]
        assert during.at_once(lambda: keys.key_ids_of("bob")) == [1]
        assert during.at_once(keys.sending_key_id) == 0
        assert during.at_once(lambda: keys.ring_for(Profile.LIVEKIT, "bob")) is keys.rings[1]
        assert during.at_once(lambda: keys.ring_for(Profile.LIVEKIT, "dora")).key_ids == [0]
        assert during.at_once(keys.frames_sealed) == 0
        assert during.at_once(keys.export_key) == KEY
        assert list(during.at_once(lambda: keys.secrets_of("bob"))) == [1]
        assert "key_ids=[0]" in during.at_once(lambda: repr(keys))
        during.at_once(lambda: keys.on("key-set", print))
        during.at_once(lambda: keys.set_shared_key(OTHER_KEY, 3))
        during.at_once(lambda: keys.set_sending_key_id(3))
        during.at_once(lambda: keys.ratchet("bob"))
        during.at_once(lambda: keys.remove("bob"))
        during.at_once(lambda: keys.set_key("erin", KEY))
        during.at_once(lambda: keys.remove_shared_key(9))
    assert keys.key_ids_of("erin") == [0] and 3 in keys.key_ids


@pytest.mark.parametrize("who", [None, "bob"])
def test_of_two_calls_for_one_key_the_later_one_wins_however_long_the_other_derives(keys, who):
    def set_key(key: str | bytes, key_id: int) -> None:
        keys.set_shared_key(key, key_id) if who is None else keys.set_key(who, key, key_id)

    ring = keys.ring_for(Profile.LIVEKIT, who or "alice")
    with During(*SETTING, call=lambda: set_key("the older one", 2)) as during:
        during.at_once(lambda: set_key(b"the newer one of two", 2))
    assert keys.export_key(who, 2) == ring.export_key(2) == b"the newer one of two"
    assert keys.sending_key_id(who) == ring.sending_key_id == 2


@pytest.mark.parametrize("who", [None, "bob"])
def test_the_key_that_was_chosen_last_seals_however_long_another_one_derives(keys, who):
    def set_key(key: str | bytes, key_id: int) -> None:
        keys.set_shared_key(key, key_id) if who is None else keys.set_key(who, key, key_id)

    ring = keys.ring_for(Profile.LIVEKIT, who or "alice")
    for chosen, choose in enumerate([lambda: set_key(bytes(16), 3), lambda: keys.set_sending_key_id(3, who)]):
        SlowRing.begun, SlowRing.may_end = threading.Event(), threading.Event()
        with During(*SETTING, call=lambda chosen=chosen: set_key("slow", 4 + chosen)) as during:
            during.at_once(choose)
        assert keys.sending_key_id(who) == ring.sending_key_id == 3
        assert 4 + chosen in ring.key_ids


@pytest.mark.parametrize("key_id", [2, None], ids=["one", "all"])
@pytest.mark.parametrize("who", [None, "bob", "carol"])
def test_a_key_that_is_removed_while_it_is_derived_does_not_come_back(keys, who, key_id):
    keys.remove(who)  # carol has no key of her own, and no call but the one that derives knows her
    ring = keys.ring_for(Profile.LIVEKIT, who or "alice")

    def set_key() -> None:
        keys.set_shared_key("slow", 2) if who is None else keys.set_key(who, "slow", 2)

    with During(*SETTING, call=set_key) as during:
        during.at_once(lambda: keys.set_key("somebody else", KEY))
        during.at_once(lambda: keys.remove(who, key_id))
    assert keys.key_ids_of(who) == [] and 2 not in ring.key_ids
    keys.set_shared_key(KEY, 2) if who is None else keys.set_key(who, KEY, 2)
    assert keys.key_ids_of(who) == ring.key_ids == [2], "from then on it may be set again"


def test_a_ring_that_is_made_while_keys_change_has_the_newest_and_is_made_once(keys):
    keys.set_shared_key("a passphrase", 1)
    with During(*SETTING, call=lambda: keys.ring_for(Profile.VIDEOSDK, "alice")) as during:
        during.at_once(lambda: keys.set_shared_key(OTHER_KEY, 1))
        during.at_once(lambda: keys.set_shared_key(OTHER_KEY, 5))
        during.at_once(lambda: keys.ratchet(None, 5))
        during.at_once(lambda: keys.remove(None, 0))
    ring = during.result.result()
    assert ring is keys.ring_for(Profile.VIDEOSDK, "alice")
    shared = keys.ring_for(Profile.VIDEOSDK, "nobody with a key")
    expected = KeyRing("videosdk")
    expected.set_key(OTHER_KEY, 5)
    expected.ratchet(5)
    assert shared.key_ids == ring.key_ids == [1, 5] and shared.sending_key_id == 5
    assert (shared.export_key(1), shared.fingerprint(5)) == (OTHER_KEY, expected.fingerprint(5))


def test_two_threads_that_ask_for_one_ring_get_one(keys):
    keys.set_shared_key("a passphrase", 1)
    with During(*SETTING, call=lambda: keys.ring_for(Profile.VIDEOSDK, "alice")) as during:
        made = during.at_once(lambda: keys.ring_for(Profile.VIDEOSDK, "alice"))
    assert during.result.result() is made
    keys.set_key("alice", KEY)
    assert made.key_ids == [0]


def test_a_key_that_is_set_while_a_ring_is_made_reaches_both(keys):
    with During(*SETTING, call=lambda: keys.set_shared_key("a passphrase", 6)) as during:
        ring = during.at_once(lambda: keys.ring_for(Profile.VIDEOSDK, "alice"))
    assert ring.key_ids == keys.rings[0].key_ids == [0, 6]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_step_belongs_to_the_key_that_is_there_when_it_is_taken(keys, replaced):
    other = keys.ring_for(Profile.VIDEOSDK, "alice")
    with During(*STEPPING, call=keys.ratchet) as during:
        during.at_once(lambda: keys.set_shared_key(OTHER_KEY) if replaced else keys.ratchet())
    expected = {profile: KeyRing(profile) for profile in ("livekit", "videosdk")}
    for ring in expected.values():
        ring.set_key(OTHER_KEY if replaced else KEY)
        for _ in range(1 if replaced else 2):
            ring.ratchet()
    assert keys.rings[0].fingerprint(0) == expected["livekit"].fingerprint(0)
    assert other.fingerprint(0) == expected["videosdk"].fingerprint(0)


def test_a_key_that_one_ring_refuses_is_set_in_none():
    keys = KeyProvider()
    keys.set_shared_key(KEY)
    rings = [keys.ring_for(profile, "alice") for profile in (Profile.LIVEKIT, Profile.JITSI)]
    with pytest.raises(ValueError):
        keys.set_shared_key("jitsi has no passphrases", 1)
    assert [ring.key_ids for ring in rings] == [[0], [0]] and keys.key_ids == [0]
    assert keys.sending_key_id() == 0 and Encryptor(rings[0], "opus").encrypt(AUDIO)[-1] == 0


def test_whatever_threads_do_at_once_all_rings_and_the_provider_agree():
    keys = KeyProvider(allow_export=True)
    keys.set_shared_key(KEY, 7)
    rings = [keys.ring_for(profile, "alice") for profile in (Profile.LIVEKIT, Profile.VIDEOSDK)]

    def change(number: int) -> None:
        for turn, (key_id, key) in enumerate(itertools.product(range(3), ("a passphrase", bytes(range(16))))):
            keys.set_shared_key(key if isinstance(key, bytes) else f"{key} {number}", key_id, send=turn % 2 == 0)
            if (turn + number) % 3 == 0:
                keys.remove(None, key_id)
            elif (turn + number) % 3 == 1:
                keys.set_sending_key_id(7)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(8)))
    assert rings[0].key_ids == rings[1].key_ids == keys.key_ids
    assert rings[0].sending_key_id == rings[1].sending_key_id == keys.sending_key_id()
    for key_id in keys.key_ids:
        assert rings[0].export_key(key_id) == rings[1].export_key(key_id)
