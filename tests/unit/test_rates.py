"""`TokenBucket`: a burst, then a rate, on any clock."""

import pytest

from frameseal._rates import TokenBucket

CLOCKS = pytest.mark.parametrize("start", [0.0, 1000.0, 1e9])


@CLOCKS
def test_a_burst_passes_at_once_and_then_the_rate(start):
    bucket = TokenBucket(3, 0.5)
    assert [bucket.spend(start) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.spend(start + seconds) for seconds in (1.9, 2.0, 3.9, 4.0)] == [False, True, False, True]


@CLOCKS
def test_a_pause_fills_it_to_its_capacity_and_no_further(start):
    bucket = TokenBucket(2, 1.0)
    assert [bucket.spend(start) for _ in range(3)] == [True, True, False]
    assert [bucket.spend(start + 3600) for _ in range(3)] == [True, True, False]


@CLOCKS
def test_a_borrowed_token_is_paid_back_before_the_next_is_there(start):
    bucket = TokenBucket(1, 2.0)
    assert [bucket.borrow(start) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert not bucket.spend(start + 1.4)
    assert bucket.spend(start + 1.5)
