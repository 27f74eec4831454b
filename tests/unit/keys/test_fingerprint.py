"""Fingerprints and short codes: the same for the same keys, different for others (docs/guide/verification.md)."""

import hashlib
import itertools
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

import frameseal
from frameseal import Profile
from frameseal.keys import fingerprint
from frameseal.keys.fingerprint import combine, short_code
from support import reference
from support.paths import VECTORS

KDF = json.loads((VECTORS / "livekit.json").read_text())["kdf"]
SECRET = "my-shared-secret"


def ring(secret: str | bytes = SECRET, profile: str = "livekit", **options: int) -> frameseal.KeyRing:
    made = frameseal.KeyRing(profile, **options)
    (made.set_passphrase if isinstance(secret, str) else made.set_key)(secret)
    return made


def test_the_derivation_is_the_documented_one() -> None:
    expected = HKDF(SHA256(), 32, b"", b"frameseal fingerprint v1").derive(reference.derive("livekit", SECRET))
    assert ring().fingerprint() == ring().fingerprint(0) == expected
    assert ring().fingerprints() == [(0, expected)]


def test_both_ends_under_one_key_say_the_same() -> None:
    alice, bob = ring(b"k" * 32), ring(b"k" * 32, ratchet_window=4)
    assert alice.fingerprints() == bob.fingerprints()
    alice.ratchet()
    assert alice.fingerprint() != bob.fingerprint()
    opened = frameseal.Decryptor(bob, "opus").decrypt(frameseal.Encryptor(alice, "opus").encrypt(b"\x78frame"))
    assert opened == b"\x78frame"
    assert alice.fingerprint() == bob.fingerprint()


def test_a_wrong_kdf_salt_or_size_shows_as_a_wrong_key_does() -> None:
    rings = [
        ring(),
        ring("my-shared-secret "),
        ring(SECRET.encode()),
        ring(SECRET.encode(), "videosdk"),
        ring(SECRET.encode(), "jitsi"),
        ring(profile="videosdk"),
        ring(key_size=256),
    ]
    assert len({each.fingerprint() for each in rings}) == len({combine({None: each}) for each in rings}) == len(rings)


def sframe(secret: str | bytes = SECRET, key_id: int = 0, **options: Any) -> frameseal.KeyRing:
    made = frameseal.KeyRing("sframe", **options)
    if isinstance(secret, str):
        made.set_passphrase(secret, key_id)
    else:
        made.set_key(secret, key_id)
    return made


def of_base_key(base_key: bytes, key_id: int, suite: int = 4) -> bytes:
    label = b"frameseal sframe fingerprint v1" + suite.to_bytes(2, "big") + key_id.to_bytes(8, "big")
    return HKDF(SHA256(), 32, b"", label).derive(base_key)


@pytest.mark.parametrize("suite", frameseal.CipherSuite)
def test_of_an_sframe_key_it_is_the_documented_one_of_the_base_key(suite: frameseal.CipherSuite) -> None:
    key, options = bytes(range(40)), {"suite": suite, "allow_draft": True}
    assert sframe(key, 300, **options).fingerprint() == of_base_key(key, 300, suite)
    assert sframe(key, 3, shared=True, **options).fingerprint(3) == of_base_key(key, 3, suite)


def test_an_sframe_passphrase_is_the_base_key_that_it_gives() -> None:
    assert sframe().fingerprint() == sframe().fingerprint() != sframe(SECRET.encode()).fingerprint()


def test_all_who_share_an_sframe_key_or_an_epoch_say_the_same() -> None:
    shared = [sframe(b"k" * 16, 9, shared=True) for _ in range(2)]
    epochs = [frameseal.KeyRing("sframe") for _ in range(2)]
    kids = [ring.set_epoch(25, b"k" * 16, epoch_bits=4, sender_bits=2, sender_index=n) for n, ring in enumerate(epochs)]
    assert kids[0] != kids[1]
    for alice, bob in (shared, epochs):
        assert bob.key_ids == [9]
        frameseal.Decryptor(bob).decrypt(frameseal.Encryptor(alice).encrypt(b"frame"))
        assert alice.fingerprint() == bob.fingerprint() == of_base_key(b"k" * 16, 9)
        assert alice.fingerprints() == bob.fingerprints() == [(9, alice.fingerprint())]
    epochs[0].set_epoch(26, b"n" * 16, epoch_bits=4, sender_bits=2, sender_index=0)
    assert epochs[0].fingerprint() == of_base_key(b"n" * 16, 10) != epochs[1].fingerprint()
    assert [key_id for key_id, _ in epochs[0].fingerprints()] == [9, 10], "the epoch before still opens frames"


