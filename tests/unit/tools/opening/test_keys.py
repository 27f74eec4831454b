"""Keys from files: what is read, what is refused, and that no message quotes a key."""

import base64
import json
import re
from types import SimpleNamespace

import pytest

from frameseal import Decryptor, Encryptor, FrameError, KeyRing, Profile
from frameseal.tools.opening import keys
from frameseal.tools.opening.keys import KeyEntry, UnusableKeys, read_key_file, read_passphrase_file
from support.paths import ROOT
from support.secret_search import MARKER, said_by, shows

KEY = bytes(range(32))
TEXT = base64.urlsafe_b64encode(KEY).decode()


def file(tmp_path, content):
    path = tmp_path / "keys"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def revealed(entries):
    return [(entry.participant, entry.key_id, entry.secret.reveal()) for entry in entries]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_line_end_and_a_byte_order_mark_do_not_belong_to_the_passphrase(tmp_path, start, end):
    path = file(tmp_path, start + f" two words {end}".encode())
    assert revealed(read_passphrase_file(path)) == [(None, 0, " two words ")]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        (f"{MARKER}\nsecond", "one line"),
        (f"{MARKER}\n\n", "one line"),
        (MARKER.encode("utf-16"), "UTF-8"),
        (MARKER.encode() * 200_000, "at most"),
    ],
)
def test_an_unusable_passphrase_file_is_refused_without_quoting_it(tmp_path, content, hint):
    with pytest.raises(UnusableKeys, match=hint) as refused:
        read_passphrase_file(file(tmp_path, content))
    assert not any(shows(text) for text in said_by(refused.value))


def test_a_missing_file_is_refused_without_its_name(tmp_path):
    for read in (read_passphrase_file, read_key_file):
        with pytest.raises(UnusableKeys, match="cannot be read: No such file") as refused:
            read(tmp_path / MARKER)
        assert not any(shows(text) for text in said_by(refused.value))


@pytest.mark.parametrize("text", [TEXT, f"{TEXT}\n", f"{TEXT}\r\n", TEXT.rstrip("="), base64.b64encode(KEY).decode()])
def test_a_key_file_holds_what_keygen_prints(tmp_path, text):
    assert revealed(read_key_file(file(tmp_path, text))) == [(None, 0, KEY)]


def test_a_key_file_holds_keys_by_participant_and_key_id(tmp_path):
    document = {
        "shared": [{"passphrase": "of all"}, {"key_id": 7, "key": TEXT}],
        "participants": {"alice": [{"key_id": 1, "passphrase": "of alice"}, {"key_id": 1, "key": TEXT}]},
    }
    assert revealed(read_key_file(file(tmp_path, json.dumps(document)))) == [
        (None, 0, "of all"),
        (None, 7, KEY),
        ("alice", 1, "of alice"),
        ("alice", 1, KEY),
    ]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("", "raw key in base64"),
        (MARKER + "!", "raw key in base64"),
        ("AAAA", "at least 16 bytes"),
        (f"{TEXT}\n{TEXT}\n", "raw key in base64"),
        (KEY.hex() + "\n", "this is hex"),
        ("{" + MARKER, "no JSON object"),
        ('{"shared": ' + "[" * 10_000, "no JSON object"),
        ("{}", "has no key"),
        ({MARKER: []}, "1 members beside shared and participants"),
        ({"shared": {}}, "shared must be a list"),
        ({"shared": [MARKER]}, "key 1 of shared must have key or passphrase"),
        ({"shared": [{"key": TEXT, "passphrase": MARKER}]}, "must have key or passphrase"),
        ({"shared": [{"key": MARKER + "!"}]}, "raw key in base64"),
        ({"shared": [{"key": 5}]}, "raw key in base64"),
        ({"shared": [{"passphrase": ""}]}, "not empty"),
        ({"shared": [{"passphrase": "\ud800" + MARKER}]}, "surrogate"),
        ({"shared": [{"key": TEXT, "key_id": 256}]}, "0 to 255"),
        ({"shared": [{"key": TEXT, "key_id": True}]}, "0 to 255"),
        ({"shared": [{"key": TEXT, "key_id": MARKER}]}, "0 to 255"),
        ({"participants": [MARKER]}, "participants must be an object"),
        ({"participants": {MARKER: [{"key": "AA"}]}}, "key 1 of participant 1"),
    ],
)
def test_an_unusable_key_file_is_refused_without_quoting_it(tmp_path, content, hint):
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(UnusableKeys, match=hint) as refused:
        read_key_file(file(tmp_path, text))
    assert not any(shows(text) for text in said_by(refused.value))


def test_without_a_terminal_nobody_is_asked(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(UnusableKeys, match="--passphrase-file"):
        keys.prompted_passphrase()


def test_on_a_terminal_the_passphrase_is_asked_for_and_not_shown(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: MARKER)
    assert revealed(keys.prompted_passphrase()) == [(None, 0, MARKER)]
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    with pytest.raises(UnusableKeys, match="empty"):
        keys.prompted_passphrase()


def test_an_entry_shows_no_key():
    assert not shows(repr(KeyEntry(None, 0, keys.Hidden(MARKER))))


def seals(secret, key_id, opus=b"\xf8 frame"):
    ring = KeyRing("livekit")
    ring.set_passphrase(secret, key_id) if isinstance(secret, str) else ring.set_key(secret, key_id)
    ring.sending_key_id = key_id
    return Encryptor(ring, "opus").encrypt(opus)


def opens(provider, participant, frame):
    try:
        Decryptor(provider.ring_for(Profile.LIVEKIT, participant), "opus").decrypt(frame)
    except FrameError:
        return False
    return True


def entry(secret, key_id=0, participant=None):
    return KeyEntry(participant, key_id, keys.Hidden(secret))


def test_two_keys_under_one_id_are_in_two_providers_and_all_others_in_both():
    made = keys.providers([entry("first"), entry("second"), entry(KEY, 1), entry("first")])
    assert [[opens(each, "bob", seals(key, 0)) for key in ("first", "second")] for each in made] == [
        [True, False],
        [False, True],
    ]
    assert all(opens(each, "bob", seals(KEY, 1)) for each in made)


def test_a_participant_with_keys_is_opened_with_these_alone():
    """So that nobody who has the room's key can speak in their name."""
    (made,) = keys.providers([entry("of all"), entry("of alice", participant="alice")])
    assert opens(made, "alice", seals("of alice", 0))
    assert not opens(made, "alice", seals("of all", 0))
    assert opens(made, "bob", seals("of all", 0))
    assert not opens(made, "bob", seals("of alice", 0))


def test_the_key_file_of_the_guide_is_one(tmp_path):
    guide = (ROOT / "docs/guide/opening.md").read_text("utf-8")
    (document,) = re.findall(r"(?s)```json\n(.*?)```", guide)
    found = revealed(read_key_file(file(tmp_path, document)))
    assert [(participant, key_id) for participant, key_id, _ in found] == [(None, 0), (None, 0), ("alice", 1)]
