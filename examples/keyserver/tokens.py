"""Access tokens: they name the participant, the meeting, the generation of the key, and the time of expiry.

A token's body is base64, not encryption. Whoever sees a token reads it, and tokens end up in URLs and logs. So a key
never stands there in the clear. A key that travels in a token is an encrypted claim (JWE, RFC 7516) for the client's
own public key.
"""

import time
from base64 import b64encode
from dataclasses import dataclass
from typing import Any, NoReturn

import jwt
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

ALGORITHM, AUDIENCE, LIFETIME = "HS256", "frameseal-keyserver", 300  # seconds
MAX_HEADER = 128  # characters: a JSON parser recurses once a level


class BadToken(Exception):
    """The token is not of this server, or no longer valid."""


@dataclass(frozen=True)
class Admission:
    """The content of a valid token."""

    participant_id: str
    meeting_id: str
    generation: int


class Tokens:
    """Makes and reads the tokens of one server.

    :param secret: 32 bytes or more, which sign the tokens. Use another secret than for the database.
    """

    def __init__(self, secret: bytes) -> None:
        """Store the secret."""
        self._secret = secret

    def make(
        self, participant_id: str, meeting_id: str, generation: int, *, lifetime: float = LIFETIME, **claims: Any
    ) -> str:
        """Return a token that admits a participant to a meeting's key.

        :param generation: the generation of the meeting's present key. `Storage.admits` compares it later.
        """
        now = time.time()
        body = {"sub": participant_id, "meeting": meeting_id, "generation": generation, "aud": AUDIENCE}
        return jwt.encode({**claims, **body, "iat": now, "exp": now + lifetime}, self._secret, ALGORITHM)

    def read(self, token: bytes) -> Admission:
        """Return the content of a valid token. Raises BadToken."""
        if len(token.partition(b".")[0]) > MAX_HEADER:
            raise BadToken("LongHeader")
        try:
            required = ["sub", "meeting", "generation", "aud", "iat", "exp"]
            # The server chooses the algorithm, not the token.
            body = jwt.decode(
                token, self._secret, [ALGORITHM], audience=AUDIENCE, options={"require": required}, leeway=5
            )
            return Admission(str(body["sub"]), str(body["meeting"]), int(body["generation"]))
        except Exception as error:  # a stranger's bytes can fail in any way
            reason = type(error).__name__
        # Raise outside the handler: the error may hold the token.
        raise BadToken(reason)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("cannot pickle Tokens: it holds the secret that signs them")


def key_for_client(key: bytes, key_id: int, public_jwk: dict[str, Any]) -> str:
    """Encrypt a key for the holder of a private key (ECDH-ES, AES-256-GCM), as the claim ``e2ee_key``.

    Raises ValueError for anything but a public JWK of type EC or OKP.
    """
    try:
        client = JWK(**public_jwk)
        sealed = JWE(
            f'{{"key": "{b64encode(key).decode()}", "key_id": {key_id}}}',
            recipient=client.public() if hasattr(client, "public") else client,
            protected={"alg": "ECDH-ES", "enc": "A256GCM"},
        )
        return str(sealed.serialize(compact=True))
    except Exception:  # jwcrypto raises many classes, and none helps the caller
        pass
    # Raise outside the handler: the error may hold the client's input, or the key.
    raise ValueError("expected a public JWK of type EC or OKP")
