"""Placing frames on one time line, in simulated clocks: no test waits for anything."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameseal.tools.opening.clocks import SECOND, Clocks
from support.recorded import recorded, together

MS = SECOND // 1000
START_OF_TESTS, END_OF_TESTS = datetime(2026, 11, 29, 9), datetime(2026, 11, 29, 9, 1)
(TEMPLATE,) = recorded([b"frame"])


def placed(frames):
    """Return the clocks, and the placed times of each track in microseconds."""
    clocks, times = Clocks(), {}
    for frame in frames:
        for each in clocks.push(frame):
            times.setdefault(each.frame.track, []).append((each.time, each.frame))
    for each in clocks.flush():
        times.setdefault(each.frame.track, []).append((each.time, each.frame))
    return clocks, times


def only_times(times):
    return {track: [time for time, _ in found] for track, found in times.items()}


def camera(seconds, **options):
    return recorded([b"picture"] * int(seconds * 30), track="camera", codec="vp8", **options)


def microphone(seconds, **options):
    options = {"rtp_start": 77, "ssrc": 2, "seed": 2, **options}
    return recorded([b"sound"] * int(seconds * 50), track="microphone", codec="opus", **options)


def test_every_frame_is_placed_once_and_in_order():
    frames = list(together(camera(5, jitter=0.1), microphone(5, jitter=0.1)))
    _, times = placed(frames)
    assert {track: len(found) for track, found in times.items()} == {"camera": 150, "microphone": 250}
    for found in times.values():
        assert [frame.rtp_timestamp for _, frame in found] == sorted(frame.rtp_timestamp for _, frame in found)
        assert all(later >= earlier for (earlier, _), (later, _) in pairwise(found))


def test_jitter_does_not_reach_picture_or_sound():
    """The steps are those of the RTP clock, to a millisecond: Matroska's unit. The network's are up to 170 ms."""
    _, times = placed(together(camera(8, jitter=0.15), microphone(8, jitter=0.15)))
    steps = {later - earlier for earlier, later in pairwise(only_times(times)["microphone"])}
    assert min(steps) > 19 * MS and max(steps) < 21 * MS


@pytest.mark.parametrize("seed", range(5))
def test_lips_and_voice_are_within_40_ms(seed):
    """Both tracks begin at one moment, and the network delays each frame by up to 120 ms more than the least."""
    _, times = placed(together(camera(20, jitter=0.12, seed=seed), microphone(20, jitter=0.12, seed=seed + 50)))
    moments = only_times(times)
    worst = max(abs(moments["camera"][3 * n] - moments["microphone"][5 * n]) for n in range(200))
    assert worst < 40 * MS


@pytest.mark.parametrize("drift", [-3e-4, 3e-4])
def test_a_drifting_clock_stays_within_40_ms_over_ten_minutes(drift):
    """At 300 ppm ten minutes make 180 ms. The camera's clock drifts, the microphone's does not."""
    _, times = placed(together(camera(600, jitter=0.03, drift=drift), microphone(600, jitter=0.03)))
    moments = only_times(times)
    wrong = []
    for number in range(0, 590, 5):
        picture = moments["camera"][int(number * 30)]
        captured = int(number * SECOND / (1 + drift))
        start = moments["microphone"][0]
        wrong.append(abs(picture - start - captured))
    assert max(wrong) < 40 * MS


def test_a_gap_stays_a_gap():
    _, times = placed(together(camera(10, missing=range(60, 150)), microphone(10)))
    moments = only_times(times)["camera"]
    assert moments[60] - moments[59] == pytest.approx(91 * SECOND / 30, abs=MS)


def test_a_participant_who_comes_back_is_where_they_came_back():
    """The new RTP stream starts at another number."""
    again = camera(5, at=60, ssrc=9, rtp_start=5)
    _, times = placed(together(camera(5), again, microphone(70)))
    moments = only_times(times)
    assert moments["camera"][150] - moments["camera"][0] == pytest.approx(60 * SECOND, abs=40 * MS)
    assert abs(moments["camera"][150] - moments["microphone"][3000]) < 40 * MS


def test_a_clock_that_stood_still_while_muted_goes_on_at_the_right_time():
    """Some senders stop the RTP clock of a muted track, under one SSRC."""
    first = camera(5)
    paused = camera(5, at=35, rtp_start=0x8000_0000 + 5 * 90000)
    _, times = placed(together(first, paused, microphone(45)))
    moments = only_times(times)
    assert abs(moments["camera"][150] - moments["microphone"][1750]) < 40 * MS


def test_a_burst_of_late_frames_does_not_move_the_track():
    """The network stands still for 1.5 s, and then hands everything on at once."""
    frames = camera(10)
    stalled = [
        frame if not 3 <= number / 30 < 4.5 else _late(frame, frames[135].arrival)
        for number, frame in enumerate(frames)
    ]
    _, times = placed(together(stalled, microphone(10)))
    moments = only_times(times)["camera"]
    assert max(abs(time - moments[0] - number * SECOND // 30) for number, time in enumerate(moments)) < 40 * MS


def _late(frame, arrival):
    return replace(frame, arrival=max(frame.arrival, arrival))


def test_a_recorders_clock_that_is_set_back_never_runs_the_time_line_backwards():
    frames = list(together(camera(10), microphone(10)))
    middle = len(frames) // 2
    frames = frames[:middle] + [_moved(frame, -3600) for frame in frames[middle:]]
    clocks, times = placed(frames)
    for track, moments in only_times(times).items():
        assert moments == sorted(moments), track
        assert moments[-1] == pytest.approx(10 * SECOND, abs=100 * MS)
    ((at, by),) = clocks.set_back
    assert by == pytest.approx(3600 * SECOND, abs=SECOND)
    assert at == pytest.approx(5 * SECOND, abs=SECOND)


def test_a_track_that_a_jitter_buffer_hands_on_late_sets_no_clock_back():
    """A lost packet holds up a buffer of 128 packets: seconds of small pictures. Their arrivals stay what they were."""
    pictures, late = camera(20), timedelta(seconds=4.3)
    handed_on = sorted(
        [
            (frame.arrival + late * (number >= 150), _moved(frame, 4.3) if number in (150, 200) else frame)
            for number, frame in enumerate(pictures)
        ]
        + [(frame.arrival, frame) for frame in microphone(20)],
        key=itemgetter(0),
    )
    clocks, times = placed(frame for _, frame in handed_on)
    assert clocks.set_back == []
    moments = only_times(times)
    assert moments["camera"][-1] == pytest.approx(20 * SECOND, abs=100 * MS)
    assert abs(moments["camera"][-1] - moments["microphone"][-1]) < 60 * MS


def test_a_clock_that_is_set_back_before_a_new_track_begins_is_known_too():
    frames = list(camera(10)) + [_moved(frame, -3600) for frame in microphone(10, at=10)]
    clocks, times = placed(frames)
    assert len(clocks.set_back) == 1
    assert only_times(times)["microphone"][0] == pytest.approx(10 * SECOND, abs=100 * MS)


def test_seconds_are_known_where_a_recorder_was_restarted():
    clocks, times = placed(camera(10) + [_moved(frame, -5) for frame in camera(10, at=10, ssrc=9)])
    assert len(clocks.set_back) == 1
    moments = only_times(times)["camera"]
    assert moments[-1] == pytest.approx(20 * SECOND, abs=100 * MS)
    assert len(set(moments)) == len(moments)


def test_a_recorders_clock_that_is_set_forward_is_a_gap_for_everybody():
    frames = list(together(camera(10), microphone(10)))
    middle = len(frames) // 2
    frames = frames[:middle] + [_moved(frame, 3600) for frame in frames[middle:]]
    _, times = placed(frames)
    moments = only_times(times)
    assert moments["camera"][-1] == pytest.approx(3610 * SECOND, abs=100 * MS)
    assert abs(moments["camera"][-1] - moments["microphone"][-1]) < 60 * MS


def _moved(frame, seconds):
    return replace(frame, arrival=frame.arrival + timedelta(seconds=seconds))


@pytest.mark.parametrize("clock_rate", [0, 1, 2**32 - 1])
def test_a_clock_rate_of_a_stranger_divides_nothing_by_zero(clock_rate):
    _, times = placed(replace(frame, clock_rate=clock_rate) for frame in camera(3))
    assert len(times["camera"]) == 90


def test_a_flood_is_placed_without_waiting_for_two_seconds():
    """So that memory stays bounded."""
    frames = recorded([b"x"] * 10_000, codec="opus")
    frozen = [_late(frame, frames[-1].arrival) for frame in frames]
    clocks = Clocks()
    assert sum(1 for frame in frozen[:5000] for _ in clocks.push(frame)) > 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["camera", "microphone"]),
            st.integers(0, 3),
            st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**6),
            st.integers(0, 2**32 - 1) | st.sampled_from([8000, 48000, 90000]),
            st.datetimes(timezones=st.just(UTC)) | st.datetimes(START_OF_TESTS, END_OF_TESTS, timezones=st.just(UTC)),
        ),
        max_size=60,
    )
)
def test_numbers_of_strangers_place_every_frame_within_the_range_of_the_arrivals(rows):
    """Nobody has authenticated the numbers beside a frame. Times fit the 64 bits of a muxer, and rise in each track."""
    frames = [
        replace(TEMPLATE, track=track, ssrc=ssrc, rtp_timestamp=rtp, clock_rate=rate, arrival=arrival)
        for track, ssrc, rtp, rate, arrival in rows
    ]
    _, times = placed(frames)
    assert sum(map(len, times.values())) == len(frames)
    for moments in only_times(times).values():
        assert moments == sorted(moments)
        assert moments[0] >= 0 and moments[-1] < 2**62


def test_one_frame_of_a_liar_does_not_move_the_others():
    """Its RTP time is years ahead, and it arrives within the first second, before any offset is known."""
    liar = replace(camera(1)[10], participant="mallory", rtp_timestamp=2**62)
    first = replace(camera(1)[9], participant="mallory")
    others = [*microphone(5)]
    _, times = placed(together(others, [first, liar]))
    assert only_times(times)["microphone"][-1] < 6 * SECOND
