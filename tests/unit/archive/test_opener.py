"""Opening tables: order, keys in the order of time, ratchets, replays, and workers that fetch their own keys."""

import os
import pickle
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import frameseal
from frameseal.archive import ArchiveError, Opener
from frameseal.archive.schema import SCHEMA, batch_of, checked
from frameseal.profiles import media_metadata
from support.archives import START, VP8_KEY, Sender, call, provider, table

OTHER_KEY = bytes(range(1, 33))


def rows(*frames) -> pa.Table:
    return table([checked("f", batch_of("room", frames), "room", 0)])


def plain(opened: pa.Table) -> list:
    return [frame and frame.removeprefix(VP8_KEY).removeprefix(b"\xf8") for frame in opened["frame"].to_pylist()]


def reasons(opened: pa.Table) -> list:
    assert opened["opened"].to_pylist() == [reason is None for reason in opened["reason"].to_pylist()]
    assert opened["frame"].is_null().to_pylist() == [reason is not None for reason in opened["reason"].to_pylist()]
    return opened["reason"].to_pylist()


@pytest.mark.parametrize("profile", ["livekit", "videosdk", "sframe", "jitsi", "stream"])
def test_every_row_opens_in_its_place_and_all_other_columns_stay(profile):
    keys = provider()
    alice, bob = Sender(provider(), "alice", profile), Sender(provider(), "bob", profile)
    frames = [frame for pair in zip(call(alice, 20), call(bob, 20), strict=True) for frame in pair]
    sealed = rows(*frames)
    opened = Opener(keys)(sealed)
    assert reasons(opened) == [None] * 40
    words = [b"video" if n % 2 else b"audio" for n in range(20) for _ in "ab"]
    assert plain(opened) == [b"%s %d" % (word, n // 2) for n, word in enumerate(words)]
    names = [name for name in SCHEMA.names if name != "sealed"]
    assert opened.select(names).equals(sealed.select(names))
    assert opened.schema.names == [*SCHEMA.names[:-1], "frame", "opened", "reason"]


def test_chunks_slices_and_plain_strings_are_opened_as_well():
    sealed = rows(*call(Sender(provider()), 30))
    strings = pa.table(
        {name: sealed[name].cast(pa.string()) if name in SCHEMA.names[:6] else sealed[name] for name in SCHEMA.names}
    )
    pieces = pa.concat_tables([strings.slice(3, 4), strings.slice(7, 20)])
    assert plain(Opener(provider())(pieces)) == plain(Opener(provider())(sealed))[3:27]
    binary = sealed.set_column(13, "sealed", sealed["sealed"].cast(pa.binary()))  # as Spark reads it
    assert Opener(provider())(binary).equals(Opener(provider())(sealed))
    empty = Opener(provider())(sealed.slice(0, 0))
    assert (empty.num_rows, empty.schema.names[-3:]) == (0, ["frame", "opened", "reason"])


def test_without_the_key_nothing_opens_and_each_row_says_why():
    sealed = rows(*call(Sender(provider()), 4))
    assert reasons(Opener(provider(OTHER_KEY))(sealed)) == ["authentication_failed"] * 4
    assert reasons(Opener(frameseal.KeyProvider())(sealed)) == ["unknown_key"] * 4


def test_reasons_are_told_apart_within_one_track():
    sender = Sender(provider())
    one, two, three = (sender.audio() for _ in range(3))
    forged = replace(two, sealed=two.sealed[:1] + bytes([two.sealed[1] ^ 1]) + two.sealed[2:])
    named = replace(three, sealed=three.sealed[:-1] + b"\x03")
    found = Opener(provider())(rows(one, forged, one, named, replace(one, sealed=b"\xf8x"), three))
    assert reasons(found) == [None, "authentication_failed", "replayed", "unknown_key", "malformed", None]


def test_with_one_key_of_two_one_participant_opens():
    keys = frameseal.KeyProvider()
    keys.set_key("alice", bytes(32))
    keys.set_key("bob", OTHER_KEY)
    sealed = rows(*call(Sender(keys, "alice"), 4), *call(Sender(keys, "bob"), 4))
    half = frameseal.KeyProvider()
    half.set_key("bob", OTHER_KEY)
    assert reasons(Opener(half)(sealed)) == ["unknown_key"] * 4 + [None] * 4


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_a_replay_is_refused_within_a_table_and_in_a_later_one(profile):
    frames = list(call(Sender(provider(), profile=profile), 6))
    opener = Opener(provider())
    assert reasons(opener(rows(*frames, frames[0], frames[1]))) == [None] * 6 + ["replayed"] * 2
    assert reasons(opener(rows(frames[3]))) == ["replayed"]


def test_a_frame_under_a_participants_own_key_does_not_open_as_another_participants():
    keys = frameseal.KeyProvider()
    keys.set_key("alice", bytes(32))
    keys.set_key("bob", OTHER_KEY)
    frame = Sender(keys, "alice").audio()
    assert reasons(Opener(keys)(rows(frame, replace(frame, participant="bob")))) == [None, "authentication_failed"]


def test_a_shared_sframe_key_is_bound_to_its_participant():
    alice = list(call(Sender(provider(), profile="sframe"), 4))
    foreign = [replace(frame, participant="bob") for frame in call(Sender(provider(), profile="sframe"), 2)]
    opener = Opener(provider())
    assert reasons(opener(rows(*alice))) == [None] * 4
    assert reasons(opener(rows(*(replace(frame, participant="bob") for frame in alice)))) == ["sender_mismatch"] * 4
    assert reasons(opener(rows(*foreign))) == [None, None]


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_two_keys_under_one_id_open_in_the_order_of_time(profile):
    first, second = Sender(provider(), profile=profile), Sender(provider(OTHER_KEY), profile=profile)
    early, late = list(call(first, 10)), list(call(second, 10))
    opener = Opener([provider(), provider(OTHER_KEY)])
    assert reasons(opener(rows(*early[:6]))) == [None] * 6
    opened = opener(rows(*early[6:], *late[:4]))
    assert reasons(opened) == [None] * 8
    assert plain(opened) == [
        b"audio 6",
        b"video 7",
        b"audio 8",
        b"video 9",
        b"audio 0",
        b"video 1",
        b"audio 2",
        b"video 3",
    ]
    assert reasons(opener(rows(*late[4:]))) == [None] * 6


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_no_frame_opens_twice_across_keys(profile):
    """Both providers have one key in common: whoever refuses a replay must not hand it to the other."""

    def keys(second):
        made = provider()
        made.set_shared_key(second, 1, send=False)
        return made

    frames = list(call(Sender(provider(), profile=profile), 6))
    opener = Opener([keys(b"a" * 32), keys(b"b" * 32)])
    assert reasons(opener(rows(*frames, *frames))) == [None] * 6 + ["replayed"] * 6
    changed = keys(b"b" * 32)
    changed.set_sending_key_id(1)
    later = Sender(changed, profile=profile)
    assert reasons(opener(rows(*call(later, 4)))) == [None] * 4
    assert None not in reasons(opener(rows(*frames)))


def test_a_key_under_another_id_opens_no_frame_a_second_time():
    frames = list(call(Sender(provider()), 4))
    moved = frameseal.KeyProvider()
    moved.set_shared_key(bytes(range(32)), 1)
    opener = Opener([provider(), moved])
    renamed = [replace(frame, sealed=frame.sealed[:-1] + b"\x01") for frame in frames]
    assert reasons(opener(rows(*frames, *renamed))) == [None] * 4 + ["unknown_key"] * 4


def test_an_early_frame_does_not_open_after_its_keys_time():
    early, late = list(call(Sender(provider()), 4)), list(call(Sender(provider(OTHER_KEY)), 4))
    opener = Opener([provider(), provider(OTHER_KEY)])
    assert reasons(opener(rows(*early[:2], *late))) == [None] * 6
    assert reasons(opener(rows(*early[2:]))) == ["authentication_failed"] * 2


@pytest.mark.parametrize("key", [b"k" * 32, "a passphrase"])
def test_a_ratchet_is_followed_in_every_track(key):
    """The audio rows of all steps are opened before the first video row: each track has a ring of its own."""
    keys = provider(key)
    sender = Sender(keys)
    frames = list(call(sender, 4))
    for _ in range(3):
        keys.ratchet()
        frames += call(sender, 4)
    opener = Opener(provider(key, ratchet_window=4))
    opened = opener(rows(*frames))
    assert reasons(opened) == [None] * 16
    assert plain(opened) == [b"%s %d" % (b"video" if n % 2 else b"audio", n) for n in range(16)]
    assert None not in reasons(opener(rows(*frames)))


def test_a_window_does_not_hinder_a_profile_without_a_ratchet():
    """One archive may hold both, and one provider its keys."""
    frames = [Sender(provider(), profile, profile).audio() for profile in ("livekit", "stream")]
    assert reasons(Opener(provider(ratchet_window=16))(rows(*frames))) == [None, None]


def test_without_a_window_a_ratcheted_frame_stays_shut():
    keys = provider()
    sender = Sender(keys)
    frames = list(call(sender, 2))
    keys.ratchet()
    assert reasons(Opener(provider())(rows(*frames, sender.audio()))) == [None, None, "authentication_failed"]


def bound(sender, *frames):
    """Seal frames again, as a participant with `bind_media` does."""
    for frame in frames:
        encryptor = frameseal.Encryptor(sender.ring, frame.codec)
        plain = f"{frame.kind} {frame.ssrc}".encode()
        yield replace(frame, sealed=encryptor.encrypt(plain, media_metadata(frame.kind, frame.codec)))


def test_frames_that_are_bound_to_their_medium_open_beside_others():
    alice, bob = (Sender(provider(), name, "sframe") for name in ("alice", "bob"))
    frames = list(bound(alice, *call(alice, 6)))
    opener = Opener(provider())
    assert reasons(opener(rows(*frames[:2]))) == [None] * 2
    forged = replace(frames[4], sealed=frames[4].sealed[:-1] + bytes([frames[4].sealed[-1] ^ 1]))
    opened = opener(rows(*frames[2:4], *call(bob, 2), frames[0], forged, *frames[4:], bob.audio()))
    assert reasons(opened) == [None] * 4 + ["replayed", "authentication_failed"] + [None] * 3
    assert opened["frame"].to_pylist()[:2] == [b"audio 7", b"video 7"]


def test_a_bound_frame_does_not_open_as_another_medium():
    alice = Sender(provider(), profile="sframe")
    frames = list(bound(alice, *call(alice, 4)))
    moved = [replace(frame, kind="audio", codec="opus", track="mic") for frame in frames]
    other = [replace(frame, codec="vp9") for frame in frames]
    assert reasons(Opener(provider())(rows(*moved))) == [None, "authentication_failed"] * 2
    assert reasons(Opener(provider())(rows(*other))) == ["authentication_failed"] * 4


def test_bound_frames_open_in_the_order_of_keys():
    early, late = (Sender(provider(key), profile="sframe") for key in (bytes(range(32)), OTHER_KEY))
    opener = Opener([provider(), provider(OTHER_KEY)])
    assert reasons(opener(rows(*bound(early, *call(early, 4)), *bound(late, *call(late, 4))))) == [None] * 8


def test_frames_of_a_call_that_binds_media_open():
    keys = provider()
    manager = frameseal.E2EEManager(keys, "sframe", bind_media=True)
    transform = manager.sender_transform("alice", "audio", "opus")
    frame = replace(Sender(provider(), profile="sframe").audio(), sealed=transform.encrypt(b"hello"))
    assert Opener(provider())(rows(frame))["frame"].to_pylist() == [b"hello"]


def test_an_empty_frame_is_empty_and_an_unknown_codec_is_unsupported():
    sender = Sender(provider())
    silence = replace(sender.audio(), sealed=b"")
    strange = [
        replace(sender.video(), codec="av1"),
        replace(sender.video(), codec="no such"),
        replace(sender.video(), profile="x"),
    ]
    opened = Opener(provider())(rows(silence, *strange, sender.audio()))
    assert reasons(opened) == [None, "unsupported", "unsupported", "unsupported", None]
    assert opened["frame"][0].as_py() == b""


def test_the_profile_of_the_caller_counts():
    frames = [replace(frame, profile="no such") for frame in call(Sender(provider()), 2)]
    assert reasons(Opener(provider(), "livekit")(rows(*frames))) == [None, None]


FETCHED = []


def fetch() -> frameseal.KeyProvider:
    FETCHED.append(1)
    return provider()


def test_a_worker_fetches_its_own_keys_and_none_is_pickled():
    FETCHED.clear()
    opener = pickle.loads(pickle.dumps(Opener(fetch, "livekit", replay_window=10)))
    assert FETCHED == []
    sealed = rows(*call(Sender(provider()), 4))
    assert reasons(opener(sealed)) == reasons(pickle.loads(pickle.dumps(opener))(sealed)) == [None] * 4
    opener(sealed)
    assert len(FETCHED) == 2
    assert bytes(range(32)) not in pickle.dumps(opener)


def test_an_opener_that_holds_keys_is_not_pickled():
    with pytest.raises(TypeError, match="cannot be pickled: pass a callable"):
        pickle.dumps(Opener(provider()))


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_a_stateless_opener_opens_a_table_again_but_no_row_of_it_twice(profile):
    """Engines repeat a task when a worker was lost, perhaps on a worker that has done it before."""
    sealed = rows(*call(Sender(provider(), profile=profile), 4))
    opener = pickle.loads(pickle.dumps(Opener(fetch, stateless=True)))
    assert opener(sealed).equals(opener(sealed))
    assert reasons(opener(sealed)) == [None] * 4
    twice = pa.concat_tables([sealed, sealed])
    assert reasons(opener(twice)) == [None] * 4 + ["replayed"] * 4
    with_memory = Opener(fetch)
    with_memory(sealed)
    assert reasons(with_memory(sealed)) == ["replayed"] * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.drop_columns(["track"]), "column track is missing"),
        (
            lambda found: found.set_column(13, "sealed", pa.array(["x", "y"])),
            "sealed must be large_binary",
        ),
        (lambda found: found.append_column("opened", found["gap"]), "column opened exists"),
        (lambda found: found.set_column(1, "participant", pa.array([None, "a"])), "participant must not be null"),
        (lambda found: found.set_column(13, "sealed", pa.array([b"x", None], pa.large_binary())), "row 1: .*sealed"),
    ],
)
def test_a_table_with_wrong_columns_is_refused(change, words):
    with pytest.raises(ArchiveError, match=words):
        Opener(provider())(change(rows(*call(Sender(provider()), 2))))