def test_of_a_sender_key_it_is_that_of_the_current_step() -> None:
    step = json.loads((VECTORS / "sframe-keys.json").read_text())["ratchet"][0]
    first, second = step["steps"][:2]
    key = bytes.fromhex(first["base_key"])
    suite, bits = step["cipher_suite"], step["ratchet_bits"]
    sender = sframe(key, first["kid"], suite=suite, ratchet_bits=bits, allow_draft=True)
    assert sender.fingerprint() == of_base_key(key, first["kid"], suite)
    sender.ratchet(first["kid"])
    assert sender.fingerprint() == of_base_key(bytes.fromhex(second["base_key"]), second["kid"], suite)


def test_it_is_that_of_the_sending_key_unless_one_is_named() -> None:
    two = ring()
    two.set_key(b"k" * 16, key_id=1)
    assert two.fingerprint() == two.fingerprint(0) != two.fingerprint(1)
    two.sending_key_id = 1
    assert two.fingerprint() == two.fingerprint(1)
    two.sending_key_id = 2
    with pytest.raises(ValueError, match="no key is set under id 2"):
        two.fingerprint()


def test_no_part_of_any_key_is_in_it() -> None:
    for case in KDF:
        if case["product"] != "livekit" or case["kdf"] != "HKDF" or case["key_bits"] != 128:
            continue
        fingerprint = ring(bytes.fromhex(case["input_hex"])).fingerprint()
        key = bytes.fromhex(case["aes_key_hex"])
        assert len(fingerprint) == 32
        assert not any(key[start : start + 4] in fingerprint for start in range(13))


# --- short codes: the helpers


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """List the inputs of all derivations. Each runs one iteration: these tests are about what goes in, and when."""
    inputs: list[bytes] = []
    derive = hashlib.pbkdf2_hmac

    def counted(name: str, password: bytes, salt: bytes, iterations: int, length: int) -> bytes:
        inputs.append(password)
        return derive(name, password, salt, 1, length)

    fingerprint._stretch.cache_clear()
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    yield inputs
    fingerprint._stretch.cache_clear()


Keys = Mapping[tuple[str | None, int], bytes]  # (participant or None for the shared keys, key id) -> key
A, B, C, D = (bytes([number]) * 32 for number in range(1, 5))


def provider_of(keys: Keys, **options: int) -> frameseal.KeyProvider:
    provider = frameseal.KeyProvider(**options)
    for (owner, key_id), key in keys.items():
        provider.set_shared_key(key, key_id) if owner is None else provider.set_key(owner, key, key_id)
    return provider


def code_of(keys: Keys, profile: str = "livekit") -> str:
    return frameseal.E2EEManager(provider_of(keys), profile).short_code()


# --- short codes: what they cover

ROOM: Keys = {(None, 0): A, (None, 3): B, ("alice", 0): C, ("alice", 1): A, ("bob", 0): D}


def changes_of(keys: Keys) -> Iterator[Keys]:
    """Every room that differs from this one in one key: another, removed, under another id, of another participant."""
    for (owner, key_id), key in keys.items():
        rest = {place: value for place, value in keys.items() if place != (owner, key_id)}
        yield {**rest, (owner, key_id): bytes([key[0] ^ 1]) + key[1:]}
        yield rest
        for other in (None, "alice", "bob", "carol"):
            for moved in (0, 1, 2, 3, 15):
                if (other, moved) not in keys:
                    yield {**rest, (other, moved): key}
                    yield {**keys, (other, moved): key}
    for (first, one), (second, two) in itertools.combinations(keys.items(), 2):
        if one != two:
            yield {**keys, first: two, second: one}


