"""What is counted for the table and the time line, and that an archive of any length needs little memory for it."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from frameseal.tools.opening.clocks import SECOND, Placed
from frameseal.tools.opening.history import MAX_KEY_IDS, History, Seconds, spans
from support.recorded import recorded

few = st.lists(st.integers(0, 30))


@given(few)
def test_seconds_are_a_set(numbers):
    seconds, expected = Seconds(numbers), sorted(set(numbers))
    assert list(seconds) == expected
    assert len(seconds) == len(expected)
    assert [each for each in range(-1, 33) if each in seconds] == expected
    assert seconds == set(numbers) and None not in seconds
    stretches = list(seconds.stretches())
    assert all(begin < end for begin, end in stretches)
    assert all(before[1] < after[0] for before, after in pairwise(stretches))


@given(few, few)
def test_spans_cover_all_seconds_and_join_those_that_are_one_second_apart(first, second):
    found = spans(Seconds(first), Seconds(second))
    covered = {each for begin, end in found for each in range(begin, end)}
    together = set(first) | set(second)
    between = {each for each in range(32) if {each - 1, each + 1} <= together}
    assert covered == together | between


def placed(second, row, **columns):
    return Placed(second * SECOND, replace(row, **columns))


def test_hours_of_many_people_are_held_as_a_few_stretches():
    """Sound and picture are two tracks, whose frames do not come in the order of the time line."""
    frame, history = recorded([b"frame"])[0], History()
    for second in range(8 * 3600):
        for person in ("alice", "bob"):
            history.add(placed(second + 2, frame, participant=person))
            history.add(placed(second, frame, participant=person, kind="audio"))
            history.add(placed(second, frame, participant=person, frame=None, reason="replayed"))
    for person in history.people.values():
        for held in (person.heard, person.seen, person.failed, *person.key_ids.values()):
            assert len(list(held.stretches())) == 1 and len(held) >= 8 * 3600
    assert history.seconds == 8 * 3600 + 2


def test_key_ids_that_strangers_name_are_counted_apart_up_to_a_limit():
    frame, history = recorded([b"frame"])[0], History()
    for number in range(10 * MAX_KEY_IDS):
        history.add(placed(number, frame, key_id=number, frame=None, reason="unknown_key"))
    person = history.people["alice"]
    assert len(person.key_ids) == MAX_KEY_IDS
    assert person.failures.total() == 10 * MAX_KEY_IDS and len(person.failures) == MAX_KEY_IDS + 1
