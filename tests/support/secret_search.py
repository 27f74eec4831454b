"""Searches for a secret in the output of a program: exceptions, log records, and everything that an object reveals."""

import base64
import copy
import dataclasses
import json
import pickle
import traceback
from collections.abc import Callable, Iterator

MARKER = "Xq7vKjW2ZpLmT9Rb4NcYd8GhFs6Qe3Uw"  # 32 letters: the length of a raw key and of a fingerprint
RAW = MARKER.encode()
NUMBER = int.from_bytes(RAW)

# A message may truncate a secret. So five letters of it count as the secret, and five bytes or more of its other forms:
# the numbers of fewer bytes would stand in a printed ciphertext by chance.
PARTS = {MARKER[start : start + 5] for start in range(len(MARKER) - 4)} | {
    form[start : start + size]
    for form, size in (
        (RAW.hex(), 10),
        (str(NUMBER), 10),
        (", ".join(map(str, RAW)), 25),
        *((base64.b64encode(RAW[start:]).decode()[:-4], 10) for start in range(3)),
    )
    for start in range(len(form) - size + 1)
}


def shows(text: str) -> bool:
    return any(part in text for part in PARTS)


def said_by(error: BaseException | None, seen: set[int] | None = None) -> Iterator[str]:
    """Yield the text and the attributes of an exception, and of each exception in its chain."""
    seen = seen if seen is not None else set()
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
    for name in dir(error):  # such as args, __notes__, and: object, obj, doc, filename, name
        value = getattr(error, name, None)
        if not callable(value) and name not in ("__dict__", "__doc__", "__traceback__"):
            yield f"{name}: {value!r}"
    for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        yield from said_by(other, seen)


def captured_by(error: BaseException, file: str) -> Iterator[str]:
    """Yield the local variables that a traceback captures from the functions in a file."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    frames = [frame for frame in stack if frame.filename.endswith(f"python/frameseal/{file}")]
    assert frames, "the file has no part in this error"
    for frame in frames:
        yield from (frame.locals or {}).values()


def got_from(thing: object, *, inside: bool = True) -> Iterator[str]:
    """Yield everything that an object reveals without a request for its secret.

    Without *inside*, its attributes are not searched: an object may hold the names that it was made with.
    """
    ways: list[Callable[[], object]] = [
        lambda: repr(thing),
        lambda: f"{thing} %s" % (thing,),
        lambda: json.dumps(thing, default=repr),
    ]
    if inside:
        ways += [
            *(lambda n=n: pickle.dumps(thing, n).decode("latin-1") for n in range(pickle.HIGHEST_PROTOCOL + 1)),
            lambda: vars(copy.copy(thing)),
            lambda: vars(copy.deepcopy(thing)),
            lambda: vars(thing),
            thing.__getstate__,
            lambda: thing.__reduce_ex__(2),
            lambda: json.dumps(thing, default=vars),
            lambda: dataclasses.asdict(thing),  # type: ignore[call-overload]
            lambda: dataclasses.astuple(thing),  # type: ignore[call-overload]
        ]
    for way in ways:
        try:
            yield repr(way())
        except Exception as error:
            yield from said_by(error)
