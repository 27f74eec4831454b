"""The native core: key rings, and the encryptors and decryptors that use them.

All classes are thread-safe and use neither transport nor event loop. Keys lie in memory that is cleared when they are
dropped. No object can be pickled or copied.
"""

from __future__ import annotations  # the reference executes this file

from collections.abc import Sequence
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
    "SealedPayloads",
    "Secret",
    "SenderBindings",
    "__version__",
    "codec_info",
    "join_payloads",
    "profile_info",
    "replace_frame",
]

__version__: str

CODECS: Final[tuple[str, ...]]
"""The names of all codecs that the core knows."""

PROFILES: Final[tuple[str, ...]]
"""The names of all profiles."""

# The arrays of numpy are buffers, but declare it to type checkers only from Python 3.12 on.
_Buffer: TypeAlias = Buffer | np.ndarray[Any, Any]

@type_check_only
class _BinaryArray(Protocol):
    """The members of a pyarrow array that a batch reads."""

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
    """The rule by which the layouts other than SFrame find the clear bytes.

    audio is the start of a packet, vp8 the frame tag, and opaque no bytes, but the start of the header in stream.
    annexb is the NAL units up to the first slice. None means that only the profile sframe accepts the codec.
    """
    nal_header_len: int
    """Bytes of a NAL unit's header. 0 means that frames are not byte streams of NAL units."""
    payload_format: Literal["whole", "vp8", "h264"] | None
    """How RTP payloads carry the frames. None means that the core does not know it.

    whole is one payload per frame (RFC 7587; RFC 3551, section 4.5), vp8 is RFC 7741, and h264 is RFC 6184 in
    packetization mode 1.
    """

@type_check_only
class ProfileInfo(TypedDict):
    """A row of the core's table of profiles."""

    name: str
    layout: Literal["trailer", "footer", "sframe"]
    """The order of the parts of a sealed frame (docs/formats/profiles.md)."""
    accepts_passphrases: bool
    """True if the profile has a KDF for passphrases."""
    refused_codecs: tuple[str, ...]
    """The codecs for which the profile has no layout."""

def codec_info(codec: str, /) -> CodecInfo:
    """Return the row of a codec in the core's table.

    :raises ValueError: for a name that is not in `CODECS`.
    """

def profile_info(profile: str, /) -> ProfileInfo:
    """Return the row of a profile in the core's table.

    :raises ValueError: for a name that is not in `PROFILES`.
    """

def join_payloads(codec: str, payloads: list[bytes], /) -> bytes:
    """Return the frame that RTP payloads carry. In H.264 each NAL unit has a start code of four bytes.

    :raises ValueError: for payloads that do not carry one frame, or a codec without a known payload format.
    :raises TypeError: for an object that is no list of bytes.
    """

def replace_frame(codec: str, payloads: list[bytes], frame: _Buffer, /) -> list[bytes]:
    """Return the payloads of *frame*, at most 1,300 bytes each, in place of the frame that *payloads* carry.

    In VP8 they have the descriptor of the first of *payloads* (RFC 7741, section 4.2).

    :raises ValueError: as `join_payloads` does, or for a frame that payloads cannot carry.
    :raises TypeError: for an object that is no list of bytes.
    """

@final
class Secret:
    """Opaque key material for a ring. Its memory is cleared when it is dropped.

    :param key: A str is a passphrase, whose UTF-8 bytes the password KDF of the profile derives. bytes or any other
        buffer of at least 16 bytes is a raw key, for the profile's KDF for raw keys.
    :raises ValueError: for an empty passphrase, a lone surrogate or a raw key of fewer than 16 bytes.
    :raises TypeError: for an object that is neither a str nor a buffer of bytes.
    """

    def __new__(cls, key: str | Buffer) -> Secret: ...
    def with_other_kdf(self) -> Secret:
        """Return the same bytes as the other kind, to find mix-ups: a passphrase as a raw key or the reverse."""

    def spellings(self) -> list[tuple[str, Secret]]:
        """Return at most 70 other spellings of this key, each with a description. The likelier spellings are first.

        They are Base64 and hex, encoded or decoded, line ends, quotes, and Unicode normal forms.
        """

    @property
    def is_passphrase(self) -> bool:
        """True if the secret is a passphrase."""

