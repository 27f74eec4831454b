"""The keys for a recording, from files or from a prompt, never from an argument of the command line.

A *passphrase file* holds one passphrase in UTF-8. One line end at its end does not belong to the passphrase.

A *key file* holds either one raw key, as `frameseal keygen` prints it, or a JSON object:

    {"shared":       [{"key_id": 0, "passphrase": "..."}],
     "participants": {"alice": [{"key_id": 0, "key": "<base64url>"}, {"key_id": 1, "key": "<base64url>"}]}}

Both members may be missing, and ``key_id`` is 0 if it is missing. A participant who has keys is opened with these
alone. Several keys may stand under one key id, in the order of time: a room may have changed its key in the midst of a
recording. The frame's tag shows which one it is.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frameseal._json import parse_json
from frameseal._secrecy import Hidden, utf8
from frameseal.keys.provider import KeyProvider

HEX = re.compile(r"[0-9a-fA-F]{32,}")
MAX_FILE = 1 << 20  # bytes of a file with keys
MAX_KEY_ID = 255  # a `KeyProvider` holds at most 256 keys
MIN_KEY = 16  # bytes of a raw key
RATCHET_WINDOW = 16  # steps that are searched ahead: the default of LiveKit's native clients, and our maximum


class UnusableKeys(Exception):
    """The keys cannot be read: the message says what is wrong, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key, and for whom."""

    participant: str | None
    """None means all participants without keys of their own."""
    key_id: int
    secret: Hidden[str | bytes]
    """A str is a passphrase, bytes are a raw key."""


def read_passphrase_file(path: Path) -> list[KeyEntry]:
    """Return the passphrase in a file as the shared key under key id 0.

    :param path: the file, or ``-`` for the standard input.
    :raises UnusableKeys: the file cannot be read, is empty, is no UTF-8, or has several lines.
    """
    return [KeyEntry(None, 0, Hidden(_passphrase(_read(path, "passphrase file"), "the passphrase file")))]


def prompted_passphrase() -> list[KeyEntry]:
    """Ask for the passphrase on the terminal, and return it as the shared key under key id 0.

    :raises UnusableKeys: there is no terminal, or nothing was typed.
    """
    if not sys.stdin.isatty():
        raise UnusableKeys("no key: pass --passphrase-file or --key-file, or run it on a terminal to be asked")
    typed = getpass.getpass("Passphrase of the recording: ")
    if not typed:
        raise UnusableKeys("the passphrase must not be empty")
    return [KeyEntry(None, 0, Hidden(_checked(typed, "the passphrase")))]


def read_key_file(path: Path) -> list[KeyEntry]:
    """Return the keys in a key file.

    :param path: the file, or ``-`` for the standard input.
    :raises UnusableKeys: the file cannot be read, or is not as the head of this module says.
    """
    text = _read(path, "key file").strip()
    if HEX.fullmatch(text):  # base64 would decode it, to another key
        raise UnusableKeys(
            "the key file must hold base64, and this is hex: pass what keygen --passphrase prints as --passphrase-file"
        )
    if not text.startswith("{"):
        return [KeyEntry(None, 0, Hidden(_raw(text, "the key file")))]
    try:
        document = parse_json(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UnusableKeys("the key file is no JSON object: see docs/guide/opening.md")
    unknown = len(document.keys() - {"shared", "participants"})
    if unknown:
        raise UnusableKeys(f"the key file has {unknown} members beside shared and participants")
    found = _entries(document.get("shared", []), None, "shared")
    participants = document.get("participants", {})
    if not isinstance(participants, dict):
        raise UnusableKeys("the key file: participants must be an object")
    for number, (participant, keys) in enumerate(participants.items(), 1):
        found += _entries(keys, participant, f"participant {number}")
    if not found:
        raise UnusableKeys("the key file has no key")
    return found


def providers(entries: Iterable[KeyEntry]) -> list[KeyProvider]:
    """Return providers that together hold all keys. The first one holds the first key under each key id, and so on.

    Each participant with keys has all of them in each provider where another key is missing, so that one provider opens
    most recordings and the others only what it leaves. All follow the ratchet of a sender, from the key in the file on.
    """
    by_place: dict[tuple[str | None, int], list[Hidden[str | bytes]]] = {}
    for entry in entries:
        secrets = by_place.setdefault((entry.participant, entry.key_id), [])
        if entry.secret not in secrets:
            secrets.append(entry.secret)
    made = []
    for number in range(max(map(len, by_place.values()), default=0)):
        provider = KeyProvider(ratchet_window=RATCHET_WINDOW, key_ring_size=MAX_KEY_ID + 1)
        for (participant, key_id), secrets in by_place.items():
            secret = secrets[min(number, len(secrets) - 1)].reveal()
            if participant is None:
                provider.set_shared_key(secret, key_id)
            else:
                provider.set_key(participant, secret, key_id)
        made.append(provider)
    return made


def _read(path: Path, what: str) -> str:
    problem = ""
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
    except OSError as error:
        problem = f"the {what} cannot be read: {error.strerror}"
    if not problem and len(content) > MAX_FILE:
        problem = f"the {what} must have at most {MAX_FILE} bytes"
    if not problem:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            problem = f"the {what} must be text in UTF-8"
    raise UnusableKeys(problem)


def _passphrase(text: str, what: str) -> str:
    """Return the passphrase without the line end that editors put at the end of a file."""
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise UnusableKeys(f"{what} is empty")
    if "\n" in text or "\r" in text:
        raise UnusableKeys(f"{what} must have one line: several keys belong in a --key-file")
    return _checked(text, what)


def _checked(text: str, what: str) -> str:
    problem = ""
    try:
        utf8(what, text)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UnusableKeys(problem)
    return text


def _raw(text: Any, what: str) -> bytes:
    try:
        digits = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
        key = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (AttributeError, ValueError, binascii.Error):
        key = b""
    if len(key) < MIN_KEY:
        raise UnusableKeys(
            f"{what} must be a raw key in base64 of at least {MIN_KEY} bytes, as frameseal keygen prints it; "
            "for a passphrase pass --passphrase-file"
        )
    return key


def _entries(keys: Any, participant: str | None, where: str) -> list[KeyEntry]:
    if not isinstance(keys, list):
        raise UnusableKeys(f"the key file: {where} must be a list of keys")
    found = []
    for number, entry in enumerate(keys, 1):
        what = f"the key file: key {number} of {where}"
        if not isinstance(entry, dict) or entry.keys() - {"key_id"} not in ({"key"}, {"passphrase"}):
            raise UnusableKeys(f"{what} must have key or passphrase, and may have key_id")
        key_id = entry.get("key_id", 0)
        if isinstance(key_id, bool) or not isinstance(key_id, int) or not 0 <= key_id <= MAX_KEY_ID:
            raise UnusableKeys(f"{what}: key_id must be a whole number from 0 to {MAX_KEY_ID}")
        if "key" in entry:
            secret: str | bytes = _raw(entry["key"], what)
        elif isinstance(entry["passphrase"], str) and entry["passphrase"]:
            secret = _checked(entry["passphrase"], what)
        else:
            raise UnusableKeys(f"{what}: passphrase must be a text that is not empty")
        found.append(KeyEntry(participant, key_id, Hidden(secret)))
    return found
