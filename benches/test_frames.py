"""One frame through each contender, for pytest-benchmark: `make bench`, or `pytest benches --benchmark-compare`."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from contenders import DIRECTIONS, SIZES, frame_of, races

CONTENDERS = {f"{race}: {contender.name}": contender for race, field in races().items() for contender in field}


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_one_frame(benchmark: BenchmarkFixture, direction: str, size: int, name: str) -> None:
    benchmark.group = f"{name.partition(':')[0]}, {direction} {size} B"
    contender, frame = CONTENDERS[name], frame_of(size)
    if direction == "encrypt":
        sealed = benchmark(contender.encrypt, frame)
    else:
        sealed = contender.encrypt(frame)
        benchmark(contender.decrypt, sealed)
    assert contender.decrypt(sealed) == frame
