"""The native core: key rings, and the encryptors and decryptors that use them.

Everything here is thread-safe, knows neither transport nor event loop, and holds its keys in memory that is cleared
when they go. Nothing of it can be pickled or copied.
"""

from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, final, type_check_only

import numpy as np
from typing_extensions import Buffer

__all__ = [
    "CODECS",
    "PROFILES",
    "DataCryptor",
    "Decryptor",
    "DerivedKey",
    "Encryptor",
    "KeyRing",
    "Secret",
    "SenderBindings",
    "__version__",
    "codec_info",
    "profile_info",
]

__version__: str

CODECS: Final[tuple[str, ...]]
"""The names of all codecs that the core knows."""

PROFILES: Final[tuple[str, ...]]
"""The names of all profiles."""

# numpy's arrays are buffers, but say so to type checkers only from Python 3.12 on.
_Buffer: TypeAlias = Buffer | np.ndarray[Any, Any]

@type_check_only
class _BinaryArray(Protocol):
    """What a batch reads of a pyarrow array."""

    @property
    def type(self) -> Any: ...
    @property
    def null_count(self) -> int: ...
    @property
    def offset(self) -> int: ...
    def __len__(self) -> int: ...
    def buffers(self) -> list[Any]: ...

@type_check_only
class CodecInfo(TypedDict):
    """A row of the core's table of codecs."""

    name: str
    """The last part of the mime type, lower case."""
    kind: Literal["audio", "video"]
    """The first part of the mime type."""
    clock_rate: int
    """Ticks per second of the RTP clock."""
    clear_rule: Literal["audio", "vp8", "opaque", "annexb"] | None
    """How the trailer layout finds the clear bytes.

    The start of an audio packet, the frame tag of VP8, no bytes, or the NAL units up to the first slice. None means
    that only the profile sframe accepts the codec.
    """
    nal_header_len: int
    """Bytes of a NAL unit's header; 0 means that frames are not byte streams of NAL units."""

@type_check_only
class ProfileInfo(TypedDict):
    """A row of the core's table of profiles."""

    name: str
    layout: Literal["trailer", "sframe"]
    """Where the parts of a sealed frame lie (docs/formats/profiles.md)."""
    accepts_passphrases: bool
    """Whether there is a KDF for passphrases."""
    refused_codecs: tuple[str, ...]
    """The codecs for which the profile has no layout."""

def codec_info(codec: str, /) -> CodecInfo:
    """Return what the core knows of a codec.

    :raises ValueError: for a name that is not in `CODECS`.
    """

def profile_info(profile: str, /) -> ProfileInfo:
    """Return what the core knows of a profile.

    :raises ValueError: for a name that is not in `PROFILES`.
    """

@final
class Secret:
    """Key material on its way into a ring: opaque, cleared when it is dropped.

    :param key: a str is a passphrase (the profile's password KDF, over its UTF-8 bytes); bytes or any other buffer is
        random key material of at least 16 bytes (the profile's KDF for random keys).
    :raises ValueError: for an empty passphrase or a shorter key.
    """

    def __new__(cls, key: str | Buffer) -> Secret: ...
    def with_other_kdf(self) -> Secret:
        """Return the same bytes, a passphrase taken for a raw key or the reverse: for finding mix-ups."""

    def spellings(self) -> list[tuple[str, Secret]]:
        """Return how others may have spelt this key, the likelier ones first, and what makes the difference.

        Base64 or hex for bytes and the reverse, line ends and quotes, Unicode normal forms: 70 at the most.
        """

    @property
    def is_passphrase(self) -> bool:
        """Whether it was made from a str."""

@final
class DerivedKey:
    """A key of one ring, or a ratchet step, that is derived and not set yet. Made by the ring."""

    def install(self) -> bool:
        """Set the key, or take the step, without a derivation. Once.

        Return False if the key that a step follows was replaced or removed meanwhile: nothing has changed then.

        :raises ValueError: if it was installed before.
        """

