"""Counts the keys and the messages of a large room under each policy, in simulated time.

    python benches/room_keys.py [--members 200] [--changes 60] [--minutes 5]

Members leave and join in turns, so that the room keeps its size. Each member seals with a key of their own, under rules
of their own (`frameseal.keys.policies`). In the last row one member rotates a key that all share. The times of the
changes are drawn from a fixed seed: the figures depend on no machine.
"""

import argparse
import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

import record
from frameseal.keys.policies import (
    ELEMENT_CALL,
    JITSI,
    MATRIX_RTC,
    Action,
    MakeKey,
    RatchetKey,
    RoomKeys,
    RoomPolicy,
    SendKey,
    UseKey,
)

SEED = 15
SHARED = "MATRIX_RTC, shared key"
LARGE = RoomPolicy(grace=60, delay=5, interval=60)
ENDLESS = dataclasses.replace(JITSI, max_coalesce=1e6)
POLICIES = {
    "a key for each change": RoomPolicy(delay=0),
    "MATRIX_RTC": MATRIX_RTC,
    "ELEMENT_CALL": ELEMENT_CALL,
    "ELEMENT_CALL, interval 60": dataclasses.replace(ELEMENT_CALL, interval=60),
    "JITSI": JITSI,
    "JITSI, no maximum": ENDLESS,
    "grace and interval 60": LARGE,
    SHARED: MATRIX_RTC,
}


def changes(members: int, a_minute: float, minutes: float) -> Iterator[tuple[float, str, str]]:
    """Yield the time, "leave" or "join", and the member, for each change."""
    draw = random.Random(SEED)
    present = [f"member {number}" for number in range(members)]
    count = round(a_minute * minutes)
    for number, time in enumerate(sorted(draw.uniform(0, minutes * 60) for _ in range(count))):
        if number % 2 == 0 and len(present) > 1:
            yield time, "leave", present.pop(draw.randrange(1, len(present)))  # the first stays, for the shared key
        else:
            present.append(f"newcomer {number}")
            yield time, "join", present[-1]


class Room:
    """All members of a room, and the messages between them."""

    def __init__(self, policy: RoomPolicy, members: int, shared: bool) -> None:
        """Let the members be present, each with a first key. The keys before the first change are not counted."""
        self.policy, self.shared = policy, shared
        self.present = dict.fromkeys(f"member {number}" for number in range(members))
        self.senders: dict[str, RoomKeys] = {}
        self.due: list[tuple[float, int, str]] = []
        self.order = 0
        self.count: Counter[str] = Counter()
        self.joined: dict[str, float] = {}  # newcomers who cannot open everybody yet
        self.missing: dict[str, set[str]] = {}  # the senders whose key they lack
        self.longest_wait = 0.0
        self.left: dict[str, list[tuple[float, set[str]]]] = {}  # sender -> those who left, and who hold its key
        self.longest_exposure = 0.0
        self.holders: dict[tuple[str, int], set[str]] = {}
        for each in list(self.present)[: 1 if shared else None]:
            self.add(each, 0.0)
        self.count.clear()

    def add(self, sender: str, now: float) -> None:
        self.senders[sender] = RoomKeys(self.policy)
        self.perform(sender, self.senders[sender].start([each for each in self.present if each != sender], now), now)

    def perform(self, sender: str, actions: list[Action], now: float) -> None:
        keys = self.senders[sender]
        for action in actions:
            match action:
                case MakeKey(generation, ids):
                    self.count["keys"] += 1
                    self.count["messages"] += len(ids)
                    self.holders[sender, generation] = set(ids)
                case SendKey(generation, ids):
                    self.count["messages"] += len(ids)
                    self.holders[sender, generation] |= set(ids)
                case RatchetKey(generation):
                    self.count["ratchets"] += 1
                case UseKey(generation):
                    self.lock_out(sender, generation, now)
            for each in self.holders[sender, keys.sealing_generation] & self.missing.keys():
                self.missing[each].discard(sender)
                if not self.missing[each]:
                    self.longest_wait = max(self.longest_wait, now - self.joined.pop(each))
                    del self.missing[each]
        if keys.next_time is not None:
            self.order += 1
            heapq.heappush(self.due, (keys.next_time, self.order, sender))

    def lock_out(self, sender: str, generation: int, now: float) -> None:
        """Note how long those who left could open the frames of *sender*."""
        kept = []
        for time, who in self.left.get(sender, ()):
            if who in self.holders[sender, generation]:
                kept.append((time, who))
            else:
                self.longest_exposure = max(self.longest_exposure, now - time)
        self.left[sender] = kept
        self.holders = {key: ids for key, ids in self.holders.items() if key[0] != sender or key[1] >= generation}

    def until(self, time: float) -> None:
        while self.due and self.due[0][0] <= time:
            now, _, sender = heapq.heappop(self.due)
            keys = self.senders.get(sender)
            if keys is not None and keys.next_time is not None and keys.next_time <= now:
                self.perform(sender, keys.advance(now), now)

    def change(self, now: float, kind: str, who: str) -> None:
        self.until(now)
        if kind == "leave":
            del self.present[who]
            self.senders.pop(who, None)
            self.joined.pop(who, None)
            self.missing.pop(who, None)
            for each in self.missing.values():
                each.discard(who)
            for sender, keys in self.senders.items():
                self.left.setdefault(sender, []).append((now, who))
                self.perform(sender, keys.left(who, now), now)
        else:
            self.present[who] = None
            self.joined[who], self.missing[who] = now, set(self.senders)
            for sender, keys in self.senders.items():
                self.perform(sender, keys.joined(who, now), now)
            if not self.shared:
                self.add(who, now)


