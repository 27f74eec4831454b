"""What LiveKit's SDKs were seen to do over a call, beside what we do: as they do, or they keep silent and we tell.

The same things happen here to one track, without the wire. `livekit-native-behaviour.jsonl` is what the native SDK did,
`error_rate_limiter` in `livekit.json` when the worker reports an error that goes on coming.
"""

import json
import re
from collections.abc import Callable
from functools import partial

import pytest

from frameseal import E2EEManager, E2EEState, ExternalE2EEKeyProvider, KeyProvider
from support.e2ee_helpers import AUDIO, Clock, TimedCall, delivered
from support.paths import ROOT, TESTS, VECTORS

LIVEKIT = json.loads((VECTORS / "livekit.json").read_text())
NATIVE = {
    run["name"]: run for run in map(json.loads, (VECTORS / "livekit-native-behaviour.jsonl").read_text().splitlines())
}
SECRET = "my-shared-secret"
TRAILER = b"LK-ROCKS"
SILENCE = b"\xf8\xff\xfe" + bytes(77)
S = E2EEState

OURS = {"OK": S.DecryptionSuccess, "MISSING_KEY": S.MissingKey, "DECRYPTION_FAILED": S.DecryptionFailed}


class Call:
    """A sender, and a receiver whose states and ratchets are noted in order."""

    def __init__(self, secret: str | bytes = SECRET, clock: Clock | None = None, **options) -> None:
        self.sending, self.keys = ExternalE2EEKeyProvider(), ExternalE2EEKeyProvider(allow_export=True, **options)
        self.sending.set_shared_key(secret)
        self.keys.set_shared_key(secret)
        self.far = E2EEManager(self.sending, "livekit").sender_transform("bob", "audio", "opus")
        make = E2EEManager if clock is None else partial(TimedCall, clock=clock)
        self.e2ee = make(self.keys, profile="livekit", sif_trailer=TRAILER)
        self.near = self.e2ee.receiver_transform("bob", "audio", "opus")
        self.noted: list[E2EEState] = []
        self.e2ee.on("e2ee-state-change", lambda change: self.noted.append(change.state))

    def send(self, frames: int = 5, what: Callable[[bytes], bytes] = lambda sealed: sealed) -> list[bytes | None]:
        return [self.near.decrypt(what(self.far.encrypt(AUDIO))) for _ in range(frames)]


def in_the_clear(_: bytes) -> bytes:
    return AUDIO


def hkdf(call: Call) -> None:
    assert call.send() == [AUDIO] * 5


def wrong_key(call: Call) -> None:
    call.sending.set_shared_key("another")
    assert call.send() == [None] * 5


def wrong_then_right(call: Call) -> None:
    call.send()
    call.sending.set_shared_key("another")
    call.send()
    call.sending.set_shared_key(SECRET)
    assert call.send() == [AUDIO] * 5, "theirs stays silent until the key is set again"
    call.keys.set_shared_key(SECRET)
    call.send()


def index_1_then_set(call: Call) -> None:
    call.send()
    call.sending.set_shared_key(SECRET, 1)
    assert call.send() == [None] * 5
    call.keys.set_shared_key(SECRET, 1)
    call.send()


def plaintext(call: Call) -> None:
    assert call.send(what=in_the_clear) == [None] * 5
    assert call.send() == [AUDIO] * 5


def steps_ahead(call: Call) -> None:
    assert call.send() == [AUDIO] * 5
    for steps in (1, 3):
        for _ in range(steps):
            call.sending.ratchet()
        call.send(1)
        while (
            call.keys.ring_for("livekit", "bob").pending_ratchets and call.near.decrypt(call.far.encrypt(AUDIO)) is None
        ):
            call.keys.ring_for("livekit", "bob").derive_ratchet_step(0)
        assert call.send() == [AUDIO] * 5
    assert call.near.stats()["ratchets"] == 4
    wanted = dict(zip(*[iter(NATIVE["auto ratchet +1 then +3, window 16"]["marks"][-1])] * 2, strict=True))
    assert call.keys.export_key().hex() == wanted["expected material[4]"]