def dictionary(indices, names):
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(names, pa.string()), safe=False)


@pytest.mark.parametrize(
    ("participants", "words"),
    [
        (dictionary([0, 1], ["alice"]), "row 0: the rows are damaged"),
        (dictionary([0, -1], ["alice"]), "row 0: the rows are damaged"),
        (dictionary([0, 1], ["alice", None]), "row 1: the column participant must not be null"),
        (
            pa.Array.from_buffers(
                pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")]
            ),
            "row 0: the rows are damaged",
        ),
    ],
)
def test_a_table_that_is_damaged_within_is_refused_with_its_row(participants, words):
    sealed = rows(*call(Sender(provider()), 2))
    with pytest.raises(ArchiveError, match=words):
        Opener(provider())(sealed.set_column(1, "participant", participants))


def test_names_of_strangers_and_a_clock_that_goes_back_open_as_they_are():
    names = ["../../etc/passwd", "a\0b", "", "\u202e", "n" * 100_000]
    keys = provider()
    frames = [Sender(keys, name).audio(arrival=START - timedelta(days=at)) for at, name in enumerate(names)]
    silence = replace(frames[0], sealed=b"")
    opened = Opener(keys)(rows(*frames, silence))
    assert reasons(opened) == [None] * 6
    assert opened["participant"].to_pylist() == [*names, names[0]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"keys": "passphrase"}, TypeError),
        ({"keys": []}, ValueError),
        ({"keys": [provider(), object()]}, TypeError),
        ({"keys": fetch, "profile": "no such"}, ValueError),
        ({"keys": fetch, "replay_window": 0}, ValueError),
        ({"keys": fetch, "threads": "2"}, TypeError),
        ({"keys": fetch, "stateless": 1}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(arguments, error):
    with pytest.raises(error):
        Opener(**arguments)
    with pytest.raises(TypeError, match="table must be"):
        Opener(fetch)(pc)


def test_a_large_room_opens_in_one_table():
    keys = provider()
    frames = [Sender(keys, f"p{number}").audio(b"%d" % number) for number in range(300)]
    opener = Opener(keys)
    for _ in range(2):
        opened = opener(rows(*frames))
        frames = [Sender(keys, frame.participant).audio(b"%d" % at) for at, frame in enumerate(frames)]
        assert plain(opened) == [b"%d" % number for number in range(300)]


def test_an_earlier_result_stays_as_it_is():
    keys = provider()
    opener, first = Opener(keys), list(call(Sender(keys), 40))
    before = opener(rows(*first))
    shown = plain(before)
    opener(rows(*call(Sender(keys, "bob"), 80)))
    assert plain(before) == shown == [b"%s %d" % (b"video" if n % 2 else b"audio", n) for n in range(40)]


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
@pytest.mark.parametrize("threads", [2, 3, 64, None])
def test_threads_open_the_same(threads, profile):
    frames = [frame for name in "abc" for frame in call(Sender(provider(), name, profile), 40)]
    frames += frames[:5]
    frames += [replace(frame, profile="no such") for frame in frames[:3]]
    sealed = rows(*frames)
    one = Opener(provider())(sealed)
    assert reasons(one) == [None] * 120 + ["replayed"] * 5 + ["unsupported"] * 3
    assert Opener(provider(), threads=threads)(sealed).equals(one)


def test_a_table_with_more_combinations_of_names_than_are_counted_opens(monkeypatch):
    monkeypatch.setattr("frameseal.archive.opener.MAX_COUNTED", 5)
    keys = provider()
    frames = [Sender(keys, name).audio() for name in "abcdefghi"]
    assert reasons(Opener(keys)(rows(*frames, frames[0]))) == [None] * 9 + ["replayed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forked_children_open_with_threads():
    opener, sealed = Opener(fetch, threads=2), rows(*call(Sender(provider()), 40))
    assert reasons(opener(sealed)) == [None] * 40
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if reasons(Opener(fetch, threads=2)(sealed)) == [None] * 40 else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
