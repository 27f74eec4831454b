"""Searches captured packets for plaintext: for every run of some secret bytes, at every offset."""

import numpy as np

WINDOW = 16  # bytes of plaintext that must not be found on the wire


def windows(pieces):
    """Return a 64-bit hash of every run of WINDOW bytes in the pieces, at every offset."""
    hashes = [np.zeros(0, np.uint64)]
    for piece in pieces:
        if len(piece) >= WINDOW:
            runs = np.lib.stride_tricks.sliding_window_view(np.frombuffer(piece, np.uint8), WINDOW)
            halves = np.ascontiguousarray(runs).view(np.uint64)
            hashes.append(halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) + halves[:, 1])
    return np.concatenate(hashes)


def leaks(secret, wire, shown=()):
    """Count the runs of WINDOW bytes on the wire that are secret and not shown by design."""
    return int(np.isin(windows(wire), np.setdiff1d(windows(secret), windows(shown))).sum())


def beyond_clear_bytes(frame, sealed):
    """Return the secret bytes of a frame: the bytes after the prefix that it shares with its sealed form."""
    size = min(len(frame), len(sealed))
    differ = np.frombuffer(frame[:size], np.uint8) != np.frombuffer(sealed[:size], np.uint8)
    return frame[int(differ.argmax()) if differ.any() else size :]