def past_the_ring(call: Call) -> None:
    call.send()
    with pytest.raises(ValueError, match="between 0 and 15"):
        call.keys.set_shared_key(SECRET, 16)  # theirs takes it for 0
    assert call.send(what=lambda sealed: sealed[:-1] + b"\x10") == [None] * 5
    assert call.send() == [AUDIO] * 5


def injected(call: Call) -> None:
    call.send()
    assert call.send(what=lambda _: SILENCE + TRAILER) == [SILENCE] * 5
    assert call.send(what=lambda _: AUDIO + TRAILER) == [None] * 5


# What happens, and where theirs keeps silent, what we tell instead.
RUNS = {
    "HKDF provider, HKDF frames": (hkdf, {"secret": SECRET.encode()}, None),
    "wrong key, default window 0, tolerance -1": (wrong_key, {}, [S.DecryptionFailed]),
    "wrong key, window 0, tolerance 3, then right key, then set_key": (
        wrong_then_right,
        {"failure_tolerance": 3},
        [S.DecryptionSuccess, S.DecryptionFailed, S.InvalidKey, S.DecryptionSuccess],
    ),
    "key index 1 unknown then set": (index_1_then_set, {}, None),
    "plaintext frames on an encrypted track": (plaintext, {}, None),
    "auto ratchet +1 then +3, window 16": (
        steps_ahead,
        {"ratchet_window_size": 16},
        # The steps of a passphrase are derived beside the frames, so some are lost first; the ratchet is an event.
        [S.DecryptionSuccess, *[S.DecryptionFailed, S.DecryptionSuccess] * 2],
    ),
    "key index 15, 16, wrap": (past_the_ring, {}, None),
    "SIF trailer: known payload, then arbitrary plaintext": (injected, {}, None),
}


@pytest.mark.parametrize("name", RUNS)
async def test_states_over_a_call_are_those_of_the_native_sdk_or_say_more(name):
    happens, options, instead = RUNS[name]
    call = Call(**options)
    happens(call)
    await delivered()
    theirs = [state for _, state in NATIVE[name]["states"]]
    assert call.noted == (instead or [OURS[state] for state in theirs])
    assert len(call.noted) >= len([state for state in theirs if state != "KEY_RATCHETED"])


@pytest.mark.parametrize(("name", "key"), [("ratchet API", SECRET), ("ratchet API HKDF", SECRET.encode())])
def test_a_provider_ratchets_to_the_material_that_the_native_sdk_exports(name, key):
    keys = KeyProvider(allow_export=True)
    keys.set_shared_key(key)
    keys.ring_for("livekit", "bob")
    assert keys.export_key() == SECRET.encode()
    chain = [mark[1] for mark in NATIVE[name]["marks"] if mark[0].startswith("ratchet")]
    assert len(chain) >= 2
    for material in chain:
        keys.ratchet()
        assert keys.export_key().hex() == material


async def test_a_state_is_told_whenever_the_worker_tells_and_where_it_keeps_silent_for_a_minute():
    clock = Clock(0.0)
    call, told = Call(clock=clock), []
    for moment in LIVEKIT["error_rate_limiter"]:
        clock.now = moment["t_ms"] / 1000
        before = len(call.noted)
        call.send(1)
        call.send(1, what=in_the_clear)
        await delivered()
        told.append(S.DecryptionFailed in call.noted[before:])
    theirs = [moment["emit"] for moment in LIVEKIT["error_rate_limiter"]]
    assert len(told) == 13 and sum(theirs) < 13 and all(told)


@pytest.mark.parametrize("name", ["livekit.json", "livekit-native.json", "jitsi.json", "sframe-keys.json"])
def test_every_group_of_the_vectors_is_read_by_a_test(name):
    # A sequence of IVs is the worker's own way to make them: ours are others, on purpose (docs/security.md).
    groups = set(json.loads((VECTORS / name).read_text())) - {"meta", "iv_sequence"}
    tests = [*TESTS.glob("unit/**/*.py"), *(ROOT / "rust/core/tests").glob("*.rs")]
    read = {quoted for test in tests for quoted in re.findall(r'"(\w+)"', test.read_text("utf-8"))}
    assert groups and groups <= read