@pytest.mark.parametrize("profile", ["livekit", "videosdk", "nextcloud", "stream", "sframe"])
@pytest.mark.usefixtures("derivations")
def test_a_single_key_that_differs_changes_the_code_and_so_does_one_that_is_somewhere_else(profile: str) -> None:
    rooms = list(changes_of(ROOM))
    assert len(rooms) > 150
    code = code_of(ROOM, profile)
    same = [room for room in rooms if code_of(room, profile) == code]
    assert same == []


@pytest.mark.usefixtures("derivations")
def test_a_key_that_seals_nothing_here_but_may_open_frames_is_covered() -> None:
    def call(old: bytes, carols: bytes) -> str:
        provider = frameseal.KeyProvider()
        provider.set_shared_key(A, 1)
        provider.set_shared_key(old, 0, send=False)
        provider.set_key("carol", carols)
        return frameseal.E2EEManager(provider, "livekit").short_code()

    assert call(B, C) == call(B, C)
    assert len({call(B, C), call(D, C), call(B, D)}) == 3


@pytest.mark.usefixtures("derivations")
def test_who_is_not_named_but_has_a_key_is_covered() -> None:
    alice = frameseal.E2EEManager(provider_of({("alice", 0): A, ("bob", 0): B}), "livekit")
    spied = frameseal.E2EEManager(provider_of({("alice", 0): A, ("bob", 0): B, ("eve", 0): C}), "livekit")
    assert alice.short_code() == alice.short_code(["alice", "bob"]) == alice.short_code(["bob", "alice"])
    assert spied.short_code(["alice", "bob"]) != alice.short_code(["alice", "bob"])


@pytest.mark.usefixtures("derivations")
def test_the_code_is_the_same_whatever_order_keys_came_in_and_whichever_of_them_seals() -> None:
    first = frameseal.E2EEManager(provider_of(ROOM), "livekit")
    second = frameseal.E2EEManager(provider_of(dict(reversed(ROOM.items()))), "livekit")
    assert first.provider.sending_key_id() != second.provider.sending_key_id()
    assert first.short_code() == second.short_code(["bob", "carol", "alice"])


@pytest.mark.usefixtures("derivations")
def test_a_shared_key_has_one_code_however_many_take_part_in_whichever_provider() -> None:
    external = frameseal.ExternalE2EEKeyProvider()
    external.set_shared_key(A)
    alone, many = (
        frameseal.E2EEManager(external, "livekit"),
        frameseal.E2EEManager(provider_of({(None, 0): A}), "livekit"),
    )
    for name in ("alice", "bob", "ågot"):
        many.receiver_transform(name, "audio", "opus")
    assert alone.short_code() == many.short_code() == many.short_code(["alice", "zoe"]) == short_code(ring(A))


@pytest.mark.usefixtures("derivations")
def test_a_ratchet_changes_the_code_until_the_other_side_has_followed() -> None:
    ours, theirs = (frameseal.E2EEManager(provider_of(ROOM, ratchet_window=2), "livekit") for _ in range(2))
    sender, receiver = (
        ours.sender_transform("alice", "audio", "opus"),
        theirs.receiver_transform("alice", "audio", "opus"),
    )
    before = ours.short_code()
    ours.provider.ratchet("alice")
    assert ours.short_code() != before == theirs.short_code()
    assert receiver.decrypt(sender.encrypt(b"\x78frame")) == b"\x78frame"
    assert ours.short_code() == theirs.short_code() != before
    ours.provider.ratchet(None, 0)
    assert ours.short_code() != theirs.short_code(), "a step of a key that does not seal"


@pytest.mark.usefixtures("derivations")
def test_the_step_before_of_an_sframe_sender_is_covered_while_it_opens_frames() -> None:
    one, other = (sframe(b"s" * 16, 0x10, ratchet_bits=4, ratchet_window=4) for _ in range(2))
    one.ratchet(0x10)
    assert [key_id for key_id, _ in one.fingerprints()] == one.key_ids == [0x10, 0x11]
    assert short_code(one) != short_code(other)
    frameseal.Decryptor(other, "opus").decrypt(frameseal.Encryptor(one, "opus").encrypt(b"\x78frame"))
    assert short_code(one) == short_code(other)