@final
class DerivedKey:
    """A key or a ratchet step of one ring that is derived, but not set yet. The ring creates it."""

    def install(self) -> bool:
        """Set the key, or install the step, without a derivation.

        Return False and change nothing if the key before the step was replaced or removed meanwhile.

        :raises ValueError: for a second call.
        """

@final
class KeyRing:
    """The keys of one sender, or of all senders that share a key.

    :param profile: A `Profile` or its value. It determines layout, KDF and salt.
    :param suite: A `CipherSuite`. None means the default of every profile, AES_128_GCM_SHA256_128. SFrame supports all
        suites.
    :param allow_draft: True allows suites 6 to 8, which draft-barnes-sframe-iana-256 specifies.
    :param key_size: Bits of the AES key, another way to choose between AES-128 and AES-256 in the profile livekit. 256
        is for rooms of LiveKit's JavaScript clients only, which call it ``keySize``. In the profile stream None accepts
        keys of both sizes.
    :param key_ring_size: Slots of the trailer profiles, 1 to 256. Key ids run from 0 to ``key_ring_size - 1``. In the
        profile stream they run from 0 to 255. A KID of SFrame has 64 bits.
    :param ratchet_window: Ratchet steps that a receiver looks ahead, 0 (off) to 16. In the trailer profiles it tries
        the steps when a key does not open a frame. In SFrame the KID names the step. Each step is derived once per key,
        however many frames are forged. Steps of a raw key are derived on the frame path, in microseconds. Steps of a
        passphrase take milliseconds in the trailer profiles, so only `derive_ratchet_step` derives them. The profile
        stream has no ratchet and accepts only 0.
    :param ratchet_bits: SFrame: low bits of a KID that count ratchet steps, 0 (no ratchet) to 63 (RFC 9605, section
        5.1). Both ends must use the same number.
    :param shared: SFrame: True if many senders share the base keys. Each ring then seals under its own KID. The low 8
        bits of the KID are the key id (0 to 255). The other bits are drawn at random when the ring first seals.
        Receivers derive the key of each sender. `ExternalE2EEKeyProvider` uses this.
    :param failure_tolerance: Consecutive failures beyond which a key counts as invalid, -1 (never) or at least 0. The
        ring only stores it for code that reports states. Every frame is tried in any case.
    :param usage_limit: Frames that one key may seal in this ring, 1 to 2**32. None means 2**32. Then sealing raises
        `KeyExhausted`.
    :param allow_export: True lets `export_key` return key material.
    :param fallback: A ring of the same profile and suite whose keys are used while this ring has none. An example is
        the ring of a room's shared key behind a participant's ring. Queries about keys then return its answers.
        Setting, choosing and removing keys concern this ring. A chain has at most 16 rings behind the first.
    :raises ValueError: for an unknown profile or suite, a number out of its range, or an option that the profile does
        not support.
    :raises TypeError: for an argument of another type.
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
        """Set or replace a key from a passphrase, with the password KDF of the profile.

        The trailer profiles use PBKDF2-HMAC-SHA256 with 100,000 iterations, about 12 ms, without the GIL. Bytes are
        used unchanged, as LiveKit's native SDKs do with byte keys by default. RFC 9605 defines no password KDF. For
        SFrame the same PBKDF2, with a salt specific to frameseal, derives a base key of 32 bytes.

        :raises ValueError: for an empty passphrase, a key id outside the ring, or a profile without a password KDF
            (jitsi, nextcloud, stream).
        """

    def set_key(self, key: Buffer, key_id: int = 0, *, counter: int | None = None) -> None:
        """Set or replace a key from at least 16 bytes of random key material, with the KDF for raw keys.

        The trailer profiles use HKDF-SHA256, as LiveKit's JavaScript client does with byte keys. In SFrame *key* is the
        base key of the KID *key_id* (RFC 9605, section 4.4.2). Only one ring of the process seals under a pair of base
        key and KID. Set again in that ring, the key continues its counter. In another ring, or in a forked child,
        sealing raises `KeyExhausted` (docs/formats/sframe.md). In the profile stream *key* is the AES key, of 16 or 32
        bytes.

        :param counter: SFrame: the CTR from which sealing continues. It must never have been used under this base key
            and KID, in any process. It serves senders that store their counter over a restart, a second ring, and a
            forked child. None means that the counter starts at 0, or continues within this process.
        :raises ValueError: for a key of another length, a key id outside the ring, a counter in a ring without
            counters, or a counter that this process has used.
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
        """Set the secret of an MLS epoch and seal with it; return the KID of this member (RFC 9605, section 5.2).

        :param epoch: The number of the epoch, of which the KID holds the low *epoch_bits* bits.
        :param exported_secret: ``MLS-Exporter("SFrame 1.0 Base Key", "", Nk)``, from which the keys of all members
            follow.
        :param epoch_bits: The number of bits for the epoch (E). An epoch replaces an epoch with the same low bits.
        :param sender_bits: The number of bits for the index (S): the smallest number with group size <= 2^S.
        :param sender_index: The index of this member in the group.
        :param context: Distinguishes uncoordinated streams of one sender. 0 results in the shortest KID.
        :param retain: The number of earlier epochs that still open frames, 0 to 255. Older epochs are erased.
        :raises ValueError: for a short secret, fields that do not fit into 64 bits, *retain* out of its range, or a
            ring that holds no epochs.
        """

    def set_secret(self, secret: Secret, key_id: int = 0) -> None:
        """Set or replace a key from a `Secret`.

        :raises ValueError: for a key id outside the ring, or a passphrase in a profile without a password KDF.
        """

    def derive_key(self, secret: Secret, key_id: int = 0) -> DerivedKey:
        """Derive the key that `set_secret` would set, and do not set it. It serves callers that set keys under a lock.

        :raises ValueError: as `set_secret` does.
        """

    def derive_ratchet(self, key_id: int = 0) -> DerivedKey:
        """Derive the step that `ratchet` would install, and do not install it.

        :raises ValueError: as `ratchet` does.
        """

    def ratchet(self, key_id: int = 0) -> int:
        """Move a key one step forward; return its new id.

        In the trailer profiles (LiveKit's ``ratchetKey``) the id stays the same. A step does not lock out a member who
        leaves: the material of a later step reveals the key of the step before it.

        In SFrame (RFC 9605, section 5.1) the id is the KID of the next step. A ring that seals with this key then seals
        with the next step. The previous step still opens frames, until the step after.

        :raises ValueError: for a key id without a key, an SFrame ring without ``ratchet_bits``, or the profile stream.
        """

    def derive_ratchet_step(self, key_id: int) -> bool:
        """Derive one more step ahead of a key; return whether the ratchet window has further steps.

        It serves passphrases of the trailer profiles. Their steps take about 25 ms (two runs of the password KDF).
        They are never derived on the frame path. Call this from a background thread for the key ids in
        `pending_ratchets`, or right after setting a key. The GIL is released. Calls from several threads run one at a
        time.

        :raises ValueError: for a key id without a key.
        """

    @property
    def pending_ratchets(self) -> list[int]:
        """Key ids under which a frame failed while steps within the ratchet window were not derived.

        `derive_ratchet_step` is due for them. A key id leaves the list for good when all its steps are derived.
        Forged frames cannot bring it back.
        """

    @property
    def ratcheted_key_id(self) -> int | None:
        """The id of the last key that followed the ratchet of a sender. None means that no key has followed one."""

    def remove_key(self, key_id: int) -> None:
        """Remove every key under *key_id* and clear its memory. If there is none, the call has no effect."""

    def frames_sealed(self, key_id: int = 0) -> int:
        """Return how many frames and data packets this ring has sealed with the key under *key_id*.

        A discarded sealing counts too (``redrawn`` in `EncryptorStats`), because it has used a nonce. Removing the key
        or setting it again does not reset the count.

        The count leaves out the frames that others seal with the same key. If participants share a key of a trailer
        profile, divide the limits by the number of senders. In SFrame no two senders share a key: after `set_epoch` the
        count covers the key of this member's KID. With ``shared=True`` the frames under all KIDs that this ring has
        drawn count together.

        :raises ValueError: for a key id without a key.
        """

    @property
    def usage_limit(self) -> int:
        """The number of frames at which a key is exhausted."""

    @property
    def usage_warning(self) -> int:
        """The number of frames from which a new key is due: 2**24.5 (RFC 8446, section 5.5) or 3/4 of a lower limit."""

    def fingerprint(self, key_id: int | None = None) -> bytes:
        """Return a fingerprint of 32 bytes, which the holders of a key compare. None means the sending key.

        It covers the AES key. In SFrame it covers the base key or epoch secret, the suite and the key id. All holders
        of that secret compute the same (docs/guide/verification.md). It does not reveal the key, but guesses of a weak
        passphrase can be checked against it. It covers one key only. For people there is
        `frameseal.keys.fingerprint.short_code`.

        :raises ValueError: for a key id without a key.
        """

    def fingerprints(self) -> list[tuple[int, bytes]]:
        """Return a snapshot of (key id, `fingerprint`) of every key that may open a frame, in ascending order.

        While the ring uses its fallback, these are the keys of the fallback. `frameseal.keys.fingerprint.short_code`
        covers all of them.
        """

    def export_key(self, key_id: int | None = None) -> bytes:
        """Return the current material of a key. None means the sending key. The ring must allow export.

        It is the input of the KDF: the passphrase or raw key itself, or 32 bytes after a ratchet step of a trailer
        profile. In SFrame it is the base key. After a step it has as many bytes as the hash of the suite.

        :raises PermissionError: for a ring that was made without ``allow_export``.
        :raises ValueError: for a key id without a key.
        """

    @property
    def can_encrypt(self) -> bool:
        """True if the sending key is set."""

    @property
    def generation(self) -> int:
        """A number that changes with every change of the keys, including the keys of the fallback."""

    @property
    def key_ids(self) -> list[int]:
        """The ids of all keys, ascending. The id of an MLS epoch is its low bits."""

    @property
    def sending_key_id(self) -> int:
        """The id of the sending key, at first the id of the first key set. If several keys have it, the newest seals.

        An id without a key may be set. Encryptors then raise `UnknownKey` until the key is set.

        :raises ValueError: for a key id outside the ring.
        """

    @sending_key_id.setter
    def sending_key_id(self, value: int, /) -> None: ...
    @property
    def profile(self) -> str:
        """The name of the profile."""

    @property
    def suite(self) -> int:
        """The number of the cipher suite (`CipherSuite`)."""

    @property
    def failure_tolerance(self) -> int:
        """The argument of the constructor."""

