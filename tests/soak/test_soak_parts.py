"""The instruments of the soak: each of them finds what it is for. `make soak` runs the soak itself."""

import asyncio
import ctypes
import threading
import tracemalloc

import av
import pytest

from frameseal import Encryptor, KeyProvider, KeyRing
from frameseal.aiortc import attach
from soak.gauges import (
    Census,
    Reading,
    Round,
    Trend,
    blocks_by_line,
    count_objects,
    leaked_by_pyav,
    more_objects,
    table,
    trends,
    weight_of,
)
from soak.ledger import KEPT, Ledger, LedgerTap
from support.calls import connect, manager, peers, picture_track, tone_track, until
from support.forks import in_a_child
from support.recording import noted

FRAME = b"\x11" + bytes(range(256)) * 3


@pytest.fixture
def cipher() -> Encryptor:
    return Encryptor(ring(), "vp8")


def ring(profile: str = "livekit") -> KeyRing:
    made = KeyRing(profile, shared=profile == "sframe")
    made.set_key(bytes(range(32)))
    return made


def seal(ledger: Ledger, cipher: Encryptor, frame: bytes) -> bytes:
    sealed = cipher.encrypt(frame)
    ledger.made("vp8", [frame])
    ledger.sealed(frame, sealed)
    return sealed


# --- the wire --------------------------------------------------------------------------------------------------------


def test_sealed_frames_and_their_clear_bytes_are_no_fault(cipher):
    ledger = Ledger()
    for number in range(20):
        ledger.left(seal(ledger, cipher, FRAME + bytes([number])))
    audit = ledger.close_round(last=True)
    assert (audit.sealed, audit.payloads, audit.faults) == (20, 20, [])
    # All but the 3 clear bytes of a VP8 delta frame; a byte of ciphertext may be that of the plaintext by chance.
    assert 20 * len(FRAME) - 60 <= audit.secret_bytes <= 20 * (len(FRAME) + 1 - 3)


@pytest.mark.parametrize("piece", [slice(None), slice(3, None), slice(-40, None), slice(100, 117)])
@pytest.mark.parametrize("rounds", [0, 1])
def test_any_piece_of_plaintext_on_the_wire_is_found(cipher, piece, rounds):
    ledger = Ledger()
    ledger.left(seal(ledger, cipher, FRAME))
    for _ in range(rounds):  # sent again in the next round
        assert ledger.close_round().faults == []
    ledger.left(b"a payload descriptor" + FRAME[piece])
    (fault,) = ledger.close_round(last=True).faults
    assert "of plaintext are on the wire" in fault


def test_parameter_sets_that_one_profile_shows_are_no_leak_of_another_and_pictures_are():
    sets = b"\0\0\0\1\x67" + bytes(range(2, 42)) + b"\0\0\0\1\x68" + bytes(range(2, 42))
    picture = sets + b"\0\0\0\1\x65\x88" + bytes(range(1, 256))
    ledger = Ledger()
    for profile in ("livekit", "sframe"):
        ledger.left(seal(ledger, Encryptor(ring(profile), "h264"), picture))
    assert ledger.close_round().faults == []
    ledger.left(picture[-40:])
    assert len(ledger.close_round().faults) == 1


def test_a_frame_that_comes_to_no_seal_is_found(cipher):
    ledger = Ledger()
    ledger.left(seal(ledger, cipher, FRAME))
    ledger.made("vp8", [FRAME[::-1]])
    assert ledger.close_round().faults == [], "it may be on its way to the seal"
    (fault,) = ledger.close_round().faults
    assert "never came to a seal" in fault
    ledger.made("vp8", [FRAME[::-1]])
    ledger.left(FRAME[::-1])
    assert len(ledger.close_round(last=True).faults) == 2


def test_a_frame_that_was_made_in_one_round_and_sealed_in_the_next_is_no_fault(cipher):
    ledger = Ledger()
    ledger.made("vp8", [FRAME])
    assert ledger.close_round().faults == []
    ledger.sealed(FRAME, cipher.encrypt(FRAME))
    assert ledger.close_round().faults == []
    ledger.made("vp8", [FRAME[1:]])
    ledger.sealed(FRAME[1:], None)
    assert ledger.close_round(last=True).faults == [], "a frame that was withheld did not leave"


