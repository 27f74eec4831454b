"""The grid, decoded again: every tile shows its picture at its time, and the sound is the sum."""

import av
import numpy as np
import pytest

from frameseal.tools.opening import grid, open_frames
from frameseal.tools.opening.grid import BACKGROUND, FRAME_RATE, MAX_HOURS, NoGrid, write_grid
from frameseal.tools.opening.matroska import PARTS
from support.calls import Picture
from support.recorded import assert_pure, heard, onset, pictures, recorded, sounds, together


def composed(tmp_path, *tracks, seconds=3.0):
    opened = open_frames(together(*tracks), tmp_path / "opened")
    path = tmp_path / "grid.mp4"
    write_grid(opened.files, path, seconds)
    return path


def tiles(path, columns=1, rows=1):
    """Return the pictures of each tile, from the first to the last, by time. A tile shows 4:3."""
    found = {}
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="yuv420p")
            rows_of_luma, line = frame.height, frame.width
            chroma = image[rows_of_luma:].reshape(2, rows_of_luma // 2, line // 2)
            height, width = rows_of_luma // rows, line // columns
            pieces = []
            for number in range(columns * rows):
                top, left = number // columns * height, number % columns * width
                inner_height = height - 2 * grid.BORDER - grid.LABEL
                inner_width = min(width - 2 * grid.BORDER, inner_height * 4 // 3) // 4 * 4
                shown_height = inner_width * 3 // 4 // 4 * 4
                x = (left + grid.BORDER + (width - 2 * grid.BORDER - inner_width) // 2) // 2 * 2
                y = (top + grid.BORDER + (inner_height - shown_height) // 2) // 2 * 2
                luma = image[y : y + shown_height, x : x + inner_width]
                half = chroma[:, y // 2 : (y + shown_height) // 2, x // 2 : (x + inner_width) // 2]
                piece = np.concatenate([luma.reshape(-1), half.reshape(-1)]).reshape(-1, inner_width)
                pieces.append(Picture.read(av.VideoFrame.from_ndarray(piece, format="yuv420p")))
            found[round(float(frame.time), 3)] = pieces
    return found


def test_one_participant_is_shown_and_heard_in_time(tmp_path):
    path = composed(
        tmp_path,
        recorded(pictures("vp8", 90), codec="vp8"),
        recorded(sounds("opus", 3, silence=1), codec="opus", track="mic", ssrc=2),
    )
    shown = tiles(path)
    assert len(shown) == 3 * FRAME_RATE
    for time, (picture,) in shown.items():
        assert picture.colour == "red"
        assert abs(picture.number - time * 30) <= 1
    samples, _, rate = heard(path)
    assert abs(onset(path) - 1) < 0.04
    assert_pure(samples[int(1.2 * rate) : int(2.8 * rate)], rate)


def test_three_participants_have_their_places_and_one_sound(tmp_path):
    path = composed(
        tmp_path,
        recorded(pictures("vp8", 90), codec="vp8"),
        recorded(pictures("h264", 90, colour="blue"), participant="bob", codec="h264"),
        recorded(pictures("vp9", 90, colour="green"), participant="carol", codec="vp9"),
        recorded(sounds("opus", 3, hertz=440), codec="opus", track="mic", ssrc=2),
        recorded(sounds("pcmu", 3, hertz=1000), participant="bob", codec="pcmu", track="mic", ssrc=2),
    )
    for time, found in tiles(path, columns=2, rows=2).items():
        assert [picture.colour for picture in found[:3]] == ["red", "blue", "green"], time
        assert all(abs(picture.number - time * 30) <= 1 for picture in found[:3])
    samples, _, rate = heard(path)
    spectrum = np.abs(np.fft.rfft(samples[rate : 2 * rate] * np.hanning(rate)))
    assert {round(hertz, -1) for hertz in np.argsort(spectrum)[-4:]} == {440, 1000}


def test_a_gap_is_dark_and_silent_and_what_follows_is_in_its_place(tmp_path):
    path = composed(
        tmp_path,
        recorded(pictures("vp8", 30), codec="vp8"),
        recorded(pictures("vp8", 30, first=300), codec="vp8", at=10, ssrc=3),
        recorded(sounds("opus", 1), codec="opus", track="mic", ssrc=2),
        recorded(sounds("opus", 1), codec="opus", track="mic", ssrc=4, at=10),
        seconds=11,
    )
    shown = tiles(path)
    assert shown[9.0] == [Picture(None, None)]
    assert abs(shown[10.6][0].number - 318) <= 2
    samples, _, rate = heard(path)
    assert np.abs(samples[2 * rate : 9 * rate]).max() < 50
    assert np.abs(samples[int(10.3 * rate) : int(10.8 * rate)]).max() > 5000


def test_a_track_that_changes_its_codec_keeps_its_tile(tmp_path):
    path = composed(
        tmp_path,
        recorded(pictures("vp8", 30), codec="vp8"),
        recorded(pictures("h264", 30, first=30), codec="h264", at=1, ssrc=2),
        seconds=2,
    )
    assert all(abs(picture.number - time * 30) <= 2 for time, (picture,) in tiles(path).items())


def test_a_participant_without_a_picture_has_a_tile_with_the_name(tmp_path):
    path = composed(tmp_path, recorded(sounds("opus", 1), codec="opus"), seconds=1)
    with av.open(str(path)) as container:
        luma = next(container.decode(video=0)).to_ndarray(format="yuv420p")[: grid.HEIGHT]
    assert abs(int(luma[100, 600]) - BACKGROUND) < 4
    assert luma[-grid.BORDER - grid.LABEL :, :200].max() > 200


def test_loud_voices_together_are_clipped_and_do_not_wrap(tmp_path):
    people = [recorded(sounds("pcmu", 1), participant=str(n), codec="pcmu", track="mic") for n in range(6)]
    samples, _, rate = heard(composed(tmp_path, *people, seconds=1))
    steps = np.abs(np.diff(samples[rate // 4 : rate // 2]))
    assert samples.max() > 30000 and steps.max() < 12000


def test_nothing_to_show_and_a_wrong_clock_are_refused(tmp_path):
    opened = open_frames(recorded(pictures("vp8", 30), codec="vp8", unopened=range(30)), tmp_path / "opened")
    with pytest.raises(NoGrid, match="nothing has opened"):
        write_grid(opened.files, tmp_path / "grid.mp4", 1)
    with pytest.raises(NoGrid, match="more than 24 hours"):
        write_grid(opened.files, tmp_path / "grid.mp4", MAX_HOURS * 3600 + 1)
    assert not (tmp_path / "opened" / PARTS).exists() and not (tmp_path / "grid.mp4").exists()


def test_an_interrupted_grid_leaves_no_file(tmp_path):
    opened = open_frames(recorded(pictures("vp8", 90), codec="vp8"), tmp_path / "opened")

    def interrupt(done):
        if done >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_grid(opened.files, tmp_path / "grid.mp4", 3, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["opened"]