@final
class KeyRing:
    """The keys of one sender, or of all senders where they share one.

    :param profile: a `Profile` or its value: which layout, KDF and salt.
    :param suite: a `CipherSuite`; None is the profile's default, AES_128_GCM_SHA256_128. SFrame has them all.
    :param allow_draft: whether suites 6 to 8, which are a draft's, may be used.
    :param key_size: bits of the AES key, another way to choose between AES-128 and AES-256 in the profile livekit. 256
        is for rooms of LiveKit's JavaScript clients alone, which have it as ``keySize``.
    :param key_ring_size: slots of the trailer profiles, 1 to 256: key ids run from 0 to one less. A KID has 64 bits.
    :param ratchet_window: steps that a receiver looks ahead, 0 (off) to 16. In the trailer profiles it tries them when
        a key does not open a frame; in SFrame the KID tells the step. Each step is derived once per key, however many
        frames are forged. Steps of a raw key are derived when a frame needs them (microseconds), those of a passphrase
        in the trailer profiles (milliseconds) only by `derive_ratchet_step`.
    :param ratchet_bits: SFrame: how many low bits of a KID count ratchet steps (RFC 9605, section 5.1); 0 is none.
        Both ends must have the same.
    :param shared: SFrame: the base keys are shared by many senders. Each ring then seals under a KID of its own, of
        which the low 8 bits are the key id (0 to 255) and the others are drawn at random when it first seals; receivers
        derive the key of whatever sender they meet. This is what `ExternalE2EEKeyProvider` uses.
    :param failure_tolerance: kept for whoever reports states: failures in a row beyond which a key counts as invalid;
        -1 for never. Opening is tried with every frame in any case.
    :param usage_limit: frames that one key may seal here, 1 to 2**32, which None stands for; then `KeyExhausted`.
    :param allow_export: whether `export_key` gives key material back. Off, nothing does.
    :param fallback: a ring of the same profile and suite whose keys are used while this one has none: a participant's
        ring, and the one with the room's shared key. What is asked about keys is then answered by it; setting, choosing
        and removing concern this ring. At most 16 rings stand behind each other.
    :raises ValueError: for an unknown profile or suite, a number out of its range, an option that is not the profile's.
    """

    def __new__(
        cls,
        profile: str,
        *,
        suite: int | None = None,
        allow_draft: bool = False,
        key_size: int | None = None,
        key_ring_size: int = 16,
        ratchet_window: int = 0,
        ratchet_bits: int = 0,
        shared: bool = False,
        failure_tolerance: int = -1,
        usage_limit: int | None = None,
        allow_export: bool = False,
        fallback: KeyRing | None = None,
    ) -> KeyRing: ...
    def set_passphrase(self, passphrase: str | Buffer, key_id: int = 0) -> None:
        """Set or replace a key from a passphrase, through the profile's password KDF.

        PBKDF2-HMAC-SHA256 with 100,000 rounds in the trailer profiles: some 12 ms, without the GIL. Bytes are taken as
        they are: this is how LiveKit's native SDKs treat byte keys unless they are told otherwise. RFC 9605 has no
        password KDF: for SFrame the same PBKDF2, with a salt of frameseal's own, gives a base key of 32 bytes.

        :raises ValueError: for an empty passphrase, a key id outside the ring, or a profile without a password KDF
            (jitsi).
        """

    def set_key(self, key: Buffer, key_id: int = 0, *, counter: int | None = None) -> None:
        """Set or replace a key from random key material of at least 16 bytes, through the profile's KDF for such keys.

        HKDF-SHA256 in the trailer profiles, as LiveKit's JavaScript client treats byte keys. In SFrame it is the base
        key of the KID *key_id* (RFC 9605, section 4.4.2). One ring of the process seals under both: set again in that
        ring, the key goes on counting. In another ring, or in a forked child, sealing raises `KeyExhausted`
        (docs/formats/sframe.md).

        :param counter: SFrame: go on sealing from this CTR, which was never used under this base key and KID, here or
            anywhere. For senders that keep their counter over a restart, and for a second ring or a forked child.
        :raises ValueError: for a shorter key, a key id outside the ring, a counter where the profile has none, or one
            that this process has used.
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
        :param retain: how many epochs before this one still open frames, 0 to 255; older ones are erased.
        :raises ValueError: for fields that do not fit 64 bits, or a profile other than sframe.
        """

    def set_secret(self, secret: Secret, key_id: int = 0) -> None:
        """Set or replace a key from a `Secret`.

        :raises ValueError: for a key id outside the ring, or a passphrase where the profile has no password KDF.
        """

    def derive_key(self, secret: Secret, key_id: int = 0) -> DerivedKey:
        """Derive what `set_secret` sets, without setting it: for whoever sets keys under a lock.

        :raises ValueError: as `set_secret`.
        """

    def derive_ratchet(self, key_id: int = 0) -> DerivedKey:
        """Derive the step that `ratchet` takes, without taking it.

        :raises ValueError: as `ratchet`.
        """

    def ratchet(self, key_id: int = 0) -> int:
        """Move a key one step forward; return the id that it has then.

        Trailer profiles (LiveKit's ``ratchetKey``): in place, so the id is the same. No boundary between members:
        whoever has a later step's material can derive the key of the step before it.

        SFrame (RFC 9605, section 5.1): the KID of the next step, with which the ring seals if it did with this one. The
        step before it still opens frames, until the step after.

        :raises ValueError: for a key id that has no key, or an SFrame ring without ``ratchet_bits``.
        """

    def derive_ratchet_step(self, key_id: int) -> bool:
        """Derive one more step ahead of a key, for frames to come; True while the ratchet window has further ones.

        For a passphrase of a trailer profile. Its steps take milliseconds (two password KDFs each, some 25 ms) and are
        therefore never derived where frames are opened: call this from a thread of yours, for the key ids in
        `pending_ratchets`, or early, right after setting a key. The GIL is released, and one step is derived at a time,
        whichever threads call.

        :raises ValueError: for a key id that has no key.
        """

    @property
    def pending_ratchets(self) -> list[int]:
        """Key ids under which a frame failed while steps within the ratchet window were still to be derived.

        `derive_ratchet_step` is due for them. Empty at once when the steps are there, so a forger cannot refill it.
        """

    @property
    def ratcheted_key_id(self) -> int | None:
        """The id of the key to which a sender that had ratcheted was followed last; None: none was yet."""

    def remove_key(self, key_id: int) -> None:
        """Forget every key under *key_id*, which clears it; without effect where there is none."""

    def frames_sealed(self, key_id: int = 0) -> int:
        """How many frames and data packets this ring has sealed under the key that has this id now.

        A sealing that was thrown away counts as well (``redrawn`` in `Encryptor.stats`): it has used a nonce. Setting
        the same key again does not reset it, nor does removing it. What others seal with the same key is not in
        it: where a key of a trailer profile is shared, divide the limits by the number of senders. In SFrame senders
        never share one: with `set_epoch` it is the key of this side's KID. With ``shared=True`` the frames under every
        KID that this ring has drawn count together.

        :raises ValueError: for a key id that has no key.
        """

    @property
    def usage_limit(self) -> int:
        """Frames at which a key is exhausted: as given at construction, or 2**32."""

    @property
    def usage_warning(self) -> int:
        """Frames from which on a new key is due: 2**24.5 (RFC 8446, section 5.5), or 3/4 of a lower limit."""

    def fingerprint(self, key_id: int | None = None) -> bytes:
        """Return 32 bytes that the holders of a key can compare, to see that they have the same; None: the sending key.

        It is of the AES key in the trailer profiles, and in SFrame of the base key or epoch secret, the suite and the
        key id, so that all who hold that secret have the same (docs/guide/verification.md). It tells nothing about the
        key, though a passphrase that can be guessed can be checked against it. It covers one key only: people compare
        `frameseal.keys.fingerprint.short_code`.

        :raises ValueError: for a key id that has no key.
        """

    def fingerprints(self) -> list[tuple[int, bytes]]:
        """Return (key id, `fingerprint`) of every key that may open a frame, in ascending order, all of one moment.

        While the ring turns to its fallback, these are the fallback's keys. `frameseal.keys.fingerprint.short_code`
        covers them all.
        """

    def export_key(self, key_id: int | None = None) -> bytes:
        """Return the material of a key as it is now; None: the sending key. Only for a ring made with ``allow_export``.

        It is what goes into the KDF: the passphrase or raw key itself before any ratchet step, 32 bytes after one.

        :raises PermissionError: the ring was made without it.
        :raises ValueError: for a key id that has no key.
        """

    @property
    def can_encrypt(self) -> bool:
        """Whether the sending key is there."""

    @property
    def generation(self) -> int:
        """A number that is another one after every change of the keys, those of the fallback included."""

    @property
    def key_ids(self) -> list[int]:
        """The key ids that have a key, ascending; under `set_epoch` the low bits of the epochs."""

    @property
    def sending_key_id(self) -> int:
        """The key id that this ring's encryptors use: at first that of the first key set. Its newest key seals.

        Setting it to an id without a key is allowed; encryptors raise `UnknownKey` until the key is there.

        :raises ValueError: for a key id outside the ring.
        """

    @sending_key_id.setter
    def sending_key_id(self, value: int, /) -> None: ...
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
    def encrypt(self, frame: _Buffer, metadata: _Buffer = b"") -> bytes:
        """Seal one whole encoded frame, as it is before packetising; return it as it is to be packetised.

        In the trailer profiles an empty frame comes back empty. An H.264 or H.265 access unit without a slice
        (parameter sets alone) is held back there: b"" is returned, and it goes out in front of the next frame. SEI
        before the first slice is left out, and any other unit there that may carry a picture makes the frame malformed
        (docs/formats/profiles.md).

        In SFrame nothing of a frame stays clear, and an empty one is sealed like any other. The sealed frame of these
        two codecs comes as one NAL unit, which their packetisers carry (docs/formats/sframe.md).

        :param metadata: SFrame: authenticated with the frame and not sent; the receiver must give the same.

        `bytes` is borrowed, any other buffer copied once; from 64 KiB on the GIL is released meanwhile.

        :raises UnknownKey: the sending key has not been set.
        :raises KeyExhausted: the sending key has no nonces left.
        :raises MalformedFrame: not a frame of the codec, or one that would show a picture.
        :raises ValueError: metadata in another profile than sframe.
        """

    def encrypt_batch(
        self,
        data: _Buffer | _BinaryArray,
        offsets: _Buffer | None = None,
        threads: int | None = None,
        *,
        out: _Buffer | None = None,
    ) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]]]:
        """Seal many frames of the track in one call, without the GIL, in order.

        :param data: uint8[n], contiguous: the frames, one behind the other. Not copied: do not write to it meanwhile.
            Or a pyarrow array of binary or large_binary without nulls, which has its offsets with it.
        :param offsets: int64[m + 1] (or int32), ascending: frame *i* is ``data[offsets[i]:offsets[i + 1]]``.
        :param threads: the most to use, each for 64 frames or more; None: as many as there are cores and as pay.
        :param out: uint8, to be written to instead of a new array. In SFrame it needs room for the longest headers.
        :return: the sealed frames and their offsets, as `encrypt` would have given them one by one. The first is a view
            of *out* where that was given.
        :raises UnknownKey, KeyExhausted, MalformedFrame: as `encrypt`, for the first frame that fails, which a note on
            the exception names. Nothing of the batch may be sent then; *out* is cleared.
        :raises ValueError: offsets that do not fit, *threads* below 1, *out* too short (the message says how much is
            needed) or overlapping *data*.
        :raises TypeError: another type, or not contiguous.
        """

    def stats(self) -> dict[str, int]:
        """Return the counters, and how far the ring's sending key is used up.

        frames, bytes, empty, held, malformed, unknown_key, key_exhausted of this track; long_headers: frames that
        LiveKit's native SDKs up to libwebrtc m144 cannot open (docs/formats/profiles.md). redrawn: sealings of
        H.264 and H.265 frames thrown away, since libwebrtc would have read another slice header from them. misread:
        frames that were sent although it does, after 128 draws: it may drop these. key_frames: frames that the ring
        has sealed under its sending key so far, over all tracks, and sealings thrown away (`KeyRing.frames_sealed`).
        key_limit: at how many that key is exhausted. key_warning: from how many on a new key is due. These three are 0
        when there is no sending key.
        """

