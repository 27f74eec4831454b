"""Where a key opens frames in another form than it was passed in, the command says so."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from frameseal import KeyRing
from frameseal._native import Secret
from frameseal.tools.cli import main
from frameseal.tools.opening.hints import MAX_EXCERPTS, MAX_PARTICIPANTS, Hints
from support.archives import archive
from support.calls import PASSPHRASE
from support.recorded import recorded, sealed, sounds
from support.secret_search import MARKER, shows


def rows_of(secret, participant="alice", key_id=0, profile="livekit"):
    """Return a second of sealed sound."""
    ring = KeyRing(profile, shared=True) if profile == "sframe" else KeyRing(profile)
    ring.set_secret(Secret(secret), key_id)
    ring.sending_key_id = key_id
    return sealed(recorded(sounds("opus", 1), participant=participant, codec="opus"), {participant: ring}, profile)


@pytest.fixture
def hints(tmp_path, capsys, monkeypatch):
    """Return a function that runs the command with a key file, and returns its exit status and its hints."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(rows, option, content):
        keys = tmp_path / "keys"
        keys.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        folder = archive(tmp_path / "archive", rows)
        status = main(["open", str(folder), "-o", str(tmp_path / "opened"), option, str(keys)])
        printed = capsys.readouterr()
        assert not shows(printed.out + printed.err), "a key is shown"
        return status, [line for line in printed.out.splitlines() if line.startswith("Hint: ")]

    return run


@pytest.mark.parametrize(
    ("secret", "option", "content", "hint"),
    [
        (MARKER + "\n", "--passphrase-file", f"{MARKER}\n".encode(), "with a line end behind it"),
        (MARKER + "\r\n", "--passphrase-file", f"{MARKER}\r\n".encode(), "with a CR LF behind it"),
        (MARKER, "--passphrase-file", f" {MARKER}\n".encode(), "without the spaces around it"),
        (MARKER, "--key-file", {"shared": [{"passphrase": MARKER + "\n"}]}, "without the line end behind it"),
        (MARKER, "--key-file", {"shared": [{"key_id": 3, "passphrase": MARKER}]}, "under the key id 0"),
        (MARKER.encode(), "--passphrase-file", MARKER.encode(), "with HKDF, from a raw key"),
    ],
)
def test_a_key_that_would_open_the_frames_otherwise_is_named(hints, secret, option, content, hint):
    """The room's passphrase was read with the line end of its file, for example."""
    status, (found,) = hints(rows_of(secret), option, content)
    assert status == 1
    assert found.startswith("Hint: alice: ") and hint in found


def test_the_key_file_of_a_hint_about_a_line_end_opens_the_frames(hints):
    status, found = hints(rows_of(MARKER + "\n"), "--key-file", {"shared": [{"passphrase": MARKER + "\n"}]})
    assert (status, found) == (0, [])


@pytest.mark.parametrize("content", ["another key", MARKER[:-1]])
def test_a_wrong_key_has_no_hint(hints, content):
    assert hints(rows_of(MARKER), "--passphrase-file", content.encode())[1] == []


def test_frames_that_open_need_no_hint_and_those_of_others_have_one(hints):
    rows = [*rows_of(PASSPHRASE), *rows_of(MARKER + "\n", "bob")]
    document = {
        "shared": [{"passphrase": PASSPHRASE}],
        "participants": {"bob": [{"passphrase": "another"}, {"passphrase": MARKER}]},
    }
    status, (found,) = hints(rows, "--key-file", document)
    assert status == 1
    assert found.startswith("Hint: bob: ")


def test_frames_that_were_recorded_under_another_profile_have_a_hint(hints):
    rows = [replace(row, profile="videosdk") for row in rows_of(PASSPHRASE)]
    _, (found,) = hints(rows, "--passphrase-file", PASSPHRASE.encode())
    assert "livekit" in found


def test_altered_frames_have_no_hint(hints):
    rows = [
        replace(row, sealed=row.sealed[:-20] + bytes([row.sealed[-20] ^ 1]) + row.sealed[-19:])
        for row in rows_of(MARKER)
    ]
    assert hints(rows, "--passphrase-file", MARKER.encode())[1] == []


def test_what_is_kept_of_a_crowd_that_fails_has_a_limit():
    """Each participant with a hint costs trials of keys, and each frame that is kept costs memory."""
    kept, wanted = Hints([]), Counter()
    for number in range(MAX_PARTICIPANTS + 3):
        for frame in recorded([bytes(9)] * (MAX_EXCERPTS + 5), participant=str(number), unopened=range(100)):
            failed = replace(frame, reason="authentication_failed")
            if kept.wants(failed):
                kept.add(failed, "livekit", bytes(9))
                wanted[number] += 1
    assert wanted == dict.fromkeys(range(MAX_PARTICIPANTS), MAX_EXCERPTS)


def test_frames_that_opened_or_were_replayed_are_not_kept():
    kept = Hints([])
    opened, replayed = recorded([bytes(9)] * 2, unopened=[1])
    assert not kept.wants(opened)
    assert not kept.wants(replace(replayed, reason="replayed"))
    assert kept.wants(replace(replayed, reason="unknown_key"))