class OwnRings:
    """A provider as somebody else writes one: rings only, and no word of who has keys."""

    discard_frame_when_cryptor_not_ready = True

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self.rings = {name: ring(key) for name, key in keys.items()}

    def ring_for(self, profile: Profile, participant_id: str) -> frameseal.KeyRing:
        return self.rings.setdefault(participant_id, frameseal.KeyRing(profile))


@pytest.mark.usefixtures("derivations")
def test_with_another_provider_those_named_and_those_with_tracks_are_covered() -> None:
    keys = {"alice": A, "bob": B, "eve": C}
    ours, theirs = (frameseal.E2EEManager(OwnRings(keys), "livekit") for _ in range(2))
    assert (
        ours.short_code(["alice", "bob"])
        == theirs.short_code(["bob", "alice"])
        == code_of({("alice", 0): A, ("bob", 0): B})
    )
    theirs.receiver_transform("eve", "audio", "opus")
    assert ours.short_code(["alice", "bob"]) != theirs.short_code(["alice", "bob"])
    assert ours.short_code(["alice", "bob", "eve"]) == theirs.short_code(["alice", "bob"])


@pytest.mark.usefixtures("derivations")
def test_the_two_sides_of_a_call_read_the_same_code_and_others_another() -> None:
    for profile in ("livekit", "sframe"):
        assert code_of({(None, 0): A}, profile) == code_of({(None, 0): A}, profile) != code_of({(None, 0): B}, profile)
        ours, theirs = {("alice", 0): A, ("bob", 0): B}, {("bob", 0): B, ("alice", 0): A}
        assert code_of(ours, profile) == code_of(theirs, profile) != code_of({("alice", 0): B, ("bob", 0): A}, profile)


@pytest.mark.usefixtures("derivations")
def test_own_keys_that_are_the_shared_ones_open_the_same_frames_and_have_the_same_code() -> None:
    assert code_of({(None, 0): A, (None, 1): B}) == code_of(
        {(None, 0): A, (None, 1): B, ("alice", 0): A, ("alice", 1): B}
    )
    assert code_of({(None, 0): A}) != code_of({("alice", 0): A})


@pytest.mark.usefixtures("derivations")
def test_no_participants_id_runs_into_another_nor_is_taken_for_one_that_looks_like_it() -> None:
    rooms: list[Keys] = [
        {("alice", 0): A, ("bob", 0): B},
        {("alic", 0): A, ("ebob", 0): B},
        {("alicebob", 0): A},
        {("alice", 0): A, ("bob", 0): B, ("eve", 0): B},
        {("a\u030agot", 0): A},
        {("\u00e5got", 0): A},
        {("\udce5got", 0): A},
    ]
    assert len({code_of(room) for room in rooms}) == len(rooms)


# --- short codes: derivation, strength and version


def test_the_code_is_derived_as_documented() -> None:
    def place(key_id: int, key: bytes) -> bytes:
        of_key = HKDF(SHA256(), 32, b"", b"frameseal fingerprint v1").derive(reference.derive("livekit", key))
        return key_id.to_bytes(8, "big") + of_key

    digest = hashlib.sha256(
        b"frameseal keys v2"
        + b"\0" + (2).to_bytes(4, "big") + place(0, A) + place(3, B)
        + b"\1" + (5).to_bytes(4, "big") + b"alice" + (2).to_bytes(4, "big") + place(0, C) + place(1, A)
        + b"\1" + (3).to_bytes(4, "big") + b"bob" + (1).to_bytes(4, "big") + place(0, D)
    ).digest()  # fmt: skip
    provider = provider_of(ROOM)
    rings = {name: provider.ring_for(Profile.LIVEKIT, name or "") for name in (None, "alice", "bob", "carol")}
    assert combine(rings) == digest
    stretched = PBKDF2HMAC(SHA512(), 40, b"frameseal short code v2", 2**18).derive(digest)
    groups = [int.from_bytes(stretched[start : start + 5], "big") % 100_000 for start in range(0, 40, 5)]
    expected = "v2 " + " ".join(f"{group:05}" for group in groups)
    assert expected == "v2 15667 76535 45399 33684 78071 00937 17724 44721"
    assert short_code(rings) == frameseal.E2EEManager(provider, "livekit").short_code() == expected


