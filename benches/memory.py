"""Reads how much memory the process uses. Nothing of frameseal is imported."""

import resource
import sys
from pathlib import Path


def resident() -> int:
    """Return the resident bytes of the process; outside of Linux, their maximum so far."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