@type_check_only
class EncryptorStats(TypedDict):
    """The counters of an `Encryptor`: totals since it was made, and the usage of the sending key."""

    frames: int
    """Frames sealed and returned. A discarded sealing does not count here."""
    bytes: int
    """Bytes of these frames before sealing."""
    empty: int
    """Empty frames, which pass unchanged in all profiles but sframe."""
    held: int
    """Access units without a slice, which were held back and sent with the next frame."""
    malformed: int
    """Frames that raised `MalformedFrame`."""
    unknown_key: int
    """Frames that raised `UnknownKey`."""
    key_exhausted: int
    """Frames that raised `KeyExhausted`."""
    long_headers: int
    """Frames that LiveKit's native SDKs up to libwebrtc m144 cannot open (docs/formats/profiles.md)."""
    redrawn: int
    """Discarded sealings of H.264 and H.265 frames: libwebrtc would have read another slice header from them."""
    misread: int
    """Frames whose slice header libwebrtc still misreads after 128 draws. It may drop them."""
    key_frames: int
    """Sealings under the sending key, over all tracks and including discarded ones (`KeyRing.frames_sealed`).

    It is 0 without a sending key, like `key_limit` and `key_warning`.
    """
    key_limit: int
    """The value of `key_frames` at which the sending key is exhausted."""
    key_warning: int
    """The value of `key_frames` from which a new key is due."""

