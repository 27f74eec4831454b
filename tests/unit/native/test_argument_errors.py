"""Every `ValueError` of the native module names the argument that it refuses.

Each argument of each callable receives values of several kinds, and the message of each `ValueError` has the argument's
name in it. (Python raises the `TypeError` of most buffers, and knows no name.) A callable that is missing from the
table fails the walk.
"""

import inspect
import re
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from frameseal import DataCryptor, Decryptor, Encryptor, FrameError, KeyRing, _native
from frameseal._native import Secret

KEY = bytes(range(32))
OFFSETS = array("q", [0, 7])

BAD_VALUES = [
    *(-1, 0, 1, 255, 256, 2**16, 2**32, 2**63, 2**64, 10**30),
    *("", "x", "opus", "no such name", "\ud800"),
    *(b"", b"x", bytes(7), bytes(64), bytearray(3), memoryview(bytes(16))[::2], array("q", [5, 1]), array("d", [0.5])),
    *(None, 1.5, True, object(), [], {}),
]


def ring(profile: str = "livekit", **options: Any) -> KeyRing:
    made = KeyRing(profile, **options)
    made.set_key(KEY)
    return made


def sending(ring: KeyRing) -> Callable[..., None]:
    def sending_key_id(sending_key_id: int) -> None:
        ring.sending_key_id = sending_key_id

    return sending_key_id


def trailer_of(decryptor: Decryptor) -> Callable[..., None]:
    def sif_trailer(sif_trailer: bytes) -> None:
        decryptor.sif_trailer = sif_trailer

    return sif_trailer


# Other names under which a refusal may mention an argument.
ALSO_NAMED = {
    ("Secret", "key"): ["passphrase"],  # a str is a passphrase
    ("KeyRing.set_epoch", "sender_bits"): ["sender_index"],  # which needs more bits
    ("KeyRing.sending_key_id", "sending_key_id"): ["key_id"],
}

# By name: a function that returns the callable and arguments that it accepts.
CALLS: dict[str, Callable[[], tuple[Callable[..., Any], dict[str, Any]]]] = {
    "Secret": lambda: (Secret, {"key": KEY}),
    "KeyRing": lambda: (KeyRing, {"profile": "livekit"}),
    "KeyRing.set_passphrase": lambda: (KeyRing("livekit").set_passphrase, {"passphrase": "text", "key_id": 0}),
    "KeyRing.set_key": lambda: (KeyRing("sframe").set_key, {"key": KEY, "key_id": 0, "counter": None}),
    "KeyRing.set_secret": lambda: (KeyRing("livekit").set_secret, {"secret": Secret(KEY), "key_id": 0}),
    "KeyRing.set_epoch": lambda: (
        KeyRing("sframe").set_epoch,
        {
            "epoch": 1,
            "exported_secret": KEY,
            "epoch_bits": 4,
            "sender_bits": 4,
            "sender_index": 1,
            "context": 0,
            "retain": 1,
        },
    ),
    "KeyRing.derive_key": lambda: (ring().derive_key, {"secret": Secret(KEY), "key_id": 0}),
    "KeyRing.derive_ratchet": lambda: (ring().derive_ratchet, {"key_id": 0}),
    "KeyRing.ratchet": lambda: (ring().ratchet, {"key_id": 0}),
    "KeyRing.derive_ratchet_step": lambda: (ring(ratchet_window=1).derive_ratchet_step, {"key_id": 0}),
    "KeyRing.remove_key": lambda: (ring().remove_key, {"key_id": 0}),
    "KeyRing.frames_sealed": lambda: (ring().frames_sealed, {"key_id": 0}),
    "KeyRing.fingerprint": lambda: (ring().fingerprint, {"key_id": 0}),
    "KeyRing.export_key": lambda: (ring(allow_export=True).export_key, {"key_id": 0}),
    "KeyRing.sending_key_id": lambda: (sending(ring()), {"sending_key_id": 0}),
    "Encryptor": lambda: (Encryptor, {"ring": ring(), "codec": "opus"}),
    "Encryptor.encrypt": lambda: (Encryptor(ring()).encrypt, {"frame": b"frame", "metadata": b""}),
    "Encryptor.encrypt_payloads": lambda: (
        Encryptor(ring("sframe"), "opus").encrypt_payloads,
        {"payloads": [b"payload"], "sealed": _native.SealedPayloads(1), "metadata": b""},
    ),
    "SealedPayloads": lambda: (_native.SealedPayloads, {"capacity": 1}),
    "SealedPayloads.holds": lambda: (_native.SealedPayloads(1).holds, {"payloads": [b"payload"]}),
    "SealedPayloads.admits": lambda: (_native.SealedPayloads(1).admits, {"packet": b"packet"}),
    "Encryptor.encrypt_batch": lambda: (
        Encryptor(ring()).encrypt_batch,
        {"data": b"a frame", "offsets": OFFSETS, "threads": 1},
    ),
    "SenderBindings.release": lambda: (_native.SenderBindings().release, {"participant_id": "alice"}),
    "Decryptor": lambda: (Decryptor, {"ring": ring(), "codec": "opus"}),
    "Decryptor.decrypt": lambda: (
        Decryptor(ring()).decrypt,
        {"sealed": Encryptor(ring()).encrypt(b"frame"), "metadata": b""},
    ),
    "Decryptor.decrypt_batch": lambda: (
        Decryptor(ring()).decrypt_batch,
        {"data": b"a frame", "offsets": OFFSETS, "threads": 1, "rows": memoryview(bytes(8)).cast("q")},
    ),
    "Decryptor.sif_trailer": lambda: (trailer_of(Decryptor(ring(), "opus")), {"sif_trailer": bytes(16)}),
    "Decryptor.without_sif_frames": lambda: (Decryptor(ring(), "opus").without_sif_frames, {"frame": b"frame"}),
    "Decryptor.key_id_of": lambda: (Decryptor(ring()).key_id_of, {"frame": b"frame"}),
    "Decryptor.holds_blank": lambda: (Decryptor.holds_blank, {"codec": "opus", "frame": b"frame"}),
    "DataCryptor": lambda: (DataCryptor, {"ring": ring(), "bind_context": False}),
    "DataCryptor.encrypt": lambda: (DataCryptor(ring()).encrypt, {"payload": b"payload", "context": b""}),
    "DataCryptor.decrypt": lambda: (
        DataCryptor(ring()).decrypt,
        {"iv": bytes(12), "key_index": 0, "ciphertext": bytes(20), "context": b""},
    ),
    "DataCryptor.encrypt_packet": lambda: (DataCryptor(ring()).encrypt_packet, {"payload": b"payload", "context": b""}),
    "DataCryptor.decrypt_packet": lambda: (DataCryptor(ring()).decrypt_packet, {"packet": bytes(40), "context": b""}),
}


