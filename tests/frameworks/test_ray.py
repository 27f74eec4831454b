"""Archives on Ray Data: the example on two workers, keys from a key server, and a worker that is killed."""

import operator
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
import ray
from ray import cloudpickle

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

import open_with_ray  # isort: skip  # frameworks.key_server has added the folder of the examples


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with key_server(tmp_path_factory.mktemp("keys")) as found:
        yield found


@pytest.fixture(scope="module")
def session(served):
    """Start Ray on this machine, with the memory that it needs at least. Return the folder of its files."""
    folder = tempfile.mkdtemp(prefix="ray")  # short, since Ray's sockets lie in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", WORKERS_PATH)
        ray.init(
            # One for each of two workers, and one that lists the input.
            num_cpus=3,
            include_dashboard=False,
            object_store_memory=80 << 20,
            # Containers have a small /dev/shm.
            _plasma_directory=folder,
            _temp_dir=folder,
            log_to_driver=False,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield Path(folder)
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(tmp_path, served):
    return write_rooms(tmp_path / "rooms", served.key)


def by_room(rows):
    """Return the rows of each recording, in their order."""
    rooms = {}
    for row in rows.to_pylist():
        rooms.setdefault(row["recording"], []).append(row)
    return rooms


def in_one_process(folder, key):
    return by_room(opened_in_one_process(folder, key))


def collected(dataset):
    return pa.concat_tables(dataset.iter_batches(batch_format="pyarrow", batch_size=None))


def test_the_example_opens_what_one_process_opens(session, served, folder, tmp_path, monkeypatch):
    served.requests.clear()
    monkeypatch.setattr("sys.argv", ["open_with_ray.py", folder, str(tmp_path / "opened")])
    open_with_ray.main()
    stored = pa.dataset.dataset(tmp_path / "opened", format="parquet").to_table()
    assert by_room(stored) == in_one_process(folder, served.key)
    assert len(stored) == len(ROOMS) * FRAMES and all(stored["opened"].to_pylist())
    # Each worker has fetched the key, and no recording has asked for it again.
    assert len(served.requests) == 2


class Reporting(open_with_ray.OpenRecordings):
    """Tells the test after each first table which process it is, and goes on when the test answers."""

    def __init__(self, location, keys, port):
        super().__init__(location, keys)
        self.port = port

    def __call__(self, names):
        tables = super().__call__(names)
        yield next(tables)
        report(self.port)
        yield from tables


def test_a_worker_that_is_killed_loses_nothing_and_opens_nothing_twice(session, served, folder):
    names = ray.data.from_arrow([pa.table({"recording": [room]}) for room in ROOMS])
    with killing_the_first() as (port, seen):
        rows = collected(
            names.map_batches(
                Reporting,
                fn_constructor_kwargs={"location": folder, "keys": open_with_ray.fetch_keys, "port": port},
                batch_format="pyarrow",
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=2),
            )
        )
    assert len(seen) > len(ROOMS)  # the recording of the killed process was begun anew
    assert seen.count(seen[0]) == 1
    assert by_room(rows) == in_one_process(folder, served.key)


def test_blocks_of_one_recording_are_dealt_out_to_stateless_openers(session, served, folder):
    rows = collected(
        ray.data.read_parquet(folder).map_batches(
            Opener,
            fn_constructor_kwargs={"keys": open_with_ray.fetch_keys, "stateless": True},
            batch_format="pyarrow",
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
    )
    alone = in_one_process(folder, served.key)
    order = operator.itemgetter("arrival")
    assert {name: sorted(rows, key=order) for name, rows in by_room(rows).items()} == alone
    assert Counter(rows["opened"].to_pylist()) == {True: len(ROOMS) * FRAMES}


def test_no_task_and_no_file_of_ray_holds_the_key(session, served, folder):
    dataset = open_with_ray.opened(folder, 2)
    tasks = [
        (open_with_ray.OpenRecordings, {"location": folder, "keys": open_with_ray.fetch_keys}),
        Opener(open_with_ray.fetch_keys, stateless=True),
        dataset._logical_plan.dag,  # all that Ray hands over
    ]
    for task in tasks:
        assert not served.shows_key(cloudpickle.dumps(task))
    assert collected(dataset).num_rows == len(ROOMS) * FRAMES
    files = [path for path in session.rglob("*") if path.is_file() and path.stat().st_size < 32 << 20]
    assert len(files) > 10 and not [path for path in files if served.shows_key(path.read_bytes())]


@pytest.mark.parametrize("each", ["provider", "opener", "closure"])
def test_keys_that_are_handed_over_are_refused_and_the_error_says_what_to_do(session, served, folder, each):
    keys = provider(served.key)
    handed = {"provider": (Opener, keys), "opener": (Opener(keys), None), "closure": (Opener, lambda: keys)}[each]
    with pytest.raises(TypeError, match=r"(?i)pass a (function|callable) that fetches them") as caught:
        cloudpickle.dumps(handed)
    assert not served.shows_key(str(caught.value).encode())
    if each == "opener":
        return
    dataset = ray.data.from_arrow(pa.table({"recording": ["one"]})).map_batches(
        Opener,
        fn_constructor_kwargs={"keys": handed[1]},
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    with pytest.raises(TypeError, match="Pass a function that fetches them") as caught:
        dataset.materialize()
    assert not served.shows_key(str(caught.value).encode())