def test_the_code_of_the_documents_passphrase() -> None:
    assert short_code(ring()) == "v2 82233 72827 31690 14388 68277 76259 05085 27087"


def test_a_collision_costs_more_than_2_to_the_80_hashes_and_a_second_preimage_more_than_2_to_the_128() -> None:
    digits = fingerprint.GROUPS * fingerprint.DIGITS
    bits, work = digits * math.log2(10), math.log2(2 * fingerprint.ITERATIONS)  # an iteration of HMAC is two hashes
    assert bits / 2 + work > 80
    assert bits + work > 128
    assert len(code_of({(None, 0): A}).replace(" ", "")) == len("v2") + digits


def test_no_group_is_likelier_than_another() -> None:
    assert 256**fingerprint.GROUP_BYTES / 10**fingerprint.DIGITS > 10**7


def test_every_combination_of_keys_costs_a_derivation_of_its_own(derivations: list[bytes]) -> None:
    """Stretching each key and combining afterwards would cost 3 + 3 here, and a forger the root of its search."""
    codes = {code_of({("alice", 0): bytes([n]) * 32, ("bob", 0): bytes([m]) * 32}) for n in range(3) for m in range(3)}
    assert len(codes) == len(set(derivations)) == len(derivations) == 9


def test_a_code_is_derived_once_for_the_same_keys(derivations: list[bytes]) -> None:
    ours, theirs = (frameseal.E2EEManager(provider_of(ROOM), "livekit") for _ in range(2))
    for _ in range(5):
        assert ours.short_code() == theirs.short_code(["alice"])
    assert len(derivations) == 1
    ours.provider.set_shared_key(D, 9)
    changed = ours.short_code()
    assert changed == ours.short_code() != theirs.short_code()
    assert len(derivations) == 2
    ours.provider.set_shared_key(A, 0)
    ours.provider.remove(None, 9)
    assert ours.short_code() == theirs.short_code()
    assert len(derivations) == 2


def test_what_is_kept_of_codes_is_bounded(derivations: list[bytes]) -> None:
    for number in range(fingerprint.MAX_CODES + 10):
        fingerprint._stretch(number.to_bytes(32, "big"))
    assert fingerprint._stretch.cache_info().currsize == fingerprint.MAX_CODES
    assert len(derivations) == fingerprint.MAX_CODES + 10


def test_codes_of_two_versions_are_never_equal_and_say_which_they_are(
    monkeypatch: pytest.MonkeyPatch, derivations: list[bytes]
) -> None:
    code = code_of(ROOM)
    assert re.fullmatch(r"v2( \d{5}){8}", code)
    monkeypatch.setattr(fingerprint, "VERSION", 3)
    fingerprint._stretch.cache_clear()
    other = code_of(ROOM)
    assert re.fullmatch(r"v3( \d{5}){8}", other)
    assert set(code.split()[1:]).isdisjoint(other.split()[1:]), "the digits differ too"
    assert len(set(derivations)) == 2


def test_a_code_has_its_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = (99_999).to_bytes(5, "big") + (100_007).to_bytes(5, "big") + bytes(30)
    monkeypatch.setattr(fingerprint, "_stretch", lambda digest: digits)
    assert code_of(ROOM) == "v2 99999 00007 00000 00000 00000 00000 00000 00000"


# --- short codes: one moment, any thread, clear errors


class Changing:
    """A ring that runs *change* after it has been read once."""

    def __init__(self, inner: frameseal.KeyRing, change: Callable[[], None]) -> None:
        self.inner, self.change = inner, change

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not name.startswith("fingerprint"):
            return value

        def read(*arguments: Any) -> Any:
            answer, change, self.change = value(*arguments), self.change, lambda: None
            change()
            return answer

        return read


