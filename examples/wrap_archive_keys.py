"""Wrap the keys of a sealed recording for named openers, who each have a key pair of their own.

The keys are a file of `frameseal open --key-file`. A JWE (RFC 7516) holds that file for several openers at once:
ECDH-ES+A256KW for each, A256GCM for the file. It may lie beside the archive. It says who can open, and not who wrapped:
store it where only the custodian of the keys may write.
"""

import base64
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from jwcrypto.common import JWException
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

ALGORITHMS = ["ECDH-ES+A256KW", "A256GCM"]
PROTECTED = {"alg": ALGORITHMS[0], "enc": ALGORITHMS[1], "typ": "frameseal-keys"}

Keys = Mapping[int, str | bytes]
"""A passphrase (str) or a raw key (bytes, at least 16) for each key id."""


class NotOpened(Exception):
    """The keys were wrapped for somebody else, or the file was altered."""


def key_file(shared: Keys, participants: Mapping[str, Keys]) -> bytes:
    """Return what `frameseal open --key-file` reads."""

    def entries(keys: Keys) -> list[dict[str, int | str]]:
        return [
            {"key_id": key_id, "passphrase": key}
            if isinstance(key, str)
            else {"key_id": key_id, "key": base64.urlsafe_b64encode(key).decode()}
            for key_id, key in keys.items()
        ]

    document = {"shared": entries(shared), "participants": {name: entries(keys) for name, keys in participants.items()}}
    return json.dumps(document).encode()


def wrap(keys: bytes, openers: Iterable[JWK]) -> bytes:
    """Seal *keys* under a fresh content key, and wrap that for the public key of each opener."""
    wrapped = JWE(keys, protected=json.dumps(PROTECTED), algs=ALGORITHMS)
    for opener in openers:
        public = JWK(**opener.export_public(as_dict=True))
        wrapped.add_recipient(public, header=json.dumps({"kid": public["kid"]}))
    document = json.loads(wrapped.serialize())
    if "recipients" not in document:  # one opener: write the same form as for several
        document["recipients"] = [{name: document.pop(name) for name in ("header", "encrypted_key")}]
    return json.dumps(document).encode()


def unwrap(wrapped: bytes, opener: JWK) -> bytes:
    """Return the key file, with the private key of one opener.

    Only the form that `wrap` writes is accepted, so no header selects another algorithm or another key.

    :raises NotOpened: the keys are not for this opener, or the file was altered.
    """
    with contextlib.suppress(JWException, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        document = json.loads(wrapped)
        recipients = document["recipients"]
        of_opener = [recipient for recipient in recipients if recipient["header"]["kid"] == opener["kid"]]
        as_written = (
            document.keys() == {"protected", "iv", "ciphertext", "tag", "recipients"}
            and json.loads(base64.urlsafe_b64decode(document["protected"] + "==")) == PROTECTED
            and all(recipient.keys() == {"header", "encrypted_key"} for recipient in recipients)
            and all(recipient["header"].keys() == {"kid", "epk"} for recipient in recipients)
        )
        if as_written and len(of_opener) == 1:
            opened = JWE(algs=ALGORITHMS)
            opened.deserialize(json.dumps(document | {"recipients": of_opener}))
            opened.decrypt(opener)
            return bytes(opened.payload)
    raise NotOpened("the keys are not for this opener, or the file was altered")


def write_private(file: Path, content: bytes) -> None:
    """Replace *file* at once by one that only this user reads (mode 0600)."""
    handle, name = tempfile.mkstemp(dir=file.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def can_open(wrapped: bytes, opener: JWK) -> str:
    """Return "opens" or "refused"."""
    try:
        unwrap(wrapped, opener)
    except NotOpened:
        return "refused"
    return "opens"


def main() -> None:
    """Wrap for two openers, add a third, replace one, destroy."""
    # Each opener makes a pair and hands out its public half only. Compare that half on a way that you trust.
    legal, audit, support, successor = (
        JWK.generate(kty="OKP", crv="X25519", kid=name) for name in ("legal", "audit", "support", "audit-2")
    )
    # The room's passphrase, the key that followed it, and a key of alice alone.
    keys = key_file({0: "correct horse battery staple", 1: secrets.token_bytes(32)}, {"alice": {0: bytes(range(32))}})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "standup.keys.jwe"
        write_private(file, wrap(keys, [legal, audit]))
        print("mode:", oct(file.stat().st_mode & 0o777))
        for opener in (legal, audit, support):
            print(f"{opener['kid']}: {can_open(file.read_bytes(), opener)}")

        # An opener adds another one. Neither the recording nor the room is needed.
        write_private(file, wrap(unwrap(file.read_bytes(), legal), [legal, audit, support]))
        print("added, support:", can_open(file.read_bytes(), support))

        # Audit has a new key pair. Copies of the former file still open with the former pair: destroy both.
        write_private(file, wrap(unwrap(file.read_bytes(), legal), [legal, successor, support]))
        print("rotated, audit:", can_open(file.read_bytes(), audit))
        print("rotated, audit-2:", can_open(file.read_bytes(), successor))

        # The end of the recording, wherever its copies are: no copy of the keys may be left either.
        file.unlink()
        print("destroyed:", not file.exists())


if __name__ == "__main__":
    main()
