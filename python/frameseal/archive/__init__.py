"""Sealed recordings: the frames of a call as they left their senders, in Parquet (docs/formats/archive.md).

Whoever records needs no key. Whoever has the key opens the recording later, elsewhere. Needs the extra ``archive``.
"""

from frameseal.archive.check import Recording, recordings, repair, verify
from frameseal.archive.opener import Opener
from frameseal.archive.reader import read, recording_ids
from frameseal.archive.schema import SCHEMA, ArchiveError, SealedFrame, UnsealedFrame
from frameseal.archive.writer import ArchiveWriter

__all__ = [
    "SCHEMA",
    "ArchiveError",
    "ArchiveWriter",
    "Opener",
    "Recording",
    "SealedFrame",
    "UnsealedFrame",
    "read",
    "recording_ids",
    "recordings",
    "repair",
    "verify",
]
