"""Transcripts: who said what and when, with the recogniser of the examples and with others."""

from importlib import metadata

import av
import numpy as np
import pytest

from frameseal import KeyRing
from frameseal.tools.cli import main
from frameseal.tools.opening import open_frames, transcript
from frameseal.tools.opening.transcript import (
    GROUP,
    MAX_UTTERANCE,
    NoRecognizer,
    find_recognizer,
    utterances,
    write_transcripts,
)
from support.archives import archive
from support.calls import PASSPHRASE
from support.paths import ROOT, TESTS
from support.recorded import recorded, sealed, sounds, together

RATE = 16000


def spoken(name):
    """Return the Opus frames of a recorded voice."""
    with av.open(str(TESTS / "vectors" / "speech" / f"{name}.ogg")) as container:
        return [bytes(packet) for packet in container.demux() if packet.size]


def installed(folder, monkeypatch, **recognizers):
    """Install a package whose entry points are these recognisers."""
    info = folder / "made_up_recognizer-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-recognizer\nVersion: 1\n")
    lines = "".join(f"{name} = {place}\n" for name, place in recognizers.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
    # This package alone, whatever else the environment has.
    (distribution,) = metadata.distributions(path=[str(folder)])
    monkeypatch.setattr(transcript, "entry_points", lambda group: distribution.entry_points.select(group=group))


class Parrot:
    """Says how long it listened."""

    def recognize(self, samples):
        assert samples.dtype == np.int16
        yield 0.0, len(samples) / RATE, f"<{len(samples) / RATE:.0f} s> &  more"


def meeting(tmp_path):
    """Alice speaks from 2 s to 4 s, Bob from 5 s to 6 s."""
    return open_frames(
        together(
            recorded(sounds("opus", 4, silence=2), codec="opus", track="mic"),
            recorded(sounds("opus", 6, silence=5), participant="../bob", codec="opus", track="mic"),
        ),
        tmp_path / "opened",
    ).files


def test_the_example_hears_what_was_said_and_when(tmp_path, monkeypatch):
    """The entry point is the one in the example's pyproject.toml, and the model is in PocketSphinx's wheel."""
    project = (ROOT / "examples/recognizer/pyproject.toml").read_text("utf-8")
    place = 'pocketsphinx = "frameseal_pocketsphinx:PocketSphinx"'
    assert f'[project.entry-points."{GROUP}"]\n{place}' in project
    monkeypatch.syspath_prepend(str(ROOT / "examples/recognizer"))
    installed(tmp_path, monkeypatch, pocketsphinx="frameseal_pocketsphinx:PocketSphinx")
    files = open_frames(
        together(
            recorded(spoken("greeting"), codec="opus", track="mic"),
            recorded(spoken("counting"), participant="bob", codec="opus", track="mic", at=3),
        ),
        tmp_path / "opened",
    ).files
    said = write_transcripts(files, tmp_path / "said", find_recognizer(None))
    assert [(phrase.participant, phrase.text) for phrase in said] == [
        ("alice", "good morning"),
        ("bob", "one two three four five"),
    ]
    assert said[0].start < 0.5 and 3 <= said[1].start < 3.5 and 4.5 < said[1].end < 6
    lines = (tmp_path / "said" / "transcript.txt").read_text("utf-8").splitlines()
    assert lines == ["[00:00:00] alice: good morning", "[00:00:03] bob: one two three four five"]


def test_the_command_writes_the_transcript_of_an_archive(tmp_path, monkeypatch, capsys):
    installed(tmp_path, monkeypatch, parrot=f"{__name__}:Parrot")
    ring = KeyRing("livekit")
    ring.set_passphrase(PASSPHRASE)
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    frames = recorded(sounds("opus", 4, silence=2), codec="opus", track="mic")
    folder = archive(tmp_path / "archive", sealed(frames, {"alice": ring}))
    said = tmp_path / "said"
    arguments = ["--passphrase-file", str(tmp_path / "passphrase"), "--transcript", str(said)]
    assert main(["open", str(folder), "-o", str(tmp_path / "opened"), *arguments]) == 0, capsys.readouterr()
    assert (said / "transcript.txt").read_text("utf-8").startswith("[00:00:01] alice: <2 s>")
    assert sorted(path.relative_to(said).as_posix() for path in said.rglob("*.*")) == [
        "participants/alice.vtt",
        "transcript.txt",
        "transcript.vtt",
    ]


def test_files_say_who_spoke_when_and_escape_what_webvtt_reads(tmp_path):
    write_transcripts(meeting(tmp_path), tmp_path / "said", Parrot())
    text = (tmp_path / "said" / "transcript.vtt").read_text("utf-8")
    head, *cues = text.strip().split("\n\n")
    assert head == "WEBVTT"
    assert [cue.split("\n")[1] for cue in cues] == [
        "<v alice>&lt;2 s&gt; &amp; more",
        "<v ../bob>&lt;1 s&gt; &amp; more",
    ]
    first, _, last = cues[0].split("\n")[0].partition(" --> ")
    assert "00:00:01.6" <= first <= "00:00:02.1" and "00:00:03.9" <= last <= "00:00:04.1"
    apart = sorted(path.name for path in (tmp_path / "said" / "participants").iterdir())
    assert len(apart) == 2 and "alice.vtt" in apart and all("/" not in name for name in apart)


def test_silence_says_nothing(tmp_path):
    files = open_frames(recorded(sounds("opus", 2, hertz=0), codec="opus"), tmp_path / "opened").files
    assert write_transcripts(files, tmp_path / "said", Parrot()) == []
    assert (tmp_path / "said" / "transcript.txt").read_text() == ""


@pytest.mark.parametrize(
    ("name", "there", "hint"),
    [
        (None, {}, "no recogniser is installed"),
        (None, {"a": "x:A", "b": "x:B"}, "pass --recognizer with one of: a, b"),
        ("c", {"a": "x:A"}, "pass --recognizer with one of: a"),
        ("a", {"a": "no_such_module_at_all:A"}, "the recogniser a cannot start: ModuleNotFoundError"),
        ("a", {"a": "builtins:int.real"}, "the recogniser a cannot start: TypeError"),
    ],
)
def test_a_recogniser_that_is_not_there_or_cannot_start_is_named(tmp_path, monkeypatch, name, there, hint):
    installed(tmp_path, monkeypatch, **there)
    with pytest.raises(NoRecognizer, match=hint):
        find_recognizer(name)


# --- utterances ------------------------------------------------------------------------------------------------------


def loud(seconds):
    return np.full(int(seconds * RATE), 5000, np.int16)


def quiet(seconds):
    return np.zeros(int(seconds * RATE), np.int16)


def found(*stretches):
    return [(start / RATE, len(samples) / RATE) for start, samples in utterances(stretches)]


def test_utterances_are_divided_where_nobody_speaks():
    sound = np.concatenate([quiet(3), loud(1), quiet(0.3), loud(1), quiet(2), loud(1)])
    (first, length), (second, _) = found((0, sound))
    assert 2.7 <= first <= 3 and 2.3 <= length <= 3.1
    assert 7 <= second <= 7.3


def test_utterances_are_divided_at_gaps():
    assert found((0, loud(1)), (10 * RATE, loud(1))) == [(0, 1), (10, 1)]


def test_stretches_that_follow_each_other_are_one_utterance():
    assert found((0, loud(1)), (RATE, loud(1))) == [(0, 2)]


def test_no_utterance_is_longer_than_the_maximum_and_none_is_lost():
    pieces = list(utterances([(0, loud(100))]))
    assert max(len(samples) for _, samples in pieces) <= MAX_UTTERANCE
    assert sum(len(samples) for _, samples in pieces) == 100 * RATE
    assert [start for start, _ in pieces] == [n * MAX_UTTERANCE for n in range(len(pieces))]


def test_an_hour_of_silence_is_not_held():
    """The margin alone is: memory does not grow with a recording."""
    assert found((0, np.concatenate([quiet(3600), loud(1)])))[0][0] == pytest.approx(3599.8, abs=0.05)