def arguments(function: Callable[..., Any], given: dict[str, Any]) -> set[str]:
    """Returns the arguments of a callable: those of its signature, or those that the table has."""
    return set(given) | set(inspect.signature(function).parameters) - {"self", "args", "kwargs"}


def refusals(name: str, argument: str) -> set[str]:
    """Returns the messages with which a callable refuses values of one argument. The other arguments are right."""
    messages = set()
    for value in BAD_VALUES:
        function, given = CALLS[name]()
        try:
            function(**given | {argument: value})
        except FrameError:
            continue
        except ValueError as error:
            messages.add(str(error))
        except TypeError:
            continue
    return messages


def takes_arguments(value: object) -> bool:
    try:
        parameters = inspect.signature(value).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True
    return bool(set(parameters) - {"self", "args", "kwargs"})


def public() -> set[str]:
    """Returns every callable of the native module that has arguments, and every attribute that can be set."""
    names = set()
    for name, thing in vars(_native).items():
        if name.startswith("_") or not isinstance(thing, type):
            continue
        if takes_arguments(thing):
            names.add(name)
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and callable(value) and takes_arguments(value):
                names.add(f"{name}.{attribute}")
    return names


def test_every_callable_of_the_native_module_is_in_the_table():
    assert public() <= set(CALLS)


PLACES = [(name, argument) for name, how in CALLS.items() for argument in sorted(arguments(*how()))]


@pytest.mark.parametrize(("name", "argument"), PLACES, ids=[f"{name}, {argument}" for name, argument in PLACES])
def test_a_refusal_names_the_argument(name, argument):
    names = {argument, *ALSO_NAMED.get((name, argument), ())}
    assert {message for message in refusals(name, argument) if not names & set(re.findall(r"\w+", message))} == set()


@pytest.mark.parametrize(
    "value", [5, object(), memoryview(bytes(range(64))).cast("H")], ids=["int", "object", "uint16"]
)
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("Secret", "key"),
        ("KeyRing.set_passphrase", "passphrase"),
        ("KeyRing.set_key", "key"),
        ("KeyRing.set_epoch", "exported_secret"),
    ],
)
def test_a_key_of_another_type_is_named(name, argument, value):
    call, given = CALLS[name]()
    with pytest.raises(
        TypeError, match=rf"^{argument} must be (a str, )?bytes or a buffer .* not {type(value).__name__}$"
    ):
        call(**given | {argument: value})


@pytest.mark.parametrize(("name", "argument"), [("KeyRing.set_key", "key"), ("KeyRing.set_epoch", "exported_secret")])
def test_a_str_where_a_raw_key_belongs_is_named_and_not_quoted(name, argument):
    call, given = CALLS[name]()
    with pytest.raises(TypeError, match=rf"^{argument} must be bytes, not str: pass ") as refused:
        call(**given | {argument: "hunter2"})
    assert "hunter2" not in str(refused.value)
