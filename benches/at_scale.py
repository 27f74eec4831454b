"""Measures one archive opened by one process, by Ray and by Spark: seconds, without the start of the engine.

    make frameworks NAME=ray; make frameworks NAME=spark  # make the environments
    PYTHONPATH=python:tests .stamps/frameworks/ray/bin/python benches/at_scale.py rows [--rounds 3]
    PYTHONPATH=python:tests .stamps/frameworks/ray/bin/python benches/at_scale.py process
    PYTHONPATH=python:tests .stamps/frameworks/ray/bin/python benches/at_scale.py ray
    PYTHONPATH=python:tests .stamps/frameworks/spark/bin/python benches/at_scale.py spark

Each job runs twice, since the first one starts the workers. It counts the opened frames, and stores nothing.

"rows" measures what Ray adds to a row, by the rows of a batch. Tables lie in memory, so nothing is read. They are
opened by an opener in a loop, in whole and in batches, and by one worker of Ray (`map_batches`). All take turns. Ray's
time is taken in the worker, from the begin of its first batch to the begin of its last one, so it holds no start. The
overhead of a row is its time less the time of a row where the opener receives whole tables. Without Ray the opener in a
loop is measured alone.
"""

import argparse
import importlib.util
import logging
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute

import record
from frameseal.archive import ArchiveWriter, Opener, read, recording_ids
from frameseal.archive.schema import batch_of, checked
from support.archives import Sender, provider

ROOT = Path(__file__).resolve().parents[1]
FRAMES, ROOMS = 12_000, 8
BATCHES = (16, 64, 256, 1_024, 4_096, 16_384)
TABLES = 6  # of as many rows as the largest batch: 28 MB each
VANISHED = 0.05  # of the time of a row: what a larger batch gains at most where the overhead of batches has vanished


def keys():
    """Return the test key, in a worker."""
    return provider()


class Timed(Opener):
    """Adds a column with the time at which the opener received the table."""

    def __call__(self, table):
        """Return the opened table."""
        begun = time.monotonic_ns()  # all processes of a machine have one
        opened = super().__call__(table)
        return opened.append_column("begun", pa.repeat(pa.scalar(begun), len(opened)))


def write(folder):
    """Write recordings of which six frames of ten are Opus and four are VP8."""
    for room in range(ROOMS):
        sender = Sender(provider())
        with ArchiveWriter(folder, f"room{room}") as writer:
            for number in range(FRAMES):
                size, seal = (4_000, sender.video) if number % 10 > 5 else (120, sender.audio)
                writer.write(seal(os.urandom(size)))


def process(folder):
    def count():
        opener = Opener(keys())
        return sum(pa.compute.sum(opener(pa.Table.from_batches([rows]))["opened"]).as_py() for rows in read(folder))

    return {"one process": count}


def start_ray():
    import ray

    logging.disable(logging.WARNING)
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=1200 << 20, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def ray(folder):
    ray = start_ray()
    from open_with_ray import OpenRecordings

    def counted(data, work, options, **more):
        rows = data.map_batches(
            work,
            fn_constructor_kwargs={"keys": keys, **options},
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=2),
            **more,
        )
        batches = rows.iter_batches(batch_format="pyarrow", batch_size=None)
        return sum(pa.compute.sum(batch["opened"]).as_py() for batch in batches)

    def by_recording():
        names = ray.data.from_arrow([pa.table({"recording": [name]}) for name in recording_ids(folder)])
        return counted(names, OpenRecordings, {"location": folder}, batch_size=1)

    def by_block():
        return counted(ray.data.read_parquet(folder), Opener, {"stateless": True}, batch_size=None)

    return {"Ray, recordings": by_recording, "Ray, blocks": by_block}


def spark(folder):
    from pyspark.sql import SparkSession

    page = (ROOT / "docs/guide/opening-at-scale.md").read_text("utf-8").partition("\n## Spark\n")[2]
    names = {"__name__": "page"}
    for block in re.findall(r"(?ms)^```python[^\n]*\n(.*?)^```$", page):
        exec(block, names)
    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()

    def counted(frames):
        return frames.where("opened").count()

    return {
        "Spark, recordings": lambda: counted(names["open_archive"](session, folder, keys, 2)),
        "Spark, blocks": lambda: counted(names["open_blocks"](session.read.parquet(folder), keys)),
    }