@type_check_only
class DecryptorStats(TypedDict):
    """The counters of a `Decryptor`: totals since it was made."""

    frames: int
    """Frames opened."""
    bytes: int
    """Bytes of these frames after opening."""
    empty: int
    """Empty frames, which pass unchanged in all profiles but sframe."""
    malformed: int
    """Frames that raised `MalformedFrame`."""
    unknown_key: int
    """Frames that raised `UnknownKey`."""
    authentication_failed: int
    """Frames that raised `AuthenticationFailed`."""
    replayed: int
    """Frames that raised `ReplayedFrame`."""
    sender_mismatch: int
    """Frames that raised `SenderMismatch`."""
    ratchets: int
    """Ratchet steps by which received frames have advanced keys."""
    sif_frames: int
    """Blank frames of a server that passed (see `Decryptor.sif_trailer`)."""
    sif_frames_refused: int
    """Frames with the trailer of the server that did not pass: not blank, or too many in a row."""
    sif_frames_cut: int
    """Sealed frames from which joined blank frames were cut off."""

@type_check_only
class DataStats(TypedDict):
    """The counters of a `DataCryptor`: totals since it was made."""

    sealed: int
    """Messages sealed."""
    not_sealed: int
    """Messages that raised `UnknownKey` or `KeyExhausted` when they were sealed."""
    opened: int
    """Messages opened."""
    malformed: int
    """Messages that raised `MalformedFrame`."""
    unknown_key: int
    """Messages that raised `UnknownKey` when they were opened."""
    authentication_failed: int
    """Messages that raised `AuthenticationFailed`."""
    replayed: int
    """Messages that raised `ReplayedFrame`."""

