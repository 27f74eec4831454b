"""`frameseal meet --sfu janus=...`: the same meeting through Debian's Janus, in a room that requires sealed media.

`make interop` installs Janus. It ignores loopback interfaces, so it and its peers run in a network namespace of their
own, where 127.0.0.2 lies on another one: meeting_through_janus.py has what happens in there.
"""

import shutil
from pathlib import Path

import pytest

from namespace import HAVE, run_in_namespace

MEETING = Path(__file__).with_name("meeting_through_janus.py")


@pytest.mark.skipif(not (HAVE and shutil.which("janus")), reason="needs Janus and root on Linux: make interop")
def test_the_meeting_through_janus():
    assert "4 passed" in run_in_namespace(MEETING, "addr add 127.0.0.2/32 dev near")
