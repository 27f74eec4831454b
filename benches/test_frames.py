"""One frame through each contender, for pytest-benchmark: `make bench`, or `pytest benches --benchmark-compare`."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from contenders import DIRECTIONS, SIZES, contenders, frame_of

CONTENDERS = {contender.name: contender for contender in contenders()}


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_one_frame(benchmark: BenchmarkFixture, direction: str, size: int, name: str) -> None:
    benchmark.group = f"{direction} {size} B"
    contender, frame = CONTENDERS[name], frame_of(size)
    if direction == "encrypt":
        sealed = benchmark(contender.encrypt, frame)
    else:
        sealed = contender.encrypt(frame)
        benchmark(contender.decrypt, sealed)
    assert contender.decrypt(sealed) == frame