@final
class Encryptor:
    """Seals the frames of one outgoing track with the current sending key of the ring.

    :param codec: A name in `CODECS`. None leaves no bytes clear.
    :raises ValueError: for an unknown codec, or a codec for which the profile has no layout (AV1 in all profiles
        but sframe).
    """

    def __new__(cls, ring: KeyRing, codec: str | None = None) -> Encryptor: ...
    def encrypt(self, frame: _Buffer, metadata: _Buffer = b"") -> bytes:
        """Seal one whole encoded frame, before packetising; return the sealed frame for the packetiser.

        In all profiles but sframe an empty frame is returned empty. An H.264 or H.265 access unit without a slice
        (parameter sets alone) is held back: the result is b"", and the unit is sent in front of the next frame. SEI
        before the first slice is dropped. Any other unit there that may carry a picture makes the frame malformed
        (docs/formats/profiles.md).

        In SFrame no bytes stay clear, and an empty frame is sealed like any other. A sealed frame of H.264 or H.265 is
        one NAL unit, which packetisers carry (docs/formats/sframe.md).

        A `bytes` object is borrowed, any other buffer is copied once. From 64 KiB on the GIL is released.

        :param metadata: SFrame: authenticated with the frame and not sent. The receiver must pass the same bytes (RFC
            9605, section 4.4.3).
        :raises UnknownKey: if the sending key is not set.
        :raises KeyExhausted: if the sending key has no nonce left.
        :raises MalformedFrame: if the bytes are not a frame of the codec, or would show a picture in the clear.
        :raises ValueError: for metadata in another profile than sframe.
        """

    def encrypt_payloads(self, payloads: list[bytes], sealed: SealedPayloads, metadata: _Buffer = b"") -> list[bytes]:
        """Seal the frame that RTP payloads carry; return the payloads of the sealed frame.

        The result is that of `join_payloads`, `encrypt` and `replace_frame`, in one call. An empty frame has no
        payloads.

        :param payloads: The payloads of one frame, in order, as the encoder of a stack returns them.
        :param sealed: Holds the returned payloads from now on, and forgets the oldest beyond its capacity.
        :param metadata: as for `encrypt`.
        :raises UnknownKey, KeyExhausted, MalformedFrame: as `encrypt` does.
        :raises ValueError: for payloads that do not carry one frame, a codec without a known payload format, or
            metadata in another profile than sframe.
        :raises TypeError: for an object that is no list of bytes.
        """

    def encrypt_batch(
        self,
        data: _Buffer | _BinaryArray,
        offsets: _Buffer | None = None,
        threads: int | None = None,
        *,
        out: _Buffer | None = None,
    ) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]]]:
        """Seal many frames of the track in one call, in order and without the GIL.

        :param data: uint8[n], contiguous: all frames, concatenated. It is not copied, so do not write to it meanwhile.
            A pyarrow array of binary or large_binary without nulls brings its own offsets.
        :param offsets: int64[m + 1] or int32[m + 1], ascending. Frame *i* is ``data[offsets[i]:offsets[i + 1]]``.
        :param threads: The maximum number of threads, each for at least 64 frames. None means one per processor, but no
            more than are worth it.
        :param out: uint8, contiguous and writable: the output array instead of a new one. In SFrame it must hold the
            longest possible headers.
        :return: The sealed frames, uint8[k], and their offsets, int64[m + 1], equal to the results of `encrypt` for
            each frame. The first array is a view of *out* if that was passed.
        :raises UnknownKey, KeyExhausted, MalformedFrame: as `encrypt` does, for the first frame that fails. A note on
            the exception names the frame. No frame of the batch may be sent then, and *out* is cleared.
        :raises ValueError: for offsets that do not fit *data*, *threads* below 1, or *out* that is too short (the
            message names the minimum) or overlaps *data*.
        :raises TypeError: for another type, or a buffer that is not contiguous.
        """

    def stats(self) -> EncryptorStats:
        """Return a snapshot of the counters."""