def sealed_tables(count, rows):
    """Return tables of sealed frames of one participant, in the mix of `write`."""
    sender, tables = Sender(provider()), []
    for _ in range(count):
        frames = [
            seal(os.urandom(size))
            for number in range(rows)
            for size, seal in [(4_000, sender.video) if number % 10 > 5 else (120, sender.audio)]
        ]
        tables.append(pa.Table.from_batches([checked("rows", batch_of("room", frames), "room", 0)]))
    return tables


def rows_in_a_loop(tables, size):
    """Return the seconds of a row in an opener that receives tables of *size* rows."""
    opener, opened = Opener(keys(), stateless=True), 0
    pieces = [table.slice(start, size) for table in tables for start in range(0, len(table), size)]
    start = time.perf_counter()
    for piece in pieces:
        opened += pa.compute.sum(opener(piece)["opened"]).as_py()
    seconds = time.perf_counter() - start
    assert opened == sum(map(len, tables))
    return seconds / opened


def rows_in_ray(ray, tables, size):
    """Return the seconds of a row in one worker of Ray whose batches have *size* rows."""
    opened = ray.data.from_arrow(tables).map_batches(
        Timed,
        fn_constructor_kwargs={"keys": keys, "stateless": True},
        batch_format="pyarrow",
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    begun = pa.chunked_array([], pa.int64())
    for batch in opened.iter_batches(batch_format="pyarrow", batch_size=None):
        assert pa.compute.all(batch["opened"]).as_py()
        begun = pa.chunked_array([*begun.chunks, *batch["begun"].chunks])
    assert len(begun) == sum(map(len, tables))
    first, last = pa.compute.min_max(begun).as_py().values()
    return (last - first) / 1e9 / pa.compute.sum(pa.compute.less(begun, last)).as_py()


def measure_rows(arguments):
    """Measure the time of a row by the rows of a batch, in a loop and in Ray."""
    tables = sealed_tables(arguments.tables, max(BATCHES))
    jobs = {"loop": lambda size: rows_in_a_loop(tables, size)}
    if importlib.util.find_spec("ray"):
        ray = start_ray()
        jobs["Ray"] = lambda size: rows_in_ray(ray, tables, size)
    else:
        print("not installed: Ray (make frameworks NAME=ray): the opener in a loop is measured alone", file=sys.stderr)
    times = {job: {size: [] for size in BATCHES} for job in jobs}
    for _ in range(arguments.rounds):
        for size in BATCHES:
            for job, run in jobs.items():
                times[job][size].append(run(size))
    medians = {
        job: {size: 1e6 * statistics.median(runs) for size, runs in sizes.items()} for job, sizes in times.items()
    }
    whole = medians["loop"][max(BATCHES)]
    print(f"a row of whole tables, {max(BATCHES):,} rows each, in a loop: {whole:.2f} us")
    for job, sizes in medians.items():
        overheads = (f"{size:,} rows {row - whole:.2f} us" for size, row in sizes.items())
        print(f"{job}, more for a row in batches of", ", ".join(overheads))
        least = min(sizes.values())
        enough = next(size for size, row in sizes.items() if row < (1 + VANISHED) * least)
        print(f"{job}: from {enough:,} rows a larger batch gains less than {VANISHED:.0%}; {least - whole:.2f} us stay")
    record.write(arguments.output, us_per_row=medians, rows=sum(map(len, tables)), rounds=arguments.rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = {"process": process, "ray": ray, "spark": spark}
    parser.add_argument("job", choices=["rows", *jobs])
    parser.add_argument("--rounds", type=int, default=3, help="of rows")
    parser.add_argument("--tables", type=int, default=TABLES, help=f"of rows, each of {max(BATCHES):,} frames")
    record.add_output(parser, "at_scale")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "examples"))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join(str(ROOT / each) for each in ("python", "tests", "examples", "benches"))
    if arguments.job == "rows":
        measure_rows(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        for name, job in jobs[arguments.job](folder).items():
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                assert job() == FRAMES * ROOMS
                seconds.append(time.perf_counter() - start)
            print(f"{name}: {seconds[0]:.1f} s, then {seconds[1]:.1f} s", flush=True)


if __name__ == "__main__":
    main()
