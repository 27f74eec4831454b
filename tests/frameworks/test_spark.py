"""Archives in Spark's mapInArrow: the functions of docs/guide/opening-at-scale.md, and a worker that is killed."""

import pickle
import re
import sys

import pytest
from pyspark import cloudpickle
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from frameseal.archive import Opener
from frameworks.dealt_out import (
    FRAMES,
    ROOMS,
    WORKERS_PATH,
    killing_the_first,
    opened_in_one_process,
    report,
    write_rooms,
)
from frameworks.key_server import key_server
from support.archives import provider
from support.paths import ROOT

PAGE = ROOT / "docs/guide/opening-at-scale.md"


def recipe(number):
    """Return the names that a block of the page's section on Spark defines, up to where it uses the session."""
    section = PAGE.read_text("utf-8").partition("\n## Spark\n")[2].partition("\n## ")[0]
    names = {"__name__": "recipe"}
    exec(re.findall(r"(?ms)^```python[^\n]*\n(.*?)^```$", section)[number], names)
    return names


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with key_server(tmp_path_factory.mktemp("keys")) as found:
        yield found


@pytest.fixture(scope="module")
def spark(served, tmp_path_factory):
    """Start Spark with two workers in this machine. A task is tried four times, as on a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", WORKERS_PATH)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        session = (
            SparkSession.builder.master("local[2,4]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.memory", "512m")
            .config("spark.local.dir", str(tmp_path_factory.mktemp("spark")))
            .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


@pytest.fixture
def folder(tmp_path, served):
    return write_rooms(tmp_path / "rooms", served.key)


def in_order(rows):
    """Return the rows of an opened table in an order and in types that one process and Spark share."""
    found = [
        {**row, "key_id": None if row["key_id"] is None else int(row["key_id"]), "arrival": row["arrival"].timestamp()}
        for row in rows.to_pylist()
    ]
    return sorted(found, key=lambda row: (row["recording"], row["arrival"]))


def in_one_process(folder, key):
    return in_order(opened_in_one_process(folder, key))


def test_recordings_open_as_in_one_process(spark, served, folder):
    page = recipe(0)
    served.requests.clear()
    opened = page["open_archive"](spark, folder, page["fetch_keys"], 2).toArrow()
    assert in_order(opened) == in_one_process(folder, served.key)
    assert opened.num_rows == len(ROOMS) * FRAMES and all(opened["opened"].to_pylist())
    assert 1 <= len(served.requests) <= 2


def test_blocks_open_as_in_one_process(spark, served, folder):
    opened = recipe(1)["open_blocks"](spark.read.parquet(folder), recipe(0)["fetch_keys"]).toArrow()
    assert in_order(opened) == in_one_process(folder, served.key)


def reporting(work, port):
    """Return a function that tells the test after the first batch which process it is, and waits for an answer."""

    def in_a_worker(batches):
        opened = work(batches)
        for first in opened:
            yield first
            report(port)
            break
        yield from opened

    return in_a_worker


def test_a_worker_that_is_killed_loses_nothing_and_opens_nothing_twice(spark, served, folder):
    page = recipe(0)
    names = spark.createDataFrame([(room,) for room in ROOMS], "recording string").repartition(4)
    with killing_the_first() as (port, seen):
        work = reporting(page["open_recordings"](folder, page["fetch_keys"]), port)
        opened = names.mapInArrow(work, page["FRAMES"]).toArrow()
    assert len(seen) >= 2 and seen.count(seen[0]) == 1
    assert in_order(opened) == in_one_process(folder, served.key)


def test_no_task_holds_the_key_and_a_provider_is_refused_with_what_to_do(spark, served, folder):
    page = recipe(0)
    for work in (page["open_recordings"](folder, page["fetch_keys"]), Opener(page["fetch_keys"], stateless=True)):
        assert not served.shows_key(cloudpickle.dumps(work))
    keys = provider(served.key)
    with pytest.raises(
        (pickle.PicklingError, TypeError, PySparkException), match="Pass a function that fetches"
    ) as caught:
        page["open_archive"](spark, folder, lambda: keys, 2).toArrow()
    assert not served.shows_key(str(caught.value).encode())
