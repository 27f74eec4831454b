"""A system without randomness: `python without_randomness.py` prints what still works, as JSON.

With the argument `drawn` the process has drawn randomness before. A seccomp filter (Linux, seccomp(2)) answers
`getrandom` with ENOSYS, and refuses to open files such as `/dev/urandom`. It holds until the process ends. So each
scenario runs in a separate process, which sets the filter after all imports.
"""

import ctypes
import json
import os
import platform
import struct
import sys
from collections.abc import Callable
from functools import partial

from frameseal import Decryptor, Encryptor, KeyRing

KEY = b"a key of more than sixteen bytes"
# The numbers of getrandom, openat and open in the kernel, by machine. 0 means that there is no such call.
CALLS = {"x86_64": (318, 257, 2), "aarch64": (278, 56, 0)}
ENOSYS, EACCES = 38, 13
SET_SECCOMP, FILTER, NO_NEW_PRIVS = 22, 2, 38
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def forbid() -> None:
    """Refuse randomness to this process and its children from now on."""
    getrandom, openat, opened = CALLS[platform.machine()]
    steps = [(LOAD, 0, 0, 0)]  # of the number of the call
    for number, error in ((getrandom, ENOSYS), (openat, EACCES), (opened, EACCES)):
        if number:
            steps += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | error)]
    steps.append((RETURN, 0, 0, ALLOW))
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    program = Program(len(steps), code)
    for arguments in ((NO_NEW_PRIVS, 1, 0, 0, 0), (SET_SECCOMP, FILTER, ctypes.addressof(program), 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def outcome(work: Callable[[], object]) -> str:
    """Return "works", or the name of the exception."""
    try:
        work()
    except Exception as error:
        return type(error).__name__
    return "works"


def in_a_child(work: Callable[[], object]) -> str:
    """Return the outcome in a forked child, or how it died."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, outcome(work).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    return told or f"died of signal {os.WTERMSIG(status)}"


def keyed(profile: str, **options: object) -> KeyRing:
    made = KeyRing(profile, **options)
    made.set_key(KEY)
    return made


def main(*, drawn: bool) -> dict[str, str]:
    """Return the outcome of each step. With *drawn*, the process has drawn randomness before it is refused."""
    before = Encryptor(keyed("livekit"), "opus") if drawn else None
    forbid()
    counted = keyed("sframe")
    shared = keyed("sframe", shared=True)
    found = {f"a key of {profile}": outcome(partial(keyed, profile)) for profile in ("livekit", "jitsi", "sframe")}
    found["frames of sframe"] = outcome(
        lambda: Decryptor(counted, "opus").decrypt(Encryptor(counted, "opus").encrypt(b"frame"))
    )
    found["frames opened with a shared key"] = outcome(
        lambda: Decryptor(shared, "opus").decrypt(Encryptor(counted, "opus").encrypt(b"frame"))
    )
    found["frames sealed with a shared key"] = outcome(lambda: Encryptor(shared, "opus").encrypt(b"frame"))
    if before is not None:
        found["frames of a key from before"] = outcome(lambda: before.encrypt(b"frame"))
        found["the same in a forked child"] = in_a_child(lambda: before.encrypt(b"frame"))
    return found


if __name__ == "__main__":
    print(json.dumps(main(drawn="drawn" in sys.argv)))