@final
class SenderBindings:
    """Remembers which participant each sender's key belongs to: the one for whom it opened a frame first.

    One for all decryptors of a call. Thread-safe. It remembers 4,096 keys; the oldest goes first, those of participants
    who left before all others.
    """

    def __new__(cls) -> SenderBindings: ...
    def release(self, participant_id: str) -> None:
        """Note that a participant has left: a participant who has no key yet may take up theirs, under any id."""

@final
class Decryptor:
    """Opens the frames of one incoming track.

    :param codec: as for `Encryptor`; it must be the sender's.
    :param replay_window: frames remembered (0 to 65,536), so that none opens twice; 0 is off, None the profile's
        default: 1024 in SFrame, off in the trailer profiles, whose other implementations have no such check.
    :param sif_trailer: what a LiveKit server ends the blank frames with that it puts into paused tracks, in the clear
        (`JoinResponse.sif_trailer`), at least 8 bytes. None: no such frame passes. Otherwise the blank frames of the
        codec that such servers send do (Opus silence, G.711 silence, 8x8 VP8, 2x2 H.264), at most 100 without a sealed
        frame between them; nothing else in the clear does. It may be set later, as the property of this name.
    :param senders: SFrame: which participant each sender's key belongs to, for all decryptors of a call. Then a frame
        opens only if its key belongs to *participant_id*, or to nobody yet, and if this ring has not sealed with it.
    :param participant_id: who sends this track; goes with *senders*.
    :raises ValueError: for an unknown or unsupported codec, a window out of range, a short trailer, or *senders* in
        another profile than sframe.
    """

    def __new__(
        cls,
        ring: KeyRing,
        codec: str | None = None,
        replay_window: int | None = None,
        *,
        sif_trailer: Buffer | None = None,
        senders: SenderBindings | None = None,
        participant_id: str | None = None,
    ) -> Decryptor: ...
    def decrypt(self, sealed: _Buffer, metadata: _Buffer = b"") -> bytes:
        """Open one whole sealed frame, as it is after depacketising.

        In the trailer profiles an empty frame comes back empty. In SFrame it is malformed, and a frame that was sealed
        empty opens to b"".

        With a `sif_trailer`, a blank frame that the server put in comes back without its trailer. Nothing about it is
        authentic: it is no success of decryption, and `sif_frames` has grown. A sealed frame to which a jitter buffer
        has joined blank ones, since they had its RTP timestamp, opens without them.

        :param metadata: SFrame: what the sender gave with the frame.

        :raises MalformedFrame: not a sealed frame of the profile.
        :raises UnknownKey: no key under the key id that the frame names.
        :raises AuthenticationFailed: no key in the ratchet window opens it.
        :raises ReplayedFrame: it was opened before, or is too old to tell (only with a replay window).
        :raises SenderMismatch: it is authentic, and from another participant (only with *senders*).
        :raises ValueError: metadata in another profile than sframe.
        """

    def decrypt_batch(
        self,
        data: _Buffer | _BinaryArray,
        offsets: _Buffer | None = None,
        threads: int | None = None,
        *,
        out: _Buffer | None = None,
    ) -> tuple[
        np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.bool_]]
    ]:
        """Open many frames of the track in one call, without the GIL, in order. Parameters as for `encrypt_batch`.

        Return the frames, their offsets, and for each whether it opened: one that did not is empty, and the others do
        not notice. A server's injected frames do not pass in a batch; from sealed ones that have them joined to them
        they are cut off.

        :raises ValueError, TypeError: as there.
        """

    @property
    def consecutive_failures(self) -> int:
        """How many frames in a row one key has failed to open; 0 after a frame that opened."""

    @property
    def sif_frames(self) -> int:
        """How many frames that a server put in have passed (see `sif_trailer`)."""

    @property
    def sif_trailer(self) -> bytes | None:
        """The trailer of frames that a server puts in; None lets none of them pass. May be set at any time.

        :raises ValueError: for fewer than 8 bytes. The one before stays.
        """

    @sif_trailer.setter
    def sif_trailer(self, trailer: Buffer | None) -> None: ...
    def without_sif_frames(self, frame: _Buffer) -> bytes:
        """Return a frame without the blank ones that were joined to it (see `decrypt`). Opens and counts nothing."""

    def key_id_of(self, frame: _Buffer) -> int | None:
        """Return the key id that a sealed frame names. Returns None if it is no sealed frame of the profile.

        It looks no key up and counts nothing. The key id is not authenticated unless the frame has opened.
        """

    @staticmethod
    def holds_blank(profile: str, codec: str | None, frame: _Buffer) -> bool:
        """Return whether a frame contains a blank frame, and behind it bytes that may be a trailer.

        Blank are the frames of the codec that a server of the profile injects. It is a hint for receivers without a
        `sif_trailer`: anybody can make such a frame.

        :raises ValueError: for an unknown profile or codec.
        """

    def stats(self) -> dict[str, int]:
        """Return the counters.

        frames, bytes, empty, malformed, unknown_key, authentication_failed, replayed, ratchets, sif_frames
        (frames that a server put in and that passed), sif_frames_refused (frames with the server's trailer that did not
        pass), sif_frames_cut (frames from which a server's frames were cut off).
        """

