"""Finds the fastest AES-GCM that is known: Intel's ipsec-mb, loaded if it is installed. Nothing links to it."""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import floor

NAME = "fastest known (ipsec-mb)"
INSTALL = "on Debian and Ubuntu, apt-get install libipsec-mb1"
LIBRARIES = ("libIPSec_MB.so.1", "libIPSec_MB.so.2", "libIPSec_MB.so")
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
# The endings of the functions' names and the features that they use, the fastest first.
VARIANTS = {
    "vaes_avx512": AVX512 | {"vaes", "vpclmulqdq"},
    "avx512": AVX512 | {"aes", "pclmulqdq"},
    "vaes_avx2": {"avx2", "vaes", "vpclmulqdq"},
    "avx_gen4": {"avx2", "aes", "pclmulqdq"},
}


@dataclass(frozen=True)
class Kernel:
    """The functions of one variant. Both timers return ns per frame for a size and a number of frames."""

    variant: str
    expand: int
    seal: int

    def one_place(self, size: int, frames: int) -> float:
        return floor.ipsec_mb(size, frames, self.expand, self.seal)

    def walk(self, size: int, frames: int) -> float:
        return floor.ipsec_mb_walk(size, frames, self.expand, self.seal)


@cache
def features() -> frozenset[str]:
    """Return the names of the processor's features, as Linux lists them. Elsewhere there are none."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def find(*, avx512: bool = True) -> Kernel | str:
    """Return the fastest variant for this processor, or a line that says why there is none."""
    has = {name for name in features() if avx512 or not name.startswith("avx512")}
    for library in map(_load, LIBRARIES):
        if library is None:
            continue
        for variant, uses in VARIANTS.items():
            if uses <= has and hasattr(library, f"aes_gcm_enc_128_{variant}"):
                names = (f"aes_gcm_pre_128_{variant}", f"aes_gcm_enc_128_{variant}")
                expand, seal = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names)
                assert expand and seal
                return Kernel(variant, expand, seal)
        return "it has no function for this processor"
    return f"not installed: {INSTALL}"


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
