"""Event classes hold what listeners need, and nothing that cannot be stored or sent."""

import dataclasses
import json
import pickle

import pytest

from frameseal import E2EEInjectedFrame, E2EEStalled, E2EEState, events

COUNTERS = {"frames": 1}
STALLED = E2EEStalled("bob", "audio", "mic", E2EEState.MissingKey, 3, "unknown_key", COUNTERS, 1.5)
INJECTED = E2EEInjectedFrame("bob", "audio", None, COUNTERS, 1.5)


@pytest.mark.parametrize("event", [STALLED, INJECTED], ids=lambda event: type(event).__name__)
def test_an_event_is_frozen_and_goes_into_sets_json_and_pickles(event):
    with pytest.raises(AttributeError):
        event.participant_id = "carol"
    assert len({event, dataclasses.replace(event)}) == 1
    assert json.loads(json.dumps(dataclasses.asdict(event)))["participant_id"] == "bob"
    assert pickle.loads(pickle.dumps(event)) == event


def test_every_event_has_a_name_of_its_own():
    names = [value for name, value in vars(events).items() if name.isupper()]
    assert len(set(names)) == len(names) == 10