@final
class DataCryptor:
    """Seals and opens messages of a data channel with the keys of the media. See docs/guide/data-packets.md.

    The trailer profiles have LiveKit's packets; a ring of the profile sframe seals plain SFrames, without codec or
    envelope, in one piece only.

    :param bind_context: False is LiveKit's format, without AAD, or an SFrame without metadata: whoever forwards a
        packet can give it to others, or in another's name. True is frameseal to frameseal: a packet opens in the
        context only in which it was sealed.
    :param replay_window: packets remembered (0 to 65,536), so that none opens twice; 0 is off, None 1,024. In SFrame it
        is the counters of a sender, most of which go to the media, and None is 16,384.
    :raises ValueError: for a window out of range.
    """

    def __new__(cls, ring: KeyRing, bind_context: bool = False, *, replay_window: int | None = None) -> DataCryptor: ...
    @property
    def bind_context(self) -> bool:
        """As given at construction."""

    def encrypt(self, payload: Buffer, context: Buffer = b"") -> tuple[bytes, int, bytes]:
        """Seal a message with the sending key: IV (12 bytes), key index, ciphertext with its 16-byte tag.

        In LiveKit's `EncryptedPacket` these are iv, key_index and encrypted_value.

        :raises UnknownKey: the sending key has not been set.
        :raises KeyExhausted: the sending key has reached its limit.
        :raises ValueError: a context without `bind_context`, or the profile is sframe.
        """

    def decrypt(self, iv: Buffer, key_index: int, ciphertext: Buffer, context: Buffer = b"") -> bytes:
        """Open a message.

        :raises MalformedFrame: the IV has not 12 bytes, or the ciphertext less than 16.
        :raises UnknownKey: no key under the key index.
        :raises AuthenticationFailed: no key in the ratchet window opens it, in this context.
        :raises ReplayedFrame: it was opened before.
        :raises ValueError: a context without `bind_context`, or the profile is sframe.
        """

    def encrypt_packet(self, payload: Buffer, context: Buffer = b"") -> bytes:
        """Seal a message into one packet, for a channel that carries nothing beside it.

        31 bytes longer in the trailer profiles, 17 to 33 in SFrame with the default suite: its header and its tag.
        Raises as `seal` does, whatever the profile.
        """

    def decrypt_packet(self, packet: Buffer, context: Buffer = b"") -> bytes:
        """Open a packet of `encrypt_packet`. Raises as `open` does, whatever the profile."""

    def stats(self) -> dict[str, int]:
        """Return the counters.

        sealed, not_sealed, opened, malformed, unknown_key, authentication_failed, replayed.
        """