def test_a_sender_that_stops_may_be_at_one_frame():
    ledger = Ledger()
    ledger.made("vp8", [FRAME])
    ledger.stopped(1)
    assert [ledger.close_round().faults, ledger.close_round().faults] == [[], []]
    ledger.made("vp8", [FRAME])
    assert ledger.close_round().faults == []
    assert len(ledger.close_round().faults) == 1, "it stopped two rounds before"


@pytest.mark.parametrize(
    ("made", "left", "expected"),
    [([FRAME], [], None), ([FRAME, FRAME[::-1]], [], "2 frames"), ([FRAME], [FRAME], "on the wire")],
)
def test_a_sender_that_stops_at_the_end_is_at_one_frame_and_sends_nothing_of_it(made, left, expected):
    ledger = Ledger()
    ledger.made("vp8", made)
    for payload in left:
        ledger.left(payload)
    ledger.stopped(1)
    faults = ledger.close_round(last=True).faults
    assert faults == [] if expected is None else len(faults) == 1 and expected in faults[0]


@pytest.mark.parametrize("sealing", [True, False])
async def test_an_unsealed_call_is_found_and_a_sealed_one_is_not(sealing):
    ledger = Ledger()
    e2ee = noted(manager(), ledger.sealed, ledger.opened)
    audits = []
    with LedgerTap("aiortc", ledger):
        async with peers("aiortc", "aiortc") as (alice, bob):
            if sealing:
                attach(alice.pc, e2ee, local_id="alice", remote_id="bob")
                attach(bob.pc, e2ee, local_id="bob", remote_id="alice")
            alice.send(picture_track("aiortc"), "h264")
            alice.send(tone_track("aiortc"))
            await connect(alice, bob)
            for pictures in (20, 30):
                await until(
                    lambda n=pictures: all(len(s.pictures) > n or s.seconds > n / 20 for s in bob.sinks.values())
                )
                if sealing:
                    # A frame that is between its encoder and its seal now has to be sealed by the next time. At the
                    # end of the call nobody seals the last one.
                    audits.append(ledger.close_round())
    if not sealing:
        audits.append(ledger.close_round(last=True))
    assert sum(audit.payloads for audit in audits) > 50
    assert [len(audit.faults) for audit in audits] == ([0, 0] if sealing else [2]), audits


# --- what is opened --------------------------------------------------------------------------------------------------


def test_what_arrives_whole_has_to_open_and_nothing_else_may(cipher):
    ledger = Ledger()
    sealed = seal(ledger, cipher, FRAME)
    ledger.opened(sealed, FRAME)
    ledger.opened(sealed[10:], None)  # cut short on the way
    ledger.overheard(sealed, None)
    audit = ledger.close_round()
    assert (audit.opened, audit.faults) == (1, [])
    for tell in (
        lambda: ledger.opened(sealed, None),
        lambda: ledger.opened(sealed, FRAME[1:]),
        lambda: ledger.opened(b"of nobody", b"something"),
        lambda: ledger.overheard(sealed, FRAME),
    ):
        tell()
        assert len(ledger.close_round().faults) == 1


def test_a_ledger_remembers_the_latest_frames_and_no_more(cipher):
    ledger = Ledger()
    first, *_, last = [seal(ledger, cipher, FRAME + number.to_bytes(2)) for number in range(KEPT + 1)]
    ledger.close_round()
    ledger.opened(last, FRAME + KEPT.to_bytes(2))
    ledger.opened(first, None)  # as if it had been cut short
    audit = ledger.close_round()
    assert (audit.opened, audit.faults) == (1, [])
    assert ledger.close_round().secret_bytes < KEPT * (len(FRAME) + 2)


# --- what grows ------------------------------------------------------------------------------------------------------


async def test_objects_of_the_packages_are_counted_and_garbage_is_not():
    before = count_objects()
    kept, cycle = [KeyRing("livekit") for _ in range(3)], KeyProvider()
    cycle.itself = cycle
    there = await more_objects(before, tries=1)
    assert (there["frameseal.KeyRing"], there["frameseal.keys.provider.KeyProvider"]) == (3, 1)
    del cycle
    assert "frameseal.keys.provider.KeyProvider" not in await more_objects(before, tries=1)
    asyncio.get_running_loop().call_later(0.2, kept.clear)
    assert await more_objects(before) == {}, "what goes after a while was under way"


