"""Measures what encryption adds to a whole call: CPU of a 720p30 VP8 and Opus call of aiortc, attached and not.

    python benches/pipeline.py [--rounds 14] [--seconds 4]

Three calls in one process, each one way over loopback, take turns: seconds of media through one call, then the same
through the others, in alternating order. The result is the ratio of each round. Two calls were set up before the hook
was installed, so nothing of frameseal affects them. Their ratio shows what the comparison can show: codecs and memory
make two equal calls differ by more than one per cent.

So further rounds of the attached call time the added work itself, in CPU time of its threads: cipher and glue, per
frame and as a share of the call. AWS-LC alone seals the same frames in the same place, as a reference.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import aiortc
from aiortc.codecs import opus, vpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import floor
import record
from call import AUDIO_RATE, VIDEO_RATE, Call, pictures, sounds
from stopwatch import Stopwatch, clock
from turns import error_of_median

WARM_UP = 1.0  # s
FLOOR = "beside it: AWS-LC alone seals the same frame"
MAX_ADDED = 0.01  # of the call's CPU
RATES = {"video": VIDEO_RATE, "audio": AUDIO_RATE}
# Parts to time, by turn. Parts inside each other have turns of their own, since reading the clock adds to the outer
# part. Timing the receiver decodes nothing, which spoils the pictures, so its turn is last.
READ = (("seal", "open", "guard"), ("sender", "admitted", "guarded"), ("outgoing", "noted"), ("floor", "receiver"))


async def plain_call(video: list, audio: list) -> Call:
    """Set up a call without frameseal. Call it before the hook is installed."""
    assert "frameseal.aiortc" not in sys.modules
    original = aiortc.RTCRtpSender._next_encoded_frame
    call = Call(video, audio)
    await call.connect()

    class Unhooked(aiortc.RTCRtpSender):
        _next_encoded_frame = original

    for sender in call.sending.getSenders():
        sender.__class__ = Unhooked  # the hook's guard is on the class, for every sender
    await call.play(WARM_UP)  # also makes encoders and decoders
    return call


async def sealed_call(video: list, audio: list) -> Call:
    from frameseal import E2EEManager, ExternalE2EEKeyProvider
    from frameseal.aiortc import attach

    call = Call(video, audio)
    for pc in (call.sending, call.receiving):
        provider = ExternalE2EEKeyProvider()
        provider.set_shared_key(bytes(range(32)))
        attach(pc, E2EEManager(provider, profile="livekit"), local_id="alice", remote_id="alice")
    await call.connect()
    await call.play(WARM_UP)
    return call


@contextlib.contextmanager
def timed(watch: Stopwatch, parts: tuple[str, ...], sending: aiortc.RTCPeerConnection) -> Iterator[None]:
    """Time these parts of the hook, in the attached call."""
    from frameseal.aiortc.gates import IncomingGate
    from frameseal.aiortc.proxies import OpeningDecoder
    from frameseal.aiortc.receivers import ReceiverSlot
    from frameseal.aiortc.slots import SenderSlot
    from frameseal.e2ee.transforms import ReceiverTransform, SenderTransform

    def kind(codec: Any) -> str:
        return codec.mimeType.partition("/")[0]

    kinds = {codec.payloadType: each.kind for each in sending.getTransceivers() for codec in each._codecs}
    next_frame = SenderSlot.next_frame

    async def guarded(slot: Any, inner: Any, codec: Any) -> Any:
        async def waited_for(codec: Any) -> Any:
            nonlocal spent, start
            spent += clock() - start
            frame = await inner(codec)
            clock()
            before, start = clock(), clock()
            spent -= start - before
            return frame

        clock()
        before, start = clock(), clock()
        spent = before - start
        frame = await next_frame(slot, waited_for, codec)
        watch.add("guard", kind(codec), spent + clock() - start)
        return frame

    def of_slot(slot: Any, *_: Any) -> str:
        return slot.kind

    places = {
        "sender": (SenderSlot, "seal", of_slot),
        "seal": (SenderTransform, "encrypt_payloads", lambda transform, *_: transform.track.kind),
        "receiver": (OpeningDecoder, "decode", lambda proxy, _frame: kind(proxy._codec)),
        "open": (ReceiverTransform, "open", lambda transform, *_: transform.track.kind),
        "noted": (ReceiverSlot, "note_packet", of_slot),
        "admitted": (ReceiverSlot, "admits", of_slot),
        "guarded": (IncomingGate, "_sealed", lambda gate, _task: gate._slot.kind),
    }
    with contextlib.ExitStack() as stack:
        for part in parts:
            if part == "guard":
                stack.enter_context(mock.patch.object(SenderSlot, "next_frame", guarded))
            elif part == "floor":
                stack.enter_context(mock.patch.object(SenderTransform, "encrypt_payloads", beside_the_floor(watch)))
            elif part == "outgoing":  # the gate has put the method into each transport
                for transport in {sender.transport for sender in sending.getSenders()}:
                    send = watch.wrap(part, transport._send_rtp, lambda data: kinds.get(data[1] & 0x7F, "rtcp"))
                    stack.enter_context(mock.patch.object(transport, "_send_rtp", send))
            else:
                owner, name, kind_of = places[part]
                stack.enter_context(mock.patch.object(owner, name, watch.wrap(part, getattr(owner, name), kind_of)))
        for codec in (vpx.Vp8Decoder, opus.OpusDecoder) if "receiver" in parts else ():
            stack.enter_context(mock.patch.object(codec, "decode", lambda *_: []))
        yield


def beside_the_floor(watch: Stopwatch) -> Callable[..., Any]:
    """Return the function that seals, after AWS-LC alone has sealed the same frame in the same place."""
    from frameseal.e2ee.transforms import SenderTransform

    inner = SenderTransform.encrypt_payloads
    alone = {kind: watch.wrap("floor", floor.encrypt, lambda _frame, kind=kind: kind) for kind in RATES}

    def encrypt_payloads(transform: Any, payloads: list[bytes], sealed: Any) -> Any:
        alone[transform.track.kind](b"".join(payloads))
        return inner(transform, payloads, sealed)

    return encrypt_payloads


async def measure(rounds: int, apart: int, seconds: float, progress: Progress) -> dict[str, Any]:
    task = progress.add_task("three calls take turns", total=3 * rounds + apart * len(READ))
    video, audio = pictures(), sounds()
    calls = {name: await plain_call(video, audio) for name in ("plain", "again")}
    calls["sealed"] = await sealed_call(video, audio)
    try:
        before = {name: dict(call.decoded) for name, call in calls.items()}
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rounds):
            for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
                spent[name].append(await calls[name].play(seconds))
                progress.advance(task)
        decoded = {
            name: {kind: call.decoded[kind] - before[name][kind] for kind in RATES} for name, call in calls.items()
        }
        watch = Stopwatch()
        for parts in sorted(READ * apart, key=READ.index):
            with timed(watch, parts, calls["sealed"].sending):
                await calls["sealed"].play(seconds)
            progress.advance(task)
    finally:
        await asyncio.gather(*(call.close() for call in calls.values()))
    added = {
        name: sorted(own / plain - 1 for plain, own in zip(spent["plain"], spent[name], strict=True))
        for name in ("again", "sealed")
    }
    return {
        "cpu_s_per_s": {name: statistics.median(runs) for name, runs in spent.items()},
        "added": {name: statistics.median(by_round) for name, by_round in added.items()},
        # of the median
        "added_standard_error": {name: error_of_median(by_round) for name, by_round in added.items()},
        "added_by_round": added,
        "frames_decoded": decoded,
        "us_per_frame": split(watch, apart * seconds),
    }


def split(watch: Stopwatch, seconds: float) -> dict[str, dict[str, float]]:
    """Return us per frame, by kind of media and part. *seconds* of media were played for each part."""
    found: dict[str, dict[str, float]] = {}
    for kind, rate in RATES.items():
        read = {part: watch.total(part, kind) / 1e3 / (rate * seconds) for parts in READ for part in parts}
        if not all(read.values()):
            raise SystemExit(f"no {kind} passed the hook, so nothing was measured")
        found[kind] = {
            "sender: join, encrypt, split": read["seal"],
            "sender: slot and counters": read["sender"] - read["seal"],
            "sender: guard, on the loop": read["guard"],
            "sender: gate, all packets of the frame": read["outgoing"],
            "receiver: starts of frames, all packets": read["noted"],
            "receiver: gate": read["admitted"] + read["guarded"],
            "receiver: decrypt": read["open"],
            "receiver: proxy and counters": read["receiver"] - read["open"],
            FLOOR: read["floor"],
        }
    return found


def show(console: Console, found: dict[str, Any]) -> dict[str, float]:
    """Print the tables, and return the shares of cipher and glue in the call's CPU."""
    whole, each = found["cpu_s_per_s"], found["us_per_frame"]
    table = Table(title="a call, 720p30 VP8 and Opus, one way: CPU seconds a second")
    for name in ("", "median", "added (median of rounds)", "its noise"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("not attached", f"{whole['plain']:.4f}")
    for name, title in (("again", "another, not attached"), ("sealed", "attached")):
        error = found["added_standard_error"][name]
        noise = "one round" if error is None else f"± {error:.2%}"
        table.add_row(title, f"{whole[name]:.4f}", f"{found['added'][name]:+.2%}", noise)
    console.print(table)
    console.print(
        "frames decoded: " + "; ".join(f"{name} {counts}" for name, counts in found["frames_decoded"].items())
    )

    def share(part: str) -> float:
        return sum(each[kind][part] * rate for kind, rate in RATES.items()) / 1e6 / whole["plain"]

    table = Table(title="the added work itself: CPU us per frame, and its share of the call's CPU")
    for name in ("", "video", "audio", "of the call"):
        table.add_column(name, justify="right" if name else "left")
    parts = [part for part in each["video"] if part != FLOOR]
    for part in each["video"]:
        table.add_row(part, *(f"{each[kind][part]:.1f}" for kind in RATES), f"{share(part):.3%}")
    table.add_section()
    cipher = [part for part in parts if "crypt" in part]
    glue = [part for part in parts if part not in cipher]
    shares = {}
    for name, of in (("cipher", cipher), ("glue", glue), ("all", parts)):
        shares[name] = sum(map(share, of))
        by_kind = (f"{sum(each[kind][part] for part in of):.1f}" for kind in RATES)
        table.add_row(f"{name}, both ends", *by_kind, f"{shares[name]:.3%}", style="bold")
    console.print(table)
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=14, help="rounds of both calls, to compare")
    parser.add_argument("--apart", type=int, default=2, help="rounds of the attached call with its parts timed")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of media in a turn")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if the added work exceeds its target")
    record.add_output(parser, "pipeline")
    arguments = parser.parse_args()
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        run = measure(arguments.rounds, arguments.apart, arguments.seconds, progress)
        found = asyncio.run(run)
    shares = show(console, found)
    record.write(arguments.output, **found, shares=shares)
    if shares["all"] > MAX_ADDED:
        console.print(f"misses its target: {shares['all']:.2%} added, maximum {MAX_ADDED:.0%}", style="red")
        return 1 if arguments.strict else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
