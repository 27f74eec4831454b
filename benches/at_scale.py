"""Measures one archive opened by one process, by Ray and by Spark: seconds, without the start of the engine.

    make frameworks NAME=ray; make frameworks NAME=spark  # make the environments
    PYTHONPATH=python:tests .stamps/frameworks/ray/bin/python benches/at_scale.py process
    PYTHONPATH=python:tests .stamps/frameworks/ray/bin/python benches/at_scale.py ray
    PYTHONPATH=python:tests .stamps/frameworks/spark/bin/python benches/at_scale.py spark

Each job runs twice, since the first one starts the workers. It counts the opened frames, and stores nothing.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute

from frameseal.archive import ArchiveWriter, Opener, read, recordings
from support.archives import Sender, provider

ROOT = Path(__file__).resolve().parents[1]
FRAMES, ROOMS = 12_000, 8


def keys():
    """Return the test key, in a worker."""
    return provider()


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


def ray(folder):
    import ray

    from open_with_ray import OpenRecordings

    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=600 << 20, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

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
        names = ray.data.from_arrow([pa.table({"recording": [name]}) for name in recordings(folder)])
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


def main():
    sys.path.insert(0, str(ROOT / "examples"))
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join(str(ROOT / each) for each in ("python", "tests", "examples", "benches"))
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        for name, job in {"process": process, "ray": ray, "spark": spark}[sys.argv[1]](folder).items():
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                assert job() == FRAMES * ROOMS
                seconds.append(time.perf_counter() - start)
            print(f"{name}: {seconds[0]:.1f} s, then {seconds[1]:.1f} s", flush=True)


if __name__ == "__main__":
    main()