@final
class SealedPayloads:
    """The latest RTP payloads that one sender sealed. A gate in front of the network passes no other payload.

    Payloads are compared as a whole.

    :param capacity: The number of payloads that are kept when the next frame is sealed. One frame may have more.
    :raises ValueError: for a number out of its range.
    """

    def __new__(cls, capacity: int) -> SealedPayloads: ...
    def holds(self, payloads: Sequence[bytes]) -> bool:
        """Return whether each of *payloads* is held. True for no payloads.

        :raises TypeError: for an object that cannot be iterated.
        """

    def admits(self, packet: Buffer) -> bool:
        """Return whether an RTP packet carries a payload that is held, or none (RFC 3550, section 5.1).

        A retransmission carries the payload after two bytes (RFC 4588, section 4). False for a packet that ends within
        its header.
        """

    def clear(self) -> None:
        """Forget all payloads."""

    def __len__(self) -> int: ...

@final
class SenderBindings:
    """Binds the key of each sender to the participant for whom the key first opened a frame.

    All decryptors of a call share one. It binds at most 4,096 keys. Keys of participants who left are evicted first,
    then the oldest keys.
    """

    def __new__(cls) -> SenderBindings: ...
    def release(self, participant_id: str) -> None:
        """Record that a participant has left. A participant without a key may then own the key, under any id."""

