"""The events of Stream's worker over time, beside the states that a call reports for the same frames."""

import json

import pytest

from frameseal import E2EEState as S
from frameseal import KeyProvider
from support.e2ee_helpers import Clock, TimedCall
from support.paths import VECTORS

EVENTS = json.loads((VECTORS / "stream.json").read_text())["events"]

OURS = {
    "e2ee.missing_key": {S.MissingKey},
    "e2ee.decryption_failed": {S.DecryptionFailed, S.InvalidKey},
    "e2ee.decryption_stalled": {S.InvalidKey},
    "e2ee.decryption_resumed": {S.DecryptionSuccess},
    "e2ee.unencrypted_frame": {S.DecryptionFailed, S.InvalidKey},
    "e2ee.unsupported_version": {S.DecryptionFailed, S.InvalidKey},
}


@pytest.mark.parametrize("case", EVENTS, ids=lambda case: case["name"])
def test_each_event_of_theirs_finds_the_track_in_the_state_that_the_page_names(case):
    keys, clock = KeyProvider(failure_tolerance=10), Clock(0.0)
    for key in case["keys"]:
        keys.set_key(case["user"], bytes.fromhex(key["key_hex"]), key["key_index"])
    tracks = {}
    for step in case["steps"]:
        if "do" in step:
            assert step["do"] == "set_key"
            keys.set_key(case["user"], bytes.fromhex(step["key_hex"]), step["key_index"])
            continue
        clock.now = step["at_ms"] / 1000
        if step["track"] not in tracks:
            changes = []
            call = TimedCall(keys, clock, "stream")
            call.on("e2ee-state-change", changes.append)
            tracks[step["track"]] = (call, call.receiver_transform(case["user"], "audio", "opus"), changes)
        _, transform, changes = tracks[step["track"]]
        opened = transform.decrypt(bytes.fromhex(step["wire_hex"]))
        events = [event["type"] for event in step["events"]]
        forwards_plain = not step["wire_hex"].endswith("e2eefeed")
        if opened is not None:
            assert step["forwarded"] and changes[-1].state is S.DecryptionSuccess
        else:
            assert not step["forwarded"] or forwards_plain, "only plaintext is forwarded there and not here"
        # Of several events in one step, the last one describes the track.
        assert not events or changes[-1].state in OURS[events[-1]], step
