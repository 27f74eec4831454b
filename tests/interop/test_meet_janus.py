"""`frameseal meet --sfu janus=...`: the same meeting through Debian's Janus, in a room that requires sealed media.

`make interop` installs Janus. It ignores loopback interfaces, so it and its peers run in a network namespace of their
own, where 127.0.0.2 lies on another one: meeting_through_janus.py has what happens in there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MEETING = Path(__file__).with_name("meeting_through_janus.py")
NETWORK = (
    "ip link set lo up && ip link add near type veth peer name far && "
    "ip addr add 127.0.0.2/32 dev near && ip link set near up && ip link set far up"
)
HAVE = sys.platform == "linux" and all(shutil.which(name) for name in ("janus", "unshare", "ip")) and os.geteuid() == 0


@pytest.mark.skipif(not HAVE, reason="needs Janus and root on Linux: make interop")
def test_the_meeting_through_janus():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(MEETING)]
    # --kill-child: whatever becomes of us, nothing stays behind in the namespace.
    namespace = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*namespace, "sh", "-c", f'{NETWORK} && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout, done.stdout
