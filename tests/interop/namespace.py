"""Tests in a network namespace of their own, for programs that ignore loopback interfaces."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HAVE = sys.platform == "linux" and all(shutil.which(name) for name in ("unshare", "ip")) and os.geteuid() == 0


def run_in_namespace(tests: Path, *network: str, timeout: float) -> None:
    """Run a file of tests with pytest, where there is no network but loopback and two interfaces, near and far.

    All of them have to pass, and none may be left out.

    :param network: more commands of `ip` to set it up with, without that word.
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
    assert re.search(r"^\d+ passed in", said, re.MULTILINE), said
