"""Measures a process with 500 incoming participants: their share of a core, and the slowest frames.

    python benches/participants.py [--participants 500] [--rounds 8]

Each participant sends Opus, 50 frames of 120 B a second. 20 of them also send video, 30 frames of 6 kB a second. Their
frames pass the transforms that the hook calls (key ring, states, counters), in the order of time. Each participant's
turn follows all others, so each frame finds the caches as a call leaves them. Nothing is sent or decoded: transport and
codecs are not included.
"""

import argparse
import os
import statistics
import sys
import time

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import record
from frameseal import E2EEManager, Encryptor, KeyProvider, Profile
from memory import resident

AUDIO, AUDIO_RATE = b"\x78" + bytes(119), 50  # Opus, frames a second
VIDEO, VIDEO_RATE = b"\x01" + bytes(5_999), 30  # VP8
VIDEOS = 20
ONE_CALL = 0.49  # measured CPU seconds per second of one aiortc call, 720p30 VP8 and Opus

Step = tuple[object, bytes]  # a transform's method and the frame for it


def second(profile: str, participants: int, own_keys: bool) -> tuple[list[Step], E2EEManager, int]:
    """Return one second of sealed media in its order, the manager that opens it, and the bytes per participant."""
    ours = KeyProvider()
    names = [f"participant {number}" for number in range(participants)]
    keys = {name: os.urandom(32) for name in names} if own_keys else {}
    ours.set_shared_key(bytes(range(32)))
    sealed = []
    for name in names:
        theirs = KeyProvider()  # one provider each: under a shared SFrame key each sender draws its own KID
        theirs.set_shared_key(bytes(range(32)))
        if own_keys:
            theirs.set_key(name, keys[name])
        ring = theirs.ring_for(Profile(profile), name)
        sealed.append((Encryptor(ring, "opus").encrypt(AUDIO), Encryptor(ring, "vp8").encrypt(VIDEO)))
    before = resident()
    manager = E2EEManager(ours, profile, replay_window=0)
    audio, video = [], []
    for name, (spoken, shown) in zip(names, sealed, strict=True):
        if own_keys:
            ours.set_key(name, keys[name])
        audio.append((manager.receiver_transform(name, "audio", "opus", track_id=f"{name} audio").decrypt, spoken))
        if len(video) < VIDEOS:
            video.append((manager.receiver_transform(name, "video", "vp8", track_id=f"{name} video").decrypt, shown))
    took = (resident() - before) // participants
    frames = [(n / AUDIO_RATE, audio) for n in range(AUDIO_RATE)] + [(n / VIDEO_RATE, video) for n in range(VIDEO_RATE)]
    steps = [step for _, all_at_once in sorted(frames, key=lambda frame: frame[0]) for step in all_at_once]
    return steps, manager, took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=8)
    record.add_output(parser, "participants")
    arguments = parser.parse_args()
    rooms = [
        (profile, own)
        for profile in ("livekit", "sframe")
        for own in (False, True)
        if (profile, own) != ("sframe", True)
    ]
    made = {room: second(room[0], arguments.participants, room[1]) for room in rooms}
    shares: dict[tuple[str, bool], list[float]] = {room: [] for room in rooms}
    worst: dict[tuple[str, bool], list[int]] = {room: [] for room in rooms}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("opening", total=arguments.rounds * len(rooms))
        for _ in range(arguments.rounds):
            for room, (steps, _, _) in made.items():
                start = time.process_time()
                for opens, sealed in steps:
                    if opens(sealed) is None:
                        raise SystemExit(f"{room}: a frame did not open")
                shares[room].append(time.process_time() - start)
                clock = time.perf_counter_ns
                for opens, sealed in steps:
                    begun = clock()
                    opens(sealed)
                    worst[room].append(clock() - begun)
                progress.advance(task)
    table = Table(title=f"{arguments.participants} incoming voices and {VIDEOS} videos: one second of them")
    for column in ("keys", "of a core", "ns per frame", "p99, us", "p99.9, us", "kB per participant"):
        table.add_column(column, justify="left" if column == "keys" else "right")
    found = {}
    for room, (steps, _, took) in made.items():
        profile, own = room
        share, times = statistics.median(shares[room]), sorted(worst[room])
        p99, p999 = (times[int(len(times) * part)] / 1000 for part in (0.99, 0.999))
        name = f"{profile}, {'a key per participant' if own else 'a shared key'}"
        each = share / len(steps) * 1e9
        table.add_row(name, f"{share:.2%}", f"{each:,.0f}", f"{p99:.1f}", f"{p999:.1f}", f"{took / 1000:.1f}")
        found[name] = {"of_a_core": share, "ns": each, "p99_us": p99, "p99.9_us": p999, "bytes": took}
    Console().print(table)
    steps, _, _ = made[rooms[0]]
    frame = statistics.median(shares[rooms[0]]) / len(steps)
    frames = 2 * (AUDIO_RATE + VIDEO_RATE)
    Console().print(
        f"One call, 720p30 and Opus, has {frames} of these frames a second: {frames * frame * 1e6:.0f} us for the "
        f"transforms, {frames * frame / ONE_CALL:.3%} of the CPU time of the call in aiortc."
    )
    record.write(arguments.output, participants=arguments.participants, videos=VIDEOS, rooms=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
