"""The calls that LiveKit's native SDK was put through (tests/vectors/livekit-native-behaviour.jsonl), held with ours.

Where it reports, we report the same. Where it is silent, or needs help to recover, we are not and do not.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from e2ee_helpers import AUDIO, KEY, OTHER_KEY, Recorder, sealer
from frameseal import E2EEState, Encryptor, KeyRing

LINES = (Path(__file__).parent / "vectors/livekit-native-behaviour.jsonl").read_text("utf-8").splitlines()
CALLS: dict[str, dict[str, Any]] = {call["name"]: call for call in map(json.loads, LINES)}
PASSPHRASE = "my-shared-secret"
S = E2EEState


def native_states(name: str) -> list[E2EEState]:
    """What the native SDK reported, under our names. That it followed a ratchet is an event of its own with us."""
    names = {"OK": S.DecryptionSuccess, "DECRYPTION_FAILED": S.DecryptionFailed, "MISSING_KEY": S.MissingKey}
    reported = [names[state] for _, state in CALLS[name]["states"] if state != "KEY_RATCHETED"]
    return [state for at, state in enumerate(reported) if at == 0 or state is not reported[at - 1]]


class Call(Recorder):
    """A receiver of audio, and how much of it was heard."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.receiver = self.manager.receiver_transform("bob", "audio", "opus")

    def hear(self, *frames: bytes) -> int:
        return sum(self.receiver.decrypt(frame) == AUDIO for frame in frames)


def several(seal: Any, count: int = 10) -> list[bytes]:
    return [seal(AUDIO) for _ in range(count)]


async def test_the_right_key_is_a_success_once() -> None:
    call = Call()
    assert call.hear(*several(sealer())) == 10
    assert await call.states() == native_states("HKDF provider, HKDF frames")


async def test_a_wrong_key_that_is_tolerated_for_ever_is_still_reported() -> None:
    call = Call(failure_tolerance=-1)
    assert call.hear(*several(sealer(OTHER_KEY), 50)) == 0
    assert native_states("wrong key, default window 0, tolerance -1") == []
    assert await call.states() == [S.DecryptionFailed]


async def test_beyond_the_tolerance_the_right_key_needs_no_other_help() -> None:
    call = Call(failure_tolerance=3)
    call.hear(*several(sealer()), *several(sealer(OTHER_KEY)))
    # There it stays silent until somebody sets the same key again.
    assert call.hear(*several(sealer())) == 10
    native = native_states("wrong key, window 0, tolerance 3, then right key, then set_key")
    assert native == [S.DecryptionSuccess, S.DecryptionFailed, S.DecryptionSuccess]
    assert await call.states() == [*native[:2], S.InvalidKey, *native[2:]]


async def test_a_key_that_is_missing_and_then_set() -> None:
    call = Call()
    call.hear(*several(sealer()), *several(sealer(OTHER_KEY, key_id=1)))
    call.provider.set_shared_key(OTHER_KEY, key_id=1)
    assert call.hear(*several(sealer(OTHER_KEY, key_id=1))) == 10
    assert await call.states() == native_states("key index 1 unknown then set")


async def test_frames_in_the_clear_on_an_encrypted_track() -> None:
    call = Call()
    assert call.hear(*[AUDIO] * 10) == 0
    assert call.hear(*several(sealer())) == 10
    assert await call.states() == native_states("plaintext frames on an encrypted track")


async def test_a_few_bad_frames_are_reported_and_over_with_the_next_good_one() -> None:
    call, bad = Call(), several(sealer(OTHER_KEY), 5)
    assert call.hear(*several(sealer()), *bad, *several(sealer())) == 20
    assert native_states("5 bad frames with window 0: CPU cost") == [S.DecryptionSuccess]
    assert await call.states() == [S.DecryptionSuccess, S.DecryptionFailed, S.DecryptionSuccess]


def step_forward(secret: str | bytes, steps: int) -> list[str]:
    """The material after each of so many ratchet steps."""
    ring = KeyRing("livekit", exportable=True)
    (ring.set_passphrase if isinstance(secret, str) else ring.set_key)(secret)
    return [ring.export_key().hex() for _ in range(steps) if ring.ratchet() == 0]


def test_a_ratchet_gives_out_the_same_material_step_by_step() -> None:
    marks = CALLS["ratchet API"]["marks"]
    assert marks[0] == ["export before", PASSPHRASE.encode().hex()]
    assert step_forward(PASSPHRASE, 3) == [material for name, material, *_ in marks if name.startswith("ratchet")]
    marks = CALLS["ratchet API HKDF"]["marks"]
    by_hkdf = [material for name, material in marks if name.startswith("ratchet")]
    assert step_forward(PASSPHRASE.encode(), len(by_hkdf)) == by_hkdf


async def test_a_sender_that_goes_ahead_by_one_step_and_then_by_three_is_followed_without_a_gap() -> None:
    name = "auto ratchet +1 then +3, window 16"
    call, far = Call(key=KEY, ratchet_window_size=16), KeyRing("videosdk")
    far.set_key(KEY)
    encryptor = Encryptor(far, "opus")
    for steps in (0, 1, 3):
        for _ in range(steps):
            far.ratchet()
        assert call.hear(*several(encryptor.encrypt)) == 10
    assert call.receiver.stats()["ratchets"] == 4
    assert await call.states() == native_states(name) == [S.DecryptionSuccess]
    (material,) = [mark[3] for mark in CALLS[name]["marks"] if mark[2:3] == ["expected material[4]"]]
    assert step_forward(PASSPHRASE, 4)[-1] == material


def test_a_key_id_outside_the_ring_is_refused_and_never_another_ones() -> None:
    assert native_states("key index 15, 16, wrap")[1] is S.MissingKey  # there, key 16 is put into slot 0
    ring = KeyRing("livekit")
    ring.set_key(KEY, 15)
    with pytest.raises(ValueError, match="outside this ring of 16"):
        ring.set_key(KEY, 16)
    assert ring.key_ids == [15]
