"""A system that has no randomness: whatever needs some is refused, and everything else goes on."""

import json
import platform
import subprocess
import sys

import pytest

from support import without_randomness

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in without_randomness.CALLS,
    reason="seccomp is Linux's, and its filters have the numbers of a machine's system calls",
)


def outcomes(*arguments: str) -> dict[str, str]:
    """Return what works in a process without randomness, and the exceptions of what does not."""
    command = [sys.executable, without_randomness.__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("earlier", [[], ["drawn"]], ids=["from the start", "after some was drawn"])
def test_without_randomness_no_key_is_set_that_needs_it_and_the_process_goes_on(earlier: list[str]) -> None:
    found = outcomes(*earlier)
    for profile in ("livekit", "jitsi"):
        assert found[f"a key of {profile}"] == "RuntimeError"
    assert found["frames sealed with a shared key"] == "KeyExhausted"


def test_counters_and_received_frames_need_no_randomness() -> None:
    found = outcomes()
    for step in ("a key of sframe", "frames of sframe", "frames opened with a shared key"):
        assert found[step] == "works"


def test_a_child_without_randomness_seals_nothing_and_its_parent_goes_on() -> None:
    found = outcomes("drawn")
    assert found["frames of a key from before"] == "works"
    assert found["the same in a forked child"] == "KeyExhausted"