async def test_tasks_and_threads_that_stay_are_named_and_those_that_end_are_not():
    gate, done = threading.Event(), asyncio.Event()
    census = Census()
    assert await census.leftovers() == []
    thread = threading.Thread(target=gate.wait, name="a decoder that stays")
    thread.start()
    task = asyncio.create_task(done.wait(), name="a loop that stays")
    brief = asyncio.create_task(asyncio.sleep(0.1))
    left = await census.leftovers(0.3)
    assert len(left) == 2 and "a loop that stays" in left[0] and "a decoder that stays" in left[1]
    with_them = Census()
    gate.set()
    done.set()
    assert await census.leftovers() == []
    assert brief.done() and task.done()
    (gone,) = await with_them.leftovers()
    assert "a decoder that stays" in gone


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


BEFORE = Reading(rss=150e6, native=30e6, blocks=350_000)


def soaked(per_frame: Reading, rounds: int = 9, noise: tuple[float, ...] = (0, 1, -1)) -> list[Trend]:
    """The trends of rounds of 2,500 frames: something grows by the frame, and something comes and goes."""
    wobble = Reading(rss=2e6, native=30e3, blocks=300)
    frames = range(2500, 2500 * rounds + 1, 2500)
    return trends(
        [Round(n, BEFORE + per_frame * n + wobble * noise[i % len(noise)]) for i, n in enumerate(frames)],
    )


@pytest.mark.parametrize("rounds", [9, 120])
def test_what_comes_and_goes_is_flat(rounds):
    assert all(trend.is_flat for trend in soaked(Reading(0, 0, 0), rounds))
    assert "not flat" not in table(soaked(Reading(0, 0, 0), rounds))


@pytest.mark.parametrize(
    ("leak", "shown_by", "rounds"),
    [
        (Reading(16, 0, 1), {"Python, blocks"}, 9),  # the smallest of Python's objects
        (Reading(32, 32, 0), {"malloc, MB"}, 120),  # and of malloc's chunks
        (Reading(600, 600, 0), {"malloc, MB"}, 9),  # a sealed frame
    ],
    ids=["an object", "a chunk", "a frame"],
)
def test_a_leak_with_every_frame_is_not_flat(leak, shown_by, rounds):
    rows = soaked(leak, rounds)
    assert {row.name for row in rows if not row.is_flat} - {"RSS, MB"} == shown_by
    assert "<- not flat" in table(rows)


@pytest.mark.parametrize(
    ("a_visit", "shown_by"),
    [
        (Reading(1e5, 1e5, 0), "malloc, MB"),  # what OpenSSL has for a transport
        (Reading(3e5, 0, 3000), "Python, blocks"),  # the objects of a connection
        (Reading(2e6, 0, 0), "RSS, MB"),  # a codec's memory, from the system
    ],
    ids=["a transport", "a connection", "a codec"],
)
def test_a_leak_with_every_participant_is_not_flat(a_visit, shown_by):
    visits = 6 / 2500  # for each frame
    assert shown_by in {row.name for row in soaked(a_visit * visits) if not row.is_flat}


def test_the_gauges_show_what_is_leaked(traced):
    """In a child of its own: there no thread of another test allocates and frees meanwhile."""

    def leak() -> None:
        malloc = ctypes.CDLL(None).malloc
        malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        before, lines = Reading.take(), blocks_by_line()
        kept = [bytes(400) for _ in range(5000)]
        chunks = [malloc(100) for _ in range(5000)]
        grown = Reading.take() - before
        assert grown.blocks >= 5000 and grown.native >= 5000 * 100
        where = blocks_by_line() - lines
        assert sum(count for line, count in where.items() if "test_soak_parts.py" in line) >= len(kept)
        free = ctypes.CDLL(None).free
        free.argtypes = [ctypes.c_void_p]
        for chunk in chunks:
            free(chunk)
        kept.clear()
        assert (Reading.take() - before).native < 5000 * 100

    in_a_child(leak)


def test_what_the_ledger_holds_is_weighed(cipher):
    ledger = Ledger()
    ledger.left(seal(ledger, cipher, FRAME[:100]))
    seal(ledger, cipher, FRAME)
    weight = weight_of(ledger.held())
    assert (weight.blocks, weight.native > 3 * len(FRAME), weight.native < 4 * len(FRAME)) == (4, True, True)


def test_what_pyav_leaks_is_known():
    """PyAV#2282, aiortc#1423: a block wherever it asks for more input, so two with each Opus frame, until 17.1."""
    version = tuple(int(part) for part in av.__version__.split(".")[:2])
    assert round(leaked_by_pyav().blocks) == (2 if version < (17, 1) else 0)
