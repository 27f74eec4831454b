"""Calls and meetings through Debian's Janus, in rooms that require sealed media: an SFU that is not ours.

`make interop` installs Janus. It ignores loopback interfaces, so it and its peers run in a network namespace of their
own, where 127.0.0.2 lies on another one; the files that are named here have what happens in there.
"""

import shutil
from pathlib import Path

import pytest

from interop.namespace import HAVE, run_in_namespace

HERE = Path(__file__).parent
PATIENCE = 400  # seconds; for tests that hang, not a measurement


@pytest.mark.skipif(not (HAVE and shutil.which("janus")), reason="needs Janus and root on Linux: make interop")
@pytest.mark.timeout(PATIENCE + 10)
@pytest.mark.parametrize(
    "tests", ["calls_through_janus", "meeting_through_janus", "page_through_janus", "recording_through_janus"]
)
def test_through_janus(tests):
    run_in_namespace(HERE / f"{tests}.py", "addr add 127.0.0.2/32 dev near", timeout=PATIENCE)
