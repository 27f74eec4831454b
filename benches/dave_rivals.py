"""The rivals that seal frames in Discord's format (DAVE): davey, in Rust, and dave.py (libdave), in C++.

Their keys come from an MLS group (RFC 9420) that Discord's server forms. `Gateway` stands in for the server. It
proposes members, and a group of two in one process needs nothing else.
"""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SENDER, RECEIVER, CHANNEL = 1, 2, 3
PROTOCOL = 1

Pair = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]  # seals a frame; opens a sealed frame once


def vector(content: bytes) -> bytes:
    """Return *content* after its length as a QUIC integer (RFC 9420 section 2.1.2)."""
    if len(content) < 1 << 6:
        return len(content).to_bytes(1) + content
    return (1 << 14 | len(content)).to_bytes(2) + content


class Gateway:
    """The group's external sender (RFC 9420 section 12.1.8)."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        basic = b"\0\1" + vector(b"\0")
        self.identity = vector(public) + basic

    def propose(self, key_package: bytes) -> bytes:
        """Return a list with one proposal, which adds the owner of the key package."""
        version_and_wire_format = b"\0\1\0\1"  # MLS 1.0, PublicMessage
        first_epoch, external, proposal, add = bytes(8), b"\2" + bytes(4), b"\2", b"\0\1"
        content = version_and_wire_format + vector(CHANNEL.to_bytes(8)) + first_epoch + external + vector(b"")
        content += proposal + add + key_package
        signed = vector(b"MLS 1.0 FramedContentTBS") + vector(content)
        return vector(content + vector(self._key.sign(signed, ec.ECDSA(SHA256()))))


def davey_pair() -> Pair:
    import davey

    gateway = Gateway()
    sender, receiver = (davey.DaveSession(PROTOCOL, user, CHANNEL) for user in (SENDER, RECEIVER))
    for session in (sender, receiver):
        session.set_external_sender(gateway.identity)
    proposals = gateway.propose(receiver.get_serialized_key_package())
    answer = sender.process_proposals(davey.ProposalsOperationType.append, proposals)
    sender.process_commit(answer.commit)
    receiver.process_welcome(answer.welcome)
    audio = davey.MediaType.audio
    return sender.encrypt_opus, lambda sealed: receiver.decrypt(SENDER, audio, sealed)


def dave_py_pair() -> Pair:
    import dave

    gateway = Gateway()
    members = {str(user): dave.Session() for user in (SENDER, RECEIVER)}
    for user, session in members.items():
        session.init(PROTOCOL, CHANNEL, user)
        session.set_external_sender(gateway.identity)
    sender, receiver = members.values()
    append = b"\0"
    proposals = append + gateway.propose(receiver.get_marshalled_key_package())
    sender.process_commit(sender.process_proposals(proposals, set(members)))
    encryptor, decryptor = dave.Encryptor(), dave.Decryptor()
    encryptor.assign_ssrc_to_codec(SENDER, dave.Codec.opus)
    encryptor.set_key_ratchet(sender.get_key_ratchet(str(SENDER)))
    decryptor.transition_to_key_ratchet(sender.get_key_ratchet(str(SENDER)))
    audio = dave.MediaType.audio
    return lambda frame: encryptor.encrypt(audio, SENDER, frame), lambda sealed: decryptor.decrypt(audio, sealed)
