"""The soak: meetings in one process for as long as FRAMESEAL_SOAK_SECONDS says, and nothing grows, leaks or dies.

Alice publishes from the beginning to the end, and Bob follows her. Round after round Dave opens a meeting of his own,
with another profile and codec each time. Bob follows him too, with the keys and managers that he has had all the time;
Carol comes, leaves, and comes again, to Alice as well; Eve has the wrong key. Every line loses and reorders packets,
and every publisher's key is replaced every few seconds. `make soak` runs it, with everything that it says.
"""

import asyncio
import contextlib
import os
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from frameseal import E2EEManager, KeyProvider
from soak.gauges import (
    MB,
    Census,
    Reading,
    Round,
    blocks_by_line,
    count_objects,
    leaked_by_pyav,
    more_objects,
    table,
    trends,
    weight_of,
)
from soak.ledger import Ledger, LedgerTap
from soak.meeting import LOSS, PATIENCE, REORDER, STACK, Meeting, keys
from support.calls import Watch, until
from support.recording import noted

SECONDS = float(os.environ["FRAMESEAL_SOAK_SECONDS"])
TRACE = "FRAMESEAL_SOAK_TRACE" in os.environ
SEED = int(os.environ.get("FRAMESEAL_SOAK_SEED", "7"))

PROFILES = ("livekit", "sframe", "videosdk")
CODECS = ("vp8", "h264")
PUBLISHERS = (("blue", 620), ("green", 790), ("yellow", 530))  # Dave's colour and tone; Alice's are others

WARM_UP = 3  # rounds, at least: then every profile and codec has been there
COMPARED = 9  # rounds after these, at least
EXECUTOR_THREADS = 4