@pytest.mark.usefixtures("derivations")
@pytest.mark.parametrize("first", ["alice", "bob"])
def test_a_change_of_keys_between_two_reads_gives_no_mixed_code(first: str) -> None:
    before, after = {("alice", 0): A, ("bob", 0): B}, {("alice", 0): C, ("bob", 0): D}
    provider = provider_of(before)

    def change() -> None:
        for (name, _), key in after.items():
            provider.set_key(name, key)

    lent = {first: Changing(provider.ring_for(Profile.LIVEKIT, first), change)}
    ring_for = provider.ring_for
    provider.ring_for = lambda profile, name: lent.get(name) or ring_for(profile, name)  # type: ignore[assignment,method-assign,return-value]
    assert frameseal.E2EEManager(provider, "livekit").short_code(["alice", "bob"]) == code_of(after)


@pytest.mark.usefixtures("derivations")
def test_a_key_that_is_replaced_and_put_back_between_two_reads_gives_no_mixed_code() -> None:
    provider = provider_of({("alice", 0): A, ("bob", 0): B})
    alice, bob = (provider.ring_for(Profile.LIVEKIT, name) for name in ("alice", "bob"))

    def there() -> None:
        bob.set_key(D)
        alice.set_key(C)

    def back() -> None:
        alice.set_key(A)

    code = short_code({"alice": Changing(alice, there), "bob": Changing(bob, back)})  # type: ignore[dict-item]
    assert code == code_of({("alice", 0): A, ("bob", 0): D})


def test_keys_that_never_hold_still_end_in_an_error_and_in_no_code() -> None:
    provider = provider_of({("alice", 0): A})

    class Restless(Changing):
        def __getattr__(self, name: str) -> Any:
            self.inner.set_key(B)
            return getattr(self.inner, name)

    with pytest.raises(RuntimeError, match="keys changed"):
        short_code({"alice": Restless(provider.ring_for(Profile.LIVEKIT, "alice"), lambda: None)})  # type: ignore[dict-item]


@pytest.mark.usefixtures("derivations")
def test_threads_that_ask_while_keys_change_only_read_codes_of_rooms_that_were() -> None:
    """The shared keys change one after the other, so the other's old key never stands beside the next but one."""
    cycle: list[Keys] = []
    for now, following in itertools.pairwise([A, B, C, A]):
        cycle += [{(None, 0): now, (None, 1): now}, {(None, 0): following, (None, 1): now}]
    allowed = {code_of(keys) for keys in cycle}
    provider = provider_of(cycle[0])
    manager, over, read = frameseal.E2EEManager(provider, "livekit"), threading.Event(), set()

    def ask() -> None:
        while not over.is_set():
            read.add(manager.short_code())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            for keys in cycle:
                for (_, key_id), key in keys.items():
                    provider.set_shared_key(key, key_id)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert read and read <= allowed


def test_a_python_without_the_kdf_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hashlib, "pbkdf2_hmac")
    fingerprint._stretch.cache_clear()
    with pytest.raises(RuntimeError, match=r"hashlib\.pbkdf2_hmac.*OpenSSL"):
        short_code(ring(A))


def test_what_cannot_be_compared_is_refused() -> None:
    manager = frameseal.E2EEManager(provider_of({("alice", 0): A}), "livekit")
    with pytest.raises(ValueError, match="participant_ids must name participants with a key"):
        manager.short_code(["alice", "carol"])
    with pytest.raises(TypeError, match="several ids"):
        manager.short_code("alice")
    with pytest.raises(ValueError, match="no key to compare"):
        frameseal.E2EEManager(frameseal.KeyProvider(), "livekit").short_code()
    with pytest.raises(ValueError, match="no key to compare"):
        combine({})
    for wrong in (ring().fingerprint(), "alice", None, {"alice": b"f" * 32}, {5: ring()}):
        with pytest.raises(TypeError, match="rings"):
            short_code(wrong)  # type: ignore[arg-type]
