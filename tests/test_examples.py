"""The examples are programs, and do what they say."""

import subprocess
import sys

import pytest

from support.paths import ROOT

EXAMPLES = ROOT / "examples"

# ICE gathers 127.0.0.1 and nothing else, as in every other test; by itself it never gathers the loopback interface.
ON_LOOPBACK = """
import runpy, sys
import aioice.ice
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
runpy.run_path(sys.argv[1], run_name="__main__")
"""

PRINTED = {
    "seal_one_frame.py": [
        "45 bytes sealed into 75; the first byte, 0x78, stays readable",
        "opened again: True",
        "tampered with: AuthenticationFailed under key id 0",
    ],
    "foreign_pipeline.py": [
        "alice: video of alice: EncryptionSuccess",
        "bob: video of alice: DecryptionSuccess",
        "30 pictures decoded, each lighter than the last: True",
    ],
    "sealed_file.py": [
        "50 packets sealed into a file",
        "a packet can be found in it: False",
        "opened again: True",
        "with another time stamp: AuthenticationFailed",
        "with a packet twice: ReplayedFrame",
    ],
    "voice_bot.py": [
        "bot understands the sealed voice of caller",
        "caller understands the sealed voice of bot",
        "bot: I heard 440 hertz.",
        "caller: heard an answer: True",
    ],
    "record_a_room.py": [
        "alice receives: recorded and transcribed",
        "recorded: audio, video",
        "transcript begins: 00:00 alice: (silence)",
    ],
    "join_a_call.py": [
        "alice: audio of alice: EncryptionSuccess",
        "alice: video of alice: EncryptionSuccess",
        "bob: audio of alice: DecryptionSuccess",
        "bob: video of alice: DecryptionSuccess",
        "bob: decoded 10 video frames",
        "bob: decoded 20 audio frames",
    ],
}


def test_every_example_is_run():
    # The first needs videosdk-agents: tests/frameworks/test_videosdk_agents.py runs it. The second needs a server:
    # tests/interop/test_livekit_room.py runs it. The third needs Ray: tests/frameworks/test_ray.py runs it.
    elsewhere = {"videosdk_agent.py", "livekit_voice_agent.py", "open_with_ray.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED) | elsewhere


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_should_and_nothing_else(name):
    command = [sys.executable, "-c", ON_LOOPBACK, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # The order in which the tracks of a call get going is not fixed.
    assert sorted(done.stdout.splitlines()) == sorted(PRINTED[name])
