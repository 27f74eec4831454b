"""The guard over our speed: it passes what is measured today, and nothing that is much slower. Times nothing itself."""

import importlib

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
