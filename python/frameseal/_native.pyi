"""The native core: key rings, and the encryptors and decryptors that use them.

Everything here is thread-safe, knows neither transport nor event loop, and holds its keys in memory that is cleared
when they go. Nothing of it can be pickled or copied.
"""

from typing import final

from typing_extensions import Buffer

__all__ = ["Decryptor", "Encryptor", "KeyRing", "Secret", "__version__"]

__version__: str

@final
class Secret:
    """Key material on its way into a ring: opaque, cleared when it is dropped.

    :param key: a str is a passphrase (the profile's password KDF, over its UTF-8 bytes); bytes or any other buffer is
        random key material of at least 16 bytes (the profile's KDF for random keys).
    :raises ValueError: for an empty passphrase or a shorter key.
    """

    def __new__(cls, key: str | Buffer) -> Secret: ...

@final
class KeyRing:
    """The keys of one sender, or of all senders where they share one.

    :param profile: a `Profile` or its value: which layout, KDF and salt.
    :param key_size: bits of the AES key; None is the profile's default, 128. 256 is for rooms of LiveKit's JavaScript
        clients alone, which have it as ``keySize``.
    :param ring_size: slots, 1 to 256: key ids run from 0 to one less.
    :param ratchet_window: steps that a receiver tries ahead when a key does not open a frame, 0 (off) to 16. Each step
        is derived once per key, however many frames are forged.
    :param failure_tolerance: kept for whoever reports states: failures in a row beyond which a key counts as invalid;
        -1 for never. Opening is tried with every frame in any case.
    :raises ValueError: for an unknown profile or a number out of its range.
    """

    def __new__(
        cls,
        profile: str,
        *,
        key_size: int | None = None,
        ring_size: int = 16,
        ratchet_window: int = 0,
        failure_tolerance: int = -1,
    ) -> KeyRing: ...
    def set_passphrase(self, passphrase: str | Buffer, key_id: int = 0) -> None:
        """Set or replace a key from a passphrase, through the profile's password KDF.

        PBKDF2-HMAC-SHA256 with 100,000 rounds in the trailer profiles: some 12 ms, without the GIL. Bytes are taken as
        they are: this is how LiveKit's native SDKs treat byte keys unless they are told otherwise.

        :raises ValueError: for an empty passphrase, or a key id outside the ring.
        """

    def set_key(self, key: Buffer, key_id: int = 0) -> None:
        """Set or replace a key from random key material of at least 16 bytes, through the profile's KDF for such keys.

        HKDF-SHA256 in the trailer profiles, as LiveKit's JavaScript client treats byte keys.

        :raises ValueError: for a shorter key, or a key id outside the ring.
        :raises TypeError: for a str, which is a passphrase.
        """

    def set_secret(self, secret: Secret, key_id: int = 0) -> None:
        """Set or replace a key from a `Secret`.

        :raises ValueError: for a key id outside the ring.
        """

    def ratchet(self, key_id: int = 0) -> None:
        """Move a key one step forward, in place (LiveKit's ``ratchetKey``).

        No boundary between members: whoever has a later step's material can derive the key of the step before it.

        :raises ValueError: for a key id that has no key.
        """

    def remove_key(self, key_id: int) -> None:
        """Forget a key, which clears it; without effect where there is none."""

    @property
    def key_ids(self) -> list[int]:
        """The key ids that have a key, ascending."""

    @property
    def sending_key_id(self) -> int:
        """The key id that this ring's encryptors use: at first that of the first key set.

        Setting it to an id without a key is allowed; encryptors raise `UnknownKey` until the key is there.

        :raises ValueError: for a key id outside the ring.
        """

    @sending_key_id.setter
    def sending_key_id(self, value: int, /) -> None: ...
    @property
    def profile(self) -> str:
        """The profile's name."""

    @property
    def failure_tolerance(self) -> int:
        """As given at construction."""

@final
class Encryptor:
    """Seals the frames of one outgoing track with the ring's sending key, whichever that is when a frame comes.

    :param codec: "opus", "pcmu", "pcma", "g722", "vp8", "vp9", "h264", "h265", "av1"; None keeps nothing clear.
    :raises ValueError: for an unknown codec, or one that the profile has no layout for (AV1 in the trailer profiles).
    """

    def __new__(cls, ring: KeyRing, codec: str | None = None) -> Encryptor: ...
    def encrypt(self, frame: Buffer) -> bytes:
        """Seal one whole encoded frame, as it is before packetising; return it as it is to be packetised.

        An empty frame comes back empty. An H.264 or H.265 access unit without a slice (parameter sets alone) is held
        back, b"" is returned, and it goes out in front of the next frame. H.264 loses its SEI before the first slice.

        `bytes` is borrowed, any other buffer copied once; from 32 KiB on the GIL is released meanwhile.

        :raises UnknownKey: the sending key has not been set.
        :raises KeyExhausted: the sending key has no nonces left.
        :raises MalformedFrame: not a frame of the codec.
        """

    def stats(self) -> dict[str, int]:
        """Counters: frames, bytes, empty, held, malformed, unknown_key, key_exhausted, long_headers."""

@final
class Decryptor:
    """Opens the frames of one incoming track.

    :param codec: as for `Encryptor`; it must be the sender's.
    :param replay_window: frames remembered (0 to 65,536), so that none opens twice; 0 is off, None the profile's
        default, which is off in the trailer profiles, whose other implementations have no such check.
    :raises ValueError: for an unknown or unsupported codec, or a window out of range.
    """

    def __new__(cls, ring: KeyRing, codec: str | None = None, replay_window: int | None = None) -> Decryptor: ...
    def decrypt(self, sealed: Buffer) -> bytes:
        """Open one whole sealed frame, as it is after depacketising. An empty frame comes back empty.

        :raises MalformedFrame: not a sealed frame of the profile.
        :raises UnknownKey: no key under the key id that the frame names.
        :raises AuthenticationFailed: no key in the ratchet window opens it.
        :raises ReplayedFrame: it was opened before (only with a replay window).
        """

    @property
    def consecutive_failures(self) -> int:
        """How many frames in a row one key has failed to open; 0 after a frame that opened."""

    def stats(self) -> dict[str, int]:
        """Counters: frames, bytes, empty, malformed, unknown_key, authentication_failed, replayed, ratchets."""
