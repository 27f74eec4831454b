"""The table of codecs: the same codecs as the core's, and the same facts, though written from the formats."""

import pytest

from frameseal import Decryptor, Encryptor, KeyRing
from frameseal._native import CODECS as CORE
from frameseal._native import codec_info
from frameseal.codecs import CODECS, CodecRow, find
from support.plain_media import opus, video


def test_every_codec_of_the_core_has_a_row_and_no_other():
    assert set(CODECS) == set(CORE)
    assert all(name == row.name == row.info["name"] for name, row in CODECS.items())


def test_a_name_without_a_row_is_refused_without_a_quote():
    for name in ("lyra", "OPUS", ""):
        with pytest.raises(ValueError, match=r"^unknown codec: expected one of opus, ") as refused:
            find(name)
        assert not name or name not in str(refused.value)
    with pytest.raises(ValueError, match="unknown codec"):
        codec_info("lyra")


def test_an_audio_codec_needs_the_length_of_its_payloads():
    with pytest.raises(ValueError, match=r"^ticks: the audio codec opus needs"):
        CodecRow(name="opus", clear_len=None)


@pytest.mark.parametrize("row", CODECS.values(), ids=CODECS)
def test_rows_agree_with_the_core(row):
    assert (row.ticks is not None) == (row.info["kind"] == "audio")
    assert (row.clear_len is None) == (row.info["clear_rule"] is None)
    assert row.nal_header_len == row.info["nal_header_len"]
    assert (row.info["payload_format"] == "whole") == (row.ticks is not None)
    assert row.info["payload_format"] or not row.is_encoded_by_stack


FRAMES = {
    "opus": opus(24000)[9],
    **dict.fromkeys(("pcmu", "pcma", "g722"), bytes(range(160))),
    **{name: video(name)[0] for name in ("vp8", "vp9", "h264", "h265")},
}


@pytest.mark.parametrize("name", [name for name, row in CODECS.items() if row.clear_len])
def test_the_clear_bytes_are_those_that_the_core_leaves(name):
    ring = KeyRing("livekit")
    ring.set_key(bytes(range(32)))
    sealed = Encryptor(ring, name).encrypt(FRAMES[name])
    frame = Decryptor(ring, name).decrypt(sealed)
    clear = CODECS[name].clear_len(sealed)
    assert sealed[:clear] == frame[:clear]
    assert sealed[: clear + 4] != frame[: clear + 4]
    assert len(sealed) >= len(frame) + 30


def test_one_second_of_payloads_is_one_second_of_the_clock():
    for name, payloads in {
        "opus": list(opus(24000)[:50]),
        "pcmu": [bytes(160)] * 50,
        "g722": [bytes(160)] * 50,
    }.items():
        row = CODECS[name]
        assert sum(row.ticks(payload) for payload in payloads) == row.info["clock_rate"]
