"""Opens an archive of many recordings on a Ray cluster. Each task is one recording, and each worker fetches the key.

    pip install "frameseal[archive,keyfetch]" "ray[data]"
    FRAMESEAL_KEY_URL=https://... FRAMESEAL_TOKEN=... python open_with_ray.py s3://bucket/rooms s3://other-bucket/opened

The two variables must be set where the workers run, and FRAMESEAL_CA if the key server has a certificate of its own.
The result is plaintext: one data set of Parquet, with the column `frame` in the place of `sealed`.
"""

import argparse
import asyncio
import os
from collections.abc import Callable, Iterator

import pyarrow as pa
import ray

import frameseal
from frameseal.archive import Opener, read, recording_ids
from frameseal.keys.fetch import fetch_shared_key


def fetch_keys() -> frameseal.KeyProvider:
    """Return the keys. A task holds this function's name and no key; the token is the worker's own."""
    url, token = os.environ["FRAMESEAL_KEY_URL"], os.environ["FRAMESEAL_TOKEN"]
    fetched = asyncio.run(fetch_shared_key(url, token, ca=os.environ.get("FRAMESEAL_CA")))
    keys = frameseal.KeyProvider()
    keys.set_shared_key(fetched.key, fetched.key_id)
    return keys


class OpenRecordings:
    """Opens whole recordings, each in order and with an opener of its own: a repeated task opens the same again."""

    def __init__(self, location: str, keys: Callable[[], frameseal.KeyProvider]) -> None:
        """Fetch the keys, once in each worker."""
        self.location, self.keys = location, keys()

    def __call__(self, names: pa.Table) -> Iterator[pa.Table]:
        """Yield the opened rows of each recording that *names* lists, batch by batch."""
        for name in names["recording"].to_pylist():
            opener = Opener(self.keys)
            for rows in read(self.location, recordings=[name]):
                yield opener(pa.Table.from_batches([rows]))


def opened(location: str, workers: int, keys: Callable[[], frameseal.KeyProvider] = fetch_keys) -> ray.data.Dataset:
    """Return the opened rows of an archive, as a data set that nobody has computed yet."""
    names = ray.data.from_arrow([pa.table({"recording": [name]}) for name in recording_ids(location)])
    return names.map_batches(
        OpenRecordings,
        fn_constructor_kwargs={"location": location, "keys": keys},
        batch_format="pyarrow",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )


def main() -> None:
    """Open an archive into another folder."""
    parser = argparse.ArgumentParser(description="open an archive on a Ray cluster")
    parser.add_argument("archive")
    parser.add_argument("opened")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    opened(arguments.archive, arguments.workers).write_parquet(arguments.opened)


if __name__ == "__main__":
    main()
