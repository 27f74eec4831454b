"""Tests in a network namespace of their own, for programs that ignore loopback interfaces."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HAVE = sys.platform == "linux" and all(shutil.which(name) for name in ("unshare", "ip")) and os.geteuid() == 0


def run_in_namespace(tests: Path, *network: str, timeout: float = 170) -> str:
    """Run a file of tests with pytest, where there is no network but loopback and two interfaces, near and far.

    :param network: more commands of `ip` to set it up with, without that word.
    :returns: what pytest said, when all has passed.
    """
    pair = ["link set lo up", "link add near type veth peer name far", "link set near up", "link set far up"]
    script = " && ".join(f"ip {command}" for command in [*pair, *network])
    # --kill-child: whatever becomes of us, nothing stays behind in the namespace.
    namespace = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(
        [*namespace, "sh", "-c", f'{script} && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