def measure(name: str, members: int, a_minute: float, minutes: float) -> dict[str, float]:
    """Return the figures of one policy: per member and minute, per second, and the longest times."""
    room = Room(POLICIES[name], members, name == SHARED)
    for change in changes(members, a_minute, minutes):
        room.change(*change)
    end = minutes * 60
    room.until(end)
    still_open = [end - time for sender in room.senders for time, who in room.left.get(sender, ())]
    senders = 1 if room.shared else members
    figures = {
        "keys_per_sender_and_minute": room.count["keys"] / senders / minutes,
        "ratchets_per_sender_and_minute": room.count["ratchets"] / senders / minutes,
        "messages_per_second": room.count["messages"] / end,
        "longest_exposure_s": max([room.longest_exposure, *still_open]),
        "longest_wait_s": max([room.longest_wait, *(end - time for time in room.joined.values())]),
    }
    return {figure: round(value, 3) for figure, value in figures.items()}


def main() -> None:
    """Measure each policy, and print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=200, help="participants of the room (default: 200)")
    parser.add_argument("--changes", type=float, default=60, help="joins and leaves a minute (default: 60)")
    parser.add_argument("--minutes", type=float, default=5, help="simulated minutes (default: 5)")
    record.add_output(parser, "room_keys")
    options = parser.parse_args()
    table = Table(title=f"{options.members} members, {options.changes:g} joins and leaves a minute")
    titles = "policy", "keys a minute", "ratchets a minute", "messages a second", "who left opens", "who joins waits"
    for title in titles:
        table.add_column(title, justify="left" if title == "policy" else "right")
    figures = {}
    for name in POLICIES:
        found = figures[name] = measure(name, options.members, options.changes, options.minutes)
        keys, ratchets, messages, exposure, wait = found.values()
        table.add_row(name, f"{keys:.1f}", f"{ratchets:.1f}", f"{messages:,.0f}", f"{exposure:.1f} s", f"{wait:.1f} s")
    Console(width=120).print(table)
    record.write(
        options.output, members=options.members, changes=options.changes, minutes=options.minutes, policies=figures
    )


if __name__ == "__main__":
    main()
