"""Processes that fork with keys in them: no (key, nonce) pair comes twice among a parent and its children."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import forked
from support.forked import CHILDREN, FRAMES

BOTH = 2 * FRAMES  # as frames and as packets


def sealed_in(scenario: str) -> list[list[bytes]]:
    """What each process of a scenario has sealed."""
    script = Path(forked.__file__)
    done = subprocess.run([sys.executable, script, scenario], capture_output=True, text=True, check=True, timeout=120)
    return [[bytes.fromhex(frame) for frame in process] for process in json.loads(done.stdout)]


def header(sealed: bytes) -> bytes:
    """KID and CTR of an SFrame, as they stand in it."""
    lengths = [(sealed[0] >> shift & 7) + 1 if sealed[0] >> shift & 8 else 0 for shift in (4, 0)]
    return sealed[: 1 + sum(lengths)]


def repeats(headers: list[bytes]) -> int:
    return len(headers) - len(set(headers))


@pytest.mark.parametrize(
    ("scenario", "parent"),
    [
        ("set_and_inherited", BOTH),
        ("set_and_set_again", BOTH),
        ("set_and_set_again_in_the_ring", BOTH),
        ("set_and_dropped", 0),
        ("set_to_open_and_sealed_elsewhere", 0),
        ("sealed_with_a_counter", 2 * BOTH),
        ("set_with_a_counter", BOTH),
        ("ratcheted_in_the_child", BOTH),
        ("epochs_inherited", BOTH),
        ("epochs_set_again", BOTH),
        ("a_base_key_of_an_epoch", 0),
    ],
)
def test_a_child_is_refused_every_key_that_was_set_before_the_fork_and_the_parent_goes_on(
    scenario: str, parent: int
) -> None:
    processes = sealed_in(scenario)
    assert len(processes) >= CHILDREN
    headers = [header(frame) for process in processes for frame in process]
    assert repeats(headers) == 0
    assert len(headers) == parent


@pytest.mark.parametrize("scenario", ["told_apart_by_counters", "told_apart_by_contexts", "shared"])
def test_children_that_are_told_apart_or_draw_their_key_ids_seal_all_and_repeat_nothing(scenario: str) -> None:
    headers = [header(frame) for process in sealed_in(scenario) for frame in process]
    assert repeats(headers) == 0
    assert len(headers) == (CHILDREN + 1) * BOTH


def test_a_grandchild_is_refused_the_keys_of_its_parent_and_of_its_grandparent() -> None:
    *children, parent = sealed_in("grandchildren")
    assert [len(sealed) for sealed in children] == [0] * CHILDREN
    assert len(parent) == BOTH


def test_transmitted_ivs_of_parent_and_children_begin_differently() -> None:
    processes = sealed_in("transmitted_ivs")
    assert all(len(sealed) == BOTH for sealed in processes)
    # A frame ends in its IV, the IV's length and the key index; a packet begins with two bytes and the key index.
    ivs = [
        [frame[-14:-2] for frame in sealed[:FRAMES]] + [packet[3:15] for packet in sealed[FRAMES:]]
        for sealed in processes
    ]
    assert repeats([iv for of_process in ivs for iv in of_process]) == 0
    before, *children, after = ({iv[:8] for iv in of_process} for of_process in ivs)
    assert before == after and all(len(prefixes) == 1 for prefixes in (before, *children))
    assert len(set.union(before, *children)) == CHILDREN + 1
