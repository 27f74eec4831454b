"""The examples are programs, and do what they say."""

import base64
import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from frameseal.tools.opening.keys import read_key_file
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
    "wrap_archive_keys.py": [
        "mode: 0o600",
        "legal: opens",
        "audit: opens",
        "support: refused",
        "added, support: opens",
        "rotated, audit: refused",
        "rotated, audit-2: opens",
        "destroyed: True",
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


# --- examples/wrap_archive_keys.py -----------------------------------------------------------------------------------

MALLORY = JWK.generate(kty="OKP", crv="X25519", kid="legal")


@pytest.fixture(scope="module")
def custody():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "wrap_archive_keys.py")))


@pytest.fixture(scope="module")
def legal():
    return JWK.generate(kty="OKP", crv="X25519", kid="legal")


def test_unwrapped_keys_are_a_key_file_of_frameseal_open(custody, legal, tmp_path):
    keys = custody.key_file({0: "a passphrase"}, {"alice": {3: bytes(range(32))}})
    custody.write_private(tmp_path / "keys", custody.unwrap(custody.wrap(keys, [legal]), legal))
    found = read_key_file(tmp_path / "keys")
    assert [(entry.participant, entry.key_id, entry.secret.reveal()) for entry in found] == [
        (None, 0, "a passphrase"),
        ("alice", 3, bytes(range(32))),
    ]


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def swapped(document, **header):
    return document | {"protected": encoded(header)}


def first(document, **header):
    one, *others = document["recipients"]
    return document | {"recipients": [one | {"header": one["header"] | header}, *others]}


def direct(document):
    """A whole JWE under a key that the attacker knows, as a recipient that needs no wrapping."""
    made = JWE(b"{}", protected=json.dumps({"alg": "dir", "enc": "A256GCM"}))
    made.add_recipient(JWK(kty="oct", k="A" * 43))
    return json.loads(made.serialize())


PUBLIC = MALLORY.export_public(as_dict=True)
CHANGES = {
    "the name of another recipient": lambda document: first(document, kid="audit"),
    "an ephemeral key of the attacker": lambda document: first(document, epk=PUBLIC),
    "an ephemeral key of low order": lambda document: first(document, epk=PUBLIC | {"x": "A" * 43}),
    "an ephemeral key of another curve": lambda document: first(
        document, epk=document["recipients"][1]["header"]["epk"]
    ),
    "an ephemeral key that is none": lambda document: first(document, epk=[1]),
    "a key in the recipient's header": lambda document: first(document, jwk=PUBLIC),
    "an algorithm in the recipient's header": lambda document: first(document, alg="dir"),
    "a key in the protected header": lambda document: swapped(
        document, alg="ECDH-ES+A256KW", enc="A256GCM", typ="frameseal-keys", jwk=PUBLIC
    ),
    "a header that is not protected": lambda document: document | {"unprotected": {"jwk": PUBLIC}},
    "alg none": lambda document: swapped(document, alg="none", enc="A256GCM"),
    "alg dir": lambda document: swapped(document, alg="dir", enc="A256GCM"),
    "a direct key": direct,
    "two recipients of one name": lambda document: document | {"recipients": document["recipients"] * 2},
    "other ciphertext": lambda document: document | {"ciphertext": "AAAA" + document["ciphertext"][4:]},
    "no object": lambda document: [document],
}


@pytest.mark.parametrize("change", CHANGES)
def test_altered_wrapped_keys_are_refused_and_not_quoted(custody, legal, change):
    keys = custody.key_file({0: "a passphrase"}, {})
    document = json.loads(custody.wrap(keys, [legal, JWK.generate(kty="EC", crv="P-256", kid="audit")]))
    assert custody.unwrap(json.dumps(document).encode(), legal) == keys
    with pytest.raises(custody.NotOpened) as refused:
        custody.unwrap(json.dumps(CHANGES[change](document)).encode(), legal)
    assert str(refused.value) == "the keys are not for this opener, or the file was altered"


def test_json_that_exhausts_the_parser_is_refused(custody, legal):
    with pytest.raises(custody.NotOpened):
        custody.unwrap(b"[" * 200_000, legal)


def test_a_key_pair_with_the_name_of_an_opener_opens_nothing(custody, legal):
    with pytest.raises(custody.NotOpened):
        custody.unwrap(custody.wrap(b"{}", [legal]), MALLORY)
