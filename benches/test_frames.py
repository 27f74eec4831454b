"""Runs one frame per contender, for pytest-benchmark (`make bench`, or `pytest benches --benchmark-compare`)."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from contenders import DIRECTIONS, SIZES, Contender, frame_of, races

CONTENDERS = {
    f"{race}: {contender.name}": contender
    for race, field in races().items()
    for contender in field
    if isinstance(contender, Contender)  # a Native is called without Python
}


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_one_frame(benchmark: BenchmarkFixture, direction: str, size: int, name: str) -> None:
    benchmark.group = f"{name.partition(':')[0]}, {direction} {size} B"
    contender, frame = CONTENDERS[name], frame_of(size)
    if direction == "encrypt":
        benchmark(contender.encrypt, frame)
    elif contender.opens_once:
        benchmark.pedantic(contender.decrypt, setup=lambda: ((contender.encrypt(frame),), {}), rounds=500)
    else:
        benchmark(contender.decrypt, contender.encrypt(frame))
    assert contender.decrypt(contender.encrypt(frame)) == frame
