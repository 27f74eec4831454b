"""The guard over our speed: it passes what is measured today, and nothing that is much slower. Times nothing itself."""

import importlib
import json

import pytest

from support.paths import ROOT

TODAY = {120: (140.0, 96.0, 770.0), 1_200: (240.0, 193.0, 970.0), 20_000: (1_220.0, 1_160.0, 3_000.0)}  # ns


@pytest.fixture
def guard(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benches")
    return importlib.import_module("guard")


def fastest(guard, size: int, slower: float) -> dict[str, float]:
    ours, floor, pure = TODAY[size]
    return {guard.OURS: ours * slower, guard.FLOOR: floor, guard.PURE: pure}


@pytest.mark.parametrize("size", TODAY)
def test_what_is_measured_today_passes_on_a_noisy_machine_too(guard, size):
    assert guard.faults("encrypt", size, fastest(guard, size, 1.25)) == []


@pytest.mark.parametrize("size", TODAY)
def test_a_frame_that_takes_three_times_as_long_is_noticed_against_either_rival(guard, size):
    floor, pure = guard.faults("encrypt", size, fastest(guard, size, 3.0))
    assert "times the floor" in floor
    assert "as fast as pure Python" in pure


OVER_STACK = {(1_000, "seal"): 1.0, (1_000, "open"): 1.4, (6_000, "seal"): 0.57, (6_000, "open"): 0.3}


@pytest.mark.parametrize(("size", "what"), OVER_STACK)
def test_the_hook_passes_as_it_is_and_three_times_as_long_does_not(guard, size, what):
    assert guard.MAX_OVER_STACK.keys() == OVER_STACK.keys()
    assert guard.hook_faults(what, size, 1.25 * OVER_STACK[size, what]) == []
    (fault,) = guard.hook_faults(what, size, 3.1 * OVER_STACK[size, what])
    assert "times the stack's part" in fault


def test_a_batch_that_gains_what_it_gains_today_passes_with_and_without_a_second_core(guard):
    for gain, possible in ((1.68, 1.54), (1.46, 1.45), (0.85, 0.92)):
        assert guard.batch_faults("decrypt", gain, possible, 1.4) == []


def test_a_batch_whose_threads_wait_for_each_other_is_noticed(guard):
    (sentence,) = guard.batch_faults("decrypt", 1.0, 1.7, None)
    assert "two cores gain 1.00" in sentence


def test_a_batch_that_takes_twice_as_long_is_noticed(guard):
    (sentence,) = guard.batch_faults("decrypt", 1.5, 1.5, 2.4)
    assert "times AWS-LC" in sentence


@pytest.fixture
def instructions(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benches")
    return importlib.import_module("instructions")


def committed() -> dict[str, dict[str, float]]:
    written = (ROOT / "benches" / "results" / "instructions.json").read_text("utf-8")
    return json.loads(written)["instructions_per_frame"]


def test_each_case_has_a_committed_count(instructions):
    counts = committed()
    assert [(case.name, case.direction) for case in instructions.CASES] == [
        (name, direction) for name, by_direction in counts.items() for direction in by_direction
    ]
    assert instructions.faults(counts, counts) == []


def test_four_per_cent_more_instructions_are_noticed_and_two_are_not(instructions):
    before = committed()
    for name, direction in (("livekit", "decrypt"), ("sframe, batch on two threads", "decrypt")):
        for growth, found in ((1.02, 0), (1.04, 1)):
            grown = before | {name: before[name] | {direction: before[name][direction] * growth}}
            assert len(instructions.faults(grown, before)) == found


def test_a_slower_interpreter_alone_is_no_fault(instructions):
    before = committed()
    slower = {name: {way: own + 100 for way, own in counts.items()} for name, counts in before.items()}
    assert instructions.faults(slower, before) == []


def test_a_case_without_a_committed_count_is_named(instructions):
    before = committed()
    found = instructions.faults(before | {"a call": {"encrypt": 1.0}}, before)
    assert found == ["a call, encrypt: no count is committed"]
