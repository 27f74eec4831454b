"""Measures the cost of a thousand forged frames, by ratchet window and kind of key.

    python benches/forged_frames.py [--size 1000] [--frames 1000]

Each frame is new. It has the right length, key id and layout, and a wrong tag. A thousand frames a second are twenty
times the rate of a voice. The cost includes the AEAD under every key in the window, and the steps that
`derive_ratchet_step` derives. These run in a thread here, as in an application.

A second table is the same attack on a call: an `E2EEManager` on an event loop, a thousand frames in each of five
seconds, with all its reactions (states, diagnoses, derivations in threads).

Columns: CPU of the whole process for the first thousand frames and for the next (ms per 1,000 frames, so ms per second
at that rate); the share of the first that was derivation (ms); the longest time that one frame held its decoder thread
(ms).
"""

import argparse
import asyncio
import os
import threading
import time

import frameseal

PASSPHRASE, RAW = "a passphrase of no consequence", bytes(range(32))


def forged(count: int, size: int) -> list[bytes]:
    """Return frames of *size* bytes that nobody sealed."""
    return [b"\x78" + os.urandom(size - 15) + b"\x0c\x00" for _ in range(count)]


def attack(decryptor: frameseal.Decryptor, frames: list[bytes]) -> tuple[float, float]:
    """Return the CPU time of a pass over *frames*, and the longest time of one frame, both in ms."""
    longest = 0.0
    cpu = time.process_time()
    for frame in frames:
        start = time.perf_counter()
        try:
            decryptor.decrypt(frame)
        except frameseal.AuthenticationFailed:
            longest = max(longest, time.perf_counter() - start)
    return (time.process_time() - cpu) * 1e3, longest * 1e3


def derive_all(ring: frameseal.KeyRing) -> float:
    """Derive the pending ratchet steps in a thread, and return its CPU time in ms."""
    spent = []

    def work() -> None:
        start = time.thread_time()
        for key_id in ring.pending_ratchets:
            while ring.derive_ratchet_step(key_id):
                pass
        spent.append(time.thread_time() - start)

    helper = threading.Thread(target=work)
    helper.start()
    helper.join()
    return spent[0] * 1e3


async def attack_a_call(key: str | bytes, size: int, seconds: int) -> list[float]:
    """Return the CPU time of the process, in ms, in each second of 1,000 forged frames to a call."""
    provider = frameseal.ExternalE2EEKeyProvider(ratchet_window_size=16)
    provider.set_shared_key(key)
    call = frameseal.E2EEManager(provider, "livekit")
    decrypt = call.receiver_transform("bob", "audio", "opus").decrypt
    spent = []
    for _ in range(seconds):
        frames, cpu, end = forged(1000, size), time.process_time(), time.monotonic() + 1
        for each, frame in enumerate(frames, 1):
            decrypt(frame)
            await asyncio.sleep(max(0.0, end - 1 + each / 1000 - time.monotonic()))
        spent.append((time.process_time() - cpu) * 1e3)
    return spent


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Measures the cost of a thousand forged frames.")
    parser.add_argument("--size", type=int, default=1000, help="bytes of a frame (%(default)s)")
    parser.add_argument("--frames", type=int, default=1000, help="frames in a pass (%(default)s)")
    arguments = parser.parse_args()

    print("| key | window | first 1,000 (ms CPU) | derivation | next 1,000 (ms CPU) | worst frame (ms) |")
    print("|---|---|---|---|---|---|")
    for kind in ("raw (HKDF)", "passphrase (PBKDF2)"):
        for window in (0, 8, 16):
            ring = frameseal.KeyRing("livekit", ratchet_window=window)
            if kind.startswith("raw"):
                ring.set_key(RAW)
            else:
                ring.set_passphrase(PASSPHRASE)
            decryptor = frameseal.Decryptor(ring, "opus")
            half = arguments.frames // 2
            frames = forged(2 * arguments.frames, arguments.size)

            first, worst = attack(decryptor, frames[:half])
            deriving = derive_all(ring)
            rest, worst_after = attack(decryptor, frames[half : arguments.frames])
            following, worst_later = attack(decryptor, frames[arguments.frames :])

            scale = 1000 / arguments.frames
            worst = max(worst, worst_after, worst_later)
            print(
                f"| {kind} | {window} | {(first + rest) * scale + deriving:.1f} | {deriving:.1f} "
                f"| {following * scale:.1f} | {worst:.2f} |"
            )

    print("\nA call, window 16, CPU in each second (ms), including the loop's own 1,000 turns:")
    for kind, key in (("raw (HKDF)", RAW), ("passphrase (PBKDF2)", PASSPHRASE)):
        spent = asyncio.run(attack_a_call(key, arguments.size, seconds=5))
        print(f"  {kind}: {', '.join(f'{each:.0f}' for each in spent)}")


if __name__ == "__main__":
    main()
