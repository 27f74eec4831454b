"""Access tokens: who may have the key of which meeting, until when.

A token's body is base64, not encryption: whoever sees it reads it, and tokens end up in URLs and logs. So a key never
stands in it as it is. Where it has to travel with the token, it is an encrypted claim (JWE, RFC 7516) for the client's
own public key.
"""

import time
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import jwt
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

ALGORITHM, AUDIENCE, LIFETIME = "HS256", "frameseal-keyserver", 300  # seconds


class BadToken(Exception):
    """Not a token of this server, or not valid any more."""


@dataclass(frozen=True)
class Admission:
    """What a token says."""

    participant_id: str
    meeting_id: str


class Tokens:
    """Makes and reads the tokens of one server.

    :param secret: 32 bytes or more, under which they are signed; another one than that of the database.
    """

    def __init__(self, secret: bytes) -> None:
        """Keep the secret."""
        self._secret = secret

    def make(self, participant_id: str, meeting_id: str, *, lifetime: float = LIFETIME, **claims: Any) -> str:
        """Return a token that admits a participant to a meeting's key."""
        now = time.time()
        body = {"sub": participant_id, "meeting": meeting_id, "aud": AUDIENCE, "iat": now, "exp": now + lifetime}
        return jwt.encode({**claims, **body}, self._secret, ALGORITHM)

    def read(self, token: str) -> Admission:
        """Return what a token says, if it is one. Raises BadToken."""
        try:
            required = ["sub", "meeting", "aud", "iat", "exp"]
            # The algorithm is ours to say, not the token's.
            body = jwt.decode(
                token, self._secret, [ALGORITHM], audience=AUDIENCE, options={"require": required}, leeway=5
            )
            return Admission(str(body["sub"]), str(body["meeting"]))
        except jwt.InvalidTokenError as error:
            raise BadToken(type(error).__name__) from None


def key_for_client(key: bytes, key_id: int, public_jwk: dict[str, Any]) -> str:
    """Encrypt a key for the holder of a private key (ECDH-ES, AES-256-GCM): the claim ``e2ee_key``. Raises
    ValueError."""
    try:
        client = JWK(**public_jwk)
        sealed = JWE(
            f'{{"key": "{b64encode(key).decode()}", "key_id": {key_id}}}',
            recipient=client.public() if hasattr(client, "public") else client,
            protected={"alg": "ECDH-ES", "enc": "A256GCM"},
        )
        return str(sealed.serialize(compact=True))
    except Exception as error:  # jwcrypto has many, and none says more to the caller
        raise ValueError("expected a public JWK of type EC or OKP") from error