@final
class Decryptor:
    """Opens the frames of one incoming track.

    :param codec: The codec of the sender, as for `Encryptor`.
    :param replay_window: Frames remembered, 0 (off) to 65,536, so that no frame opens twice. None means the default of
        the profile: 1024 in sframe and stream, and off in the others, whose other implementations have no replay check.
    :param sif_trailer: The trailer of the blank frames that a LiveKit server injects in the clear into paused tracks
        (`JoinResponse.sif_trailer`), at least 8 bytes. None lets no blank frame pass. With a trailer only the blank
        frames of the codec pass: Opus silence, G.711 silence, 8x8 VP8 or 2x2 H.264. At most 100 pass without a sealed
        frame between them. The property of this name sets it later.
    :param senders: SFrame: the bindings of keys to participants, for all decryptors of a call. A frame then opens only
        if its key belongs to *participant_id* or is unbound. This ring must not have sealed with the key.
    :param participant_id: The participant who sends this track. It must be passed together with *senders*.
    :raises ValueError: for an unknown or unsupported codec, a window out of its range, a short trailer, or *senders* in
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
        """Open one whole sealed frame, after depacketising.

        In all profiles but sframe an empty frame is returned empty. In SFrame it is malformed, and a frame that was
        sealed empty opens to b"".

        With a `sif_trailer`, a blank frame of the server is returned without its trailer, and `sif_frames` grows. It is
        not authentic, so it is no success of decryption. A jitter buffer joins blank frames to a sealed frame with the
        same RTP timestamp; the sealed frame opens without them.

        :param metadata: SFrame: the metadata that the sender passed with the frame (RFC 9605, section 4.4.3).
        :raises MalformedFrame: if the bytes are not a sealed frame of the profile.
        :raises UnknownKey: if the ring has no key for the key id in the frame.
        :raises AuthenticationFailed: if no key in the ratchet window opens the frame.
        :raises ReplayedFrame: if the frame was opened before, or is too old to check. It needs a replay window.
        :raises SenderMismatch: if the frame is authentic, but another participant sealed it. It needs *senders*.
        :raises ValueError: for metadata in another profile than sframe.
        """

    def decrypt_batch(
        self,
        data: _Buffer | _BinaryArray,
        offsets: _Buffer | None = None,
        threads: int | None = None,
        *,
        rows: _Buffer | None = None,
        out: _Buffer | None = None,
    ) -> tuple[
        np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.bool_]]
    ]:
        """Open many frames of the track in one call, in order and without the GIL.

        It has the parameters of `Encryptor.encrypt_batch`. A frame that does not open is empty, and does not affect
        the others. The blank frames of a server do not pass in a batch. Blank frames that are joined to a sealed frame
        are cut off.

        :param rows: int64[m]: the indices of the frames to open, in this order. None opens all. The frames of one track
            can so lie between those of others, and are not copied first.
        :return: The frames, uint8[k], their offsets, int64[m + 1], and whether each frame opened, bool[m].
        :raises ValueError, TypeError: as `Encryptor.encrypt_batch` does, or for an index that *data* does not have.
        """

    @property
    def consecutive_failures(self) -> int:
        """The number of consecutive frames that one key has failed to open. It is 0 after a frame that opened."""

    @property
    def sif_frames(self) -> int:
        """The number of blank frames of a server that have passed (see `sif_trailer`)."""

    @property
    def sif_trailer(self) -> bytes | None:
        """The trailer of the blank frames that a server injects. None lets none pass. It may be set at any time.

        :raises ValueError: for fewer than 8 bytes. The trailer then stays unchanged.
        """

    @sif_trailer.setter
    def sif_trailer(self, trailer: Buffer | None) -> None: ...
    def without_sif_frames(self, frame: _Buffer) -> bytes:
        """Return a frame without the blank frames joined to it (see `decrypt`). It opens and counts nothing."""

    def key_id_of(self, frame: _Buffer) -> int | None:
        """Return the key id that a sealed frame names. Returns None if it is no sealed frame of the profile.

        The call looks no key up and counts nothing. The key id is not authenticated unless the frame has opened.
        """

    @staticmethod
    def holds_blank(profile: str, codec: str | None, frame: _Buffer) -> bool:
        """Return whether a frame contains a blank frame, and behind it bytes that may be a trailer.

        A blank frame is a frame of the codec that a server of the profile injects. The result is a hint for receivers
        without a `sif_trailer`, because anybody can forge a blank frame.

        :raises ValueError: for an unknown profile or codec.
        """

    def stats(self) -> DecryptorStats:
        """Return a snapshot of the counters."""

@final
class DataCryptor:
    """Seals and opens messages of a data channel with the keys of the media (docs/guide/data-packets.md).

    In the trailer profiles it uses LiveKit's packets. In the profile sframe it seals plain SFrames (RFC 9605), without
    codec or envelope, in one piece only.

    :param bind_context: False is the format of LiveKit, without AAD, or an SFrame without metadata. A forwarder can
        then pass a packet to other receivers, or in the name of another sender. True works between frameseal and
        frameseal: a packet opens only in the context in which it was sealed.
    :param replay_window: Packets remembered, 0 (off) to 65,536, so that no packet opens twice. None means 1,024. In
        SFrame the window counts the counters of a sender, most of which the media use, and None means 16,384.
    :raises ValueError: for a window out of its range, or a ring of the profile stream, which has no data packets.
    """

    def __new__(cls, ring: KeyRing, bind_context: bool = False, *, replay_window: int | None = None) -> DataCryptor: ...
    @property
    def bind_context(self) -> bool:
        """The argument of the constructor."""

    def encrypt(self, payload: Buffer, context: Buffer = b"") -> tuple[bytes, int, bytes]:
        """Seal a message with the sending key; return IV (12 bytes), key index and ciphertext with its 16-byte tag.

        LiveKit's `EncryptedPacket` calls them iv, key_index and encrypted_value.

        :raises UnknownKey: if the sending key is not set.
        :raises KeyExhausted: if the sending key has reached its limit.
        :raises ValueError: for a context without `bind_context`, or in the profile sframe.
        """

    def decrypt(self, iv: Buffer, key_index: int, ciphertext: Buffer, context: Buffer = b"") -> bytes:
        """Open a message from the results of `encrypt`.

        :raises MalformedFrame: if the IV does not have 12 bytes, or the ciphertext has fewer than 16.
        :raises UnknownKey: if the ring has no key for the key index.
        :raises AuthenticationFailed: if no key in the ratchet window opens the message in this context.
        :raises ReplayedFrame: if the message was opened before, or is too old to check.
        :raises ValueError: for a context without `bind_context`, or in the profile sframe.
        """

    def encrypt_packet(self, payload: Buffer, context: Buffer = b"") -> bytes:
        """Seal a message into one packet, for a channel that carries bytes only.

        A packet is 31 bytes longer than the message in the trailer profiles. In SFrame it is longer by header and tag,
        17 to 33 bytes with the default suite.

        :raises UnknownKey, KeyExhausted: as `encrypt` does.
        :raises ValueError: for a context without `bind_context`.
        """

    def decrypt_packet(self, packet: Buffer, context: Buffer = b"") -> bytes:
        """Open a packet of `encrypt_packet`.

        :raises MalformedFrame: if the bytes are not a packet of the profile.
        :raises UnknownKey, AuthenticationFailed, ReplayedFrame: as `decrypt` does.
        :raises ValueError: for a context without `bind_context`.
        """

    def stats(self) -> DataStats:
        """Return a snapshot of the counters."""
