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
    :param suite: a `CipherSuite`; None is the profile's default, AES_128_GCM_SHA256_128. SFrame has them all.
    :param allow_draft: whether suites 6 to 8, which are a draft's, may be used.
    :param key_size: bits of the AES key, another way to choose between AES-128 and AES-256 in the profile livekit. 256
        is for rooms of LiveKit's JavaScript clients alone, which have it as ``keySize``.
    :param ring_size: slots of the trailer profiles, 1 to 256: key ids run from 0 to one less. A KID has 64 bits.
    :param ratchet_window: steps that a receiver looks ahead, 0 (off) to 16. In the trailer profiles it tries them when
        a key does not open a frame; in SFrame the KID tells the step. Each step is derived once per key, however many
        frames are forged.
    :param ratchet_bits: SFrame: how many low bits of a KID count ratchet steps (RFC 9605, section 5.1); 0 is none.
        Both ends must have the same.
    :param shared: SFrame: the base keys are shared by many senders. Each ring then seals under a KID of its own, of
        which the low 8 bits are the key id (0 to 255) and the others are drawn at random when it first seals; receivers
        derive the key of whatever sender they meet. This is what `ExternalE2EEKeyProvider` uses.
    :param failure_tolerance: kept for whoever reports states: failures in a row beyond which a key counts as invalid;
        -1 for never. Opening is tried with every frame in any case.
    :raises ValueError: for an unknown profile or suite, a number out of its range, an option that is not the profile's.
    """

    def __new__(
        cls,
        profile: str,
        *,
        suite: int | None = None,
        allow_draft: bool = False,
        key_size: int | None = None,
        ring_size: int = 16,
        ratchet_window: int = 0,
        ratchet_bits: int = 0,
        shared: bool = False,
        failure_tolerance: int = -1,
    ) -> KeyRing: ...
    def set_passphrase(self, passphrase: str | Buffer, key_id: int = 0) -> None:
        """Set or replace a key from a passphrase, through the profile's password KDF.

        PBKDF2-HMAC-SHA256 with 100,000 rounds in the trailer profiles: some 12 ms, without the GIL. Bytes are taken as
        they are: this is how LiveKit's native SDKs treat byte keys unless they are told otherwise. RFC 9605 has no
        password KDF: for SFrame the same PBKDF2, with a salt of frameseal's own, gives a base key of 32 bytes.

        :raises ValueError: for an empty passphrase, or a key id outside the ring.
        """

    def set_key(self, key: Buffer, key_id: int = 0, *, counter: int | None = None) -> None:
        """Set or replace a key from random key material of at least 16 bytes, through the profile's KDF for such keys.

        HKDF-SHA256 in the trailer profiles, as LiveKit's JavaScript client treats byte keys. In SFrame it is the base
        key of the KID *key_id* (RFC 9605, section 4.4.2), and a base key and KID may be used for sealing once: where
        this process has sealed under them before, sealing raises `KeyExhausted`.

        :param counter: SFrame: go on sealing from this CTR, which was never used under this base key and KID, here or
            anywhere. For senders that keep their counter over a restart.
        :raises ValueError: for a shorter key, a key id outside the ring, or a counter where the profile has none.
        :raises TypeError: for a str, which is a passphrase.
        """

    def set_epoch(
        self,
        epoch: int,
        exported_secret: Buffer,
        *,
        epoch_bits: int,
        sender_bits: int,
        sender_index: int,
        context: int = 0,
        retain: int = 1,
    ) -> int:
        """Set an MLS epoch's secret and seal with it from now on; return this member's KID (RFC 9605, section 5.2).

        :param exported_secret: ``MLS-Exporter("SFrame 1.0 Base Key", "", Nk)``: the keys of all members follow from it.
        :param epoch_bits: E: so many low bits of the epoch go into a KID; an epoch with the same ones replaces another.
        :param sender_bits: S: the least with group size <= 2^S; *sender_index* is this member's place in the group.
        :param context: tells uncoordinated streams of one sender apart; 0 gives the shortest KID.
        :param retain: how many epochs before this one still open frames; older ones are erased.
        :raises ValueError: for fields that do not fit 64 bits, or a profile other than sframe.
        """

    def set_secret(self, secret: Secret, key_id: int = 0) -> None:
        """Set or replace a key from a `Secret`.

        :raises ValueError: for a key id outside the ring.
        """

    def ratchet(self, key_id: int = 0) -> int:
        """Move a key one step forward; return the id that it has then.

        Trailer profiles (LiveKit's ``ratchetKey``): in place, so the id is the same. No boundary between members:
        whoever has a later step's material can derive the key of the step before it.

        SFrame (RFC 9605, section 5.1): the KID of the next step, with which the ring seals if it did with this one. The
        step before it still opens frames, until the step after.

        :raises ValueError: for a key id that has no key, or an SFrame ring without ``ratchet_bits``.
        """

    def remove_key(self, key_id: int) -> None:
        """Forget a key, which clears it; without effect where there is none."""

    @property
    def key_ids(self) -> list[int]:
        """The key ids that have a key, ascending; under `set_epoch` the low bits of the epochs."""

    @property
    def sending_key_id(self) -> int:
        """The key id that this ring's encryptors use: at first that of the first key set.

        Setting it to an id without a key is allowed; encryptors raise `UnknownKey` until the key is there.

        :raises ValueError: for a key id outside the ring.
        """

    @sending_key_id.setter
    def sending_key_id(self, value: int, /) -> None: ...
    def usage(self, key_id: int) -> int:
        """How many frames this ring has sealed with a key, of the 2^32 that it may seal.

        :raises ValueError: for a key id that has no key.
        """

    @property
    def profile(self) -> str:
        """The profile's name."""

    @property
    def suite(self) -> int:
        """The number of the cipher suite (`CipherSuite`)."""

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
    def encrypt(self, frame: Buffer, metadata: Buffer = b"") -> bytes:
        """Seal one whole encoded frame, as it is before packetising; return it as it is to be packetised.

        An empty frame comes back empty. In the trailer profiles, an H.264 or H.265 access unit without a slice
        (parameter sets alone) is held back, b"" is returned, and it goes out in front of the next frame; H.264 loses
        its SEI before the first slice. In SFrame nothing of a frame stays clear, and with these two codecs the sealed
        frame comes as one NAL unit, which their packetisers carry (docs/sframe.md).

        :param metadata: SFrame: authenticated with the frame and not sent; the receiver must give the same.

        `bytes` is borrowed, any other buffer copied once; from 32 KiB on the GIL is released meanwhile.

        :raises UnknownKey: the sending key has not been set.
        :raises KeyExhausted: the sending key has no nonces left.
        :raises MalformedFrame: not a frame of the codec.
        :raises ValueError: metadata in another profile than sframe.
        """

    def stats(self) -> dict[str, int]:
        """Counters: frames, bytes, empty, held, malformed, unknown_key, key_exhausted, long_headers."""

@final
class Decryptor:
    """Opens the frames of one incoming track.

    :param codec: as for `Encryptor`; it must be the sender's.
    :param replay_window: frames remembered (0 to 65,536), so that none opens twice; 0 is off, None the profile's
        default: 1024 in SFrame, off in the trailer profiles, whose other implementations have no such check.
    :raises ValueError: for an unknown or unsupported codec, or a window out of range.
    """

    def __new__(cls, ring: KeyRing, codec: str | None = None, replay_window: int | None = None) -> Decryptor: ...
    def decrypt(self, sealed: Buffer, metadata: Buffer = b"") -> bytes:
        """Open one whole sealed frame, as it is after depacketising. An empty frame comes back empty.

        :param metadata: SFrame: what the sender gave with the frame.

        :raises MalformedFrame: not a sealed frame of the profile.
        :raises UnknownKey: no key under the key id that the frame names.
        :raises AuthenticationFailed: no key in the ratchet window opens it.
        :raises ReplayedFrame: it was opened before, or is too old to tell (only with a replay window).
        :raises ValueError: metadata in another profile than sframe.
        """

    @property
    def consecutive_failures(self) -> int:
        """How many frames in a row one key has failed to open; 0 after a frame that opened."""

    def stats(self) -> dict[str, int]:
        """Counters: frames, bytes, empty, malformed, unknown_key, authentication_failed, replayed, ratchets."""