class Soak:
    """The whole of it, round by round."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.rounds: list[Round] = []  # those after the warm-up
        self._stacks_own = leaked_by_pyav()
        self._bobs_keys = keys()
        self._bobs = {profile: self._manager(profile, self._bobs_keys) for profile in PROFILES}
        self._alice = Meeting(self.ledger, "alice", profile="livekit", codec="vp8", colour="red", hertz=440, seed=SEED)
        self._made: Counter[str] = Counter()  # frames, by codec
        self._frames = self._payloads = self._rotations = self._lost = 0
        self._warm: Counter[str] | None = None  # the objects after the warm-up, and Python's blocks
        self._blocks: Counter[str] = Counter()

    async def start(self) -> None:
        await self._alice.start()
        self._bob = await self._alice.join("bob", self._bobs["livekit"])
        await self._alice.followed_by(self._bob)

    async def end(self) -> None:
        await self._alice.end()

    def _manager(self, profile: str, provider: KeyProvider) -> E2EEManager:
        return noted(E2EEManager(provider, profile), self.ledger.sealed, self.ledger.opened)

    async def round(self, number: int) -> str:
        """Hold one meeting, and return a line about it. Fails for whatever was not as it must be."""
        census = Census()
        profile, codec = PROFILES[number % len(PROFILES)], CODECS[number % len(CODECS)]
        rotations, lost = await self._meet(number, profile, codec)
        assert await census.leftovers() == []
        audit = await asyncio.to_thread(self.ledger.close_round)
        assert audit.faults == []
        self._made += audit.made
        self._frames, self._payloads = self._frames + audit.sealed + audit.opened, self._payloads + audit.payloads
        self._rotations, self._lost = self._rotations + rotations, self._lost + lost
        reading = await self._read(number)
        return (
            f"round {number + 1:3} {profile:8} {codec:4}  {self._frames:7} frames: {audit.sealed:4} sealed, "
            f"{audit.opened:4} opened, {audit.payloads:4} payloads sealed  {self._lost + self._alice.lost:6} lost  "
            f"{self._rotations + self._alice.rotations:4} rotations  "
            f"RSS {reading.rss / MB:.1f} MB, malloc {reading.native / MB:.2f} MB, {reading.blocks} blocks"
        )

    async def _meet(self, number: int, profile: str, codec: str) -> tuple[int, int]:
        """Hold one meeting of Dave's; returns how often his key rotated and how many packets were lost."""
        colour, hertz = PUBLISHERS[number % len(PUBLISHERS)]
        name, seed = f"dave-{number}", SEED + 1000 * (number + 1)  # nobody has met this Dave before
        dave = Meeting(self.ledger, name, profile=profile, codec=codec, colour=colour, hertz=hertz, seed=seed)
        alice, bobs = self._alice, self._bobs[profile]
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.callback(self._bobs_keys.remove, name)
            cleanup.callback(bobs.remove_participant, name)
            cleanup.push_async_callback(dave.end)
            await dave.start()
            bob = await dave.join("bob", bobs)
            eve = await dave.intrude("eve")
            carol = await dave.join("carol", self._manager(profile, keys()))
            await asyncio.gather(dave.followed_by(bob), dave.followed_by(carol))
            await dave.leave(carol)
            dave.rotate_soon()
            carol = await dave.join("carol", self._manager(profile, keys()))
            visitor = await alice.join("carol", self._manager(alice.profile, keys()))
            cleanup.push_async_callback(alice.leave, visitor)
            await asyncio.gather(
                dave.followed_by(bob),
                dave.followed_by(carol),
                alice.followed_by(visitor),
                alice.followed_by(self._bob),
            )
            await until(lambda: dave.rotations >= 3, PATIENCE)
            # Eve has been there all the time, and her decoders have been given nothing.
            assert min(eve.frames("frames_in").values()) > 0 and all(sink.empty for sink in eve.peer.sinks.values())
        return dave.rotations, dave.lost

    async def _read(self, number: int) -> Reading:
        for sink in self._bob.peer.sinks.values():
            sink.clear()
        reading = await Reading.quiet() - weight_of(self.ledger.held())
        if self._warm is not None:
            self.rounds.append(Round(self._frames, reading - self._stacks_own * self._made["opus"]))
            more = await more_objects(self._warm)
            assert not more, f"more objects than after the warm-up: {more}"
        elif number + 1 >= WARM_UP and self._alice.is_settled("bob"):
            self._warm, self._blocks = count_objects(), blocks_by_line()
            await asyncio.sleep(0.5)
            self._warm &= count_objects()  # less what was under way
        return reading

    def verdict(self) -> None:
        """Print the table of what was measured; fails if anything of it has grown."""
        rows = trends(self.rounds)
        made = ", ".join(f"{frames:,} {codec}" for codec, frames in self._made.items())
        print(
            f"\nencoded {made}; sealed or opened {self._frames:,}; {self._payloads:,} payloads on the wire, all sealed"
        )
        print(f"{len(self.rounds)} rounds after the warm-up, less what PyAV leaks with each Opus frame:")
        print(table(rows), flush=True)
        if not all(row.is_flat for row in rows):
            grown = blocks_by_line() - self._blocks
            where = map(str, grown.most_common(15)) if grown else ["FRAMESEAL_SOAK_TRACE=1 tells where"]
            pytest.fail("\n".join(["more blocks than after the warm-up:", *where]), pytrace=False)


async def start_all_executor_threads() -> None:
    """Threads are counted, and a pool would otherwise start its own when it needs them."""
    pool, gate = ThreadPoolExecutor(EXECUTOR_THREADS), threading.Barrier(EXECUTOR_THREADS)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(pool)
    await asyncio.gather(*(loop.run_in_executor(pool, gate.wait) for _ in range(EXECUTOR_THREADS)))


@pytest.mark.timeout(2 * SECONDS + 900)
async def test_a_process_that_holds_meetings_for_long_neither_grows_nor_leaks_nor_dies():
    print(f"\n{SECONDS:.0f} s, seed {SEED}, {LOSS:.0%} loss and {REORDER:.0%} reordering on every line", flush=True)
    await start_all_executor_threads()
    if TRACE:
        tracemalloc.start()
    soak, census, deadline = Soak(), Census(), time.monotonic() + SECONDS
    with LedgerTap(STACK, soak.ledger), Watch([STACK, "aioice"]) as watch:
        async with contextlib.AsyncExitStack() as cleanup:
            cleanup.push_async_callback(soak.end)
            await soak.start()
            for number in count():
                if time.monotonic() > deadline and len(soak.rounds) >= COMPARED:
                    break
                print(await soak.round(number), flush=True)
                assert watch.faults == []
            soak.verdict()
    tracemalloc.stop()
    assert await census.leftovers() == []
    assert soak.ledger.close_round(last=True).faults == []
