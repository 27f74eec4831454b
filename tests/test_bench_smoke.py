"""The benchmarks run, and leave their figures. What the figures are `make bench` says: nothing is timed here."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from support.paths import ROOT

BENCHES = ROOT / "benches"


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, BENCHES / f"{name}.py", *arguments]
    # at_scale.py writes its archive with the tests' helpers.
    path = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.mark.parametrize(
    ("name", "arguments", "figures"),
    [
        ("table", ["--rounds", "1"], {"median_ns"}),
        ("batch", ["--frames", "50", "--rounds", "1"], {"median_ns", "second_core"}),
        ("cipher", ["--rounds", "1"], {"median_ns"}),
        ("participants", ["--participants", "25", "--rounds", "1"], {"participants", "videos", "rooms"}),
        ("latency", ["--seconds", "0.01"], {"us_by_busy_threads", "gb_per_s_by_threads"}),
        (
            "room_keys",
            ["--members", "10", "--minutes", "0.5"],
            {"members", "changes", "minutes", "policies"},
        ),
        (
            "archive",
            ["--frames", "60", "--rounds", "1", "--seconds", "3"],
            {
                "seconds",
                "frames",
                "sealed_bytes",
                "max_rss_mb",
                "gains_of_two_threads",
                "ratios",
                "remuxed_seconds_per_second",
                "large",
            },
        ),
        ("archive", ["--gigabytes", "0.001"], {"large"}),
        ("at_scale", ["rows", "--rounds", "1", "--tables", "2"], {"us_per_row", "rows", "rounds"}),
        (
            "rooms",
            ["--participants", "1", "2", "--rounds", "1", "--seconds", "0.5"],
            {"media", "rooms", "by_participant"},
        ),
        (
            "first_picture",
            ["--joins", "1", "--late", "0.2", "--late-joins", "1", "--rotations", "1"],
            {"joined_ms", "late_key_ms", "rotation_ms"},
        ),
        ("size", ["--rounds", "1", "--many", "50"], {"start_ms", "import_ms", "first_ms", "wheel_bytes", "bytes_each"}),
        (
            "pipeline",
            ["--rounds", "1", "--apart", "1", "--seconds", "0.5"],
            {
                "cpu_s_per_s",
                "added",
                "added_standard_error",
                "added_by_round",
                "frames_decoded",
                "us_per_frame",
                "shares",
            },
        ),
    ],
)
def test_a_benchmark_writes_its_figures_and_the_machine_they_are_of(tmp_path, name, arguments, figures):
    done = run(name, *arguments, "--output", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert set(written) - {"frameseal", "python", "machine", "cpu"} == figures


def test_the_counts_of_a_room_are_reproducible_and_within_the_policies(monkeypatch):
    monkeypatch.syspath_prepend(BENCHES)
    room_keys = importlib.import_module("room_keys")
    for name, policy in room_keys.POLICIES.items():
        found = room_keys.measure(name, 20, 60, 3)
        assert found == room_keys.measure(name, 20, 60, 3)
        assert found["longest_exposure_s"] <= policy.max_exposure
        if policy.delay:
            newcomers = 30 / 20  # whose first key counts, by minute and member
            assert found["keys_per_sender_and_minute"] <= 60 / policy.delay + 1 + newcomers


def races(*, without: tuple[str, ...] = ()) -> tuple[dict[str, list[str]], str]:
    """Who is in each race, and what was said about the others. In a process of its own, for the races' one key."""
    code = f"import sys; sys.modules |= dict.fromkeys({without!r}); import contenders, json; " + (
        "print(json.dumps({race: [one.name for one in field] for race, field in contenders.races().items()}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCHES, check=True)
    return json.loads(done.stdout), done.stderr


def test_all_rivals_are_in_the_races(contenders):
    found, told = races()
    common = [contenders.ALONE, contenders.FLOOR]
    assert [*found["livekit"][:4], *found["sframe"][-3:]] == [
        *(contenders.OURS, contenders.PURE, *common),
        *(*common, contenders.SFRAME_RS),
    ]
    if sys.platform == "linux":
        assert told == ""
        assert {contenders.DAVEY, contenders.DAVE_PY} < set(found["livekit"])
        assert contenders.WRTC in found["sframe"]


def test_a_rival_that_is_not_installed_is_named_and_left_out(contenders):
    found, told = races(without=("davey", "dave", "wrtc"))
    missing = {contenders.DAVEY, contenders.DAVE_PY, contenders.WRTC}
    assert missing.isdisjoint([*found["livekit"], *found["sframe"]])
    assert all(f"not installed: {name}" in told for name in missing)


def test_what_valgrind_counts_runs_without_it():
    done = run("instructions", "--child", "500")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_counting_instructions_without_valgrind_names_the_package_in_one_line():
    done = run("instructions", PATH="")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "benches/instructions.py needs valgrind: on Debian and Ubuntu, apt-get install valgrind"
    ]


def test_a_picture_without_perf_names_the_package_in_one_line():
    done = run("where", PATH="")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["benches/where.py needs perf: on Debian and Ubuntu, apt-get install linux-perf"]


def test_the_parts_of_a_batch_are_told_apart_by_their_symbols(monkeypatch):
    monkeypatch.syspath_prepend(BENCHES)
    where = importlib.import_module("where")
    native = "(/x/frameseal/_native.abi3.so)"
    for symbol, part in (
        ("aws_lc_0_47_0_gcm_gmult_avx512", "AEAD"),
        ("frameseal::frame::batch::open::Unopened::commit", "settling in order"),
        ("frameseal::frame::batch::open::OpenBatch::open_chunks", "claiming and parsing"),
        ("_native::decryptor::Decryptor::__pymethod_decrypt_batch__", "passes of one thread"),
    ):
        assert where.part_of(f"7f00 {symbol} {native}") == part
    assert where.part_of("7f00 finish_task_switch ([kernel.kallsyms])") == "memory, threads"
    assert where.draw({"now": dict.fromkeys([*where.PARTS, where.WAITING], 10.0)}).size[0] > 0


def test_the_fastest_known_is_named_in_one_line_where_it_is_not_installed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHES)
    ipsec_mb = importlib.import_module("ipsec_mb")
    monkeypatch.setattr(ipsec_mb, "LIBRARIES", ("libnobody-has-this.so",))
    assert ipsec_mb.find() == f"not installed: {ipsec_mb.INSTALL}"
    monkeypatch.setattr(ipsec_mb, "LIBRARIES", ("libc.so.6",))
    assert "no function" in ipsec_mb.find() or sys.platform != "linux"


def test_hiding_avx512_leaves_the_other_features(monkeypatch):
    monkeypatch.syspath_prepend(BENCHES)
    first, second = importlib.import_module("cipher").MASK.split(":")
    hidden = int(second.removeprefix("~"), 16)
    ebx, ecx = hidden & 0xFFFF_FFFF, hidden >> 32
    avx2, vaes, vpclmulqdq = 1 << 5, 1 << 9, 1 << 10
    assert first == "~0"
    assert ebx >> 16 & 1, "AVX512F is not hidden"
    assert not ebx & avx2
    assert not ecx & (vaes | vpclmulqdq)


def test_a_wheel_is_small(monkeypatch):
    monkeypatch.syspath_prepend(BENCHES)
    size = importlib.import_module("size")
    assert any(size.PACKAGE.glob("_native*")), "without the native module the package weighs nothing"
    assert size.wheel_bytes() < size.MAX_WHEEL_BYTES


@pytest.fixture
def contenders(monkeypatch):
    monkeypatch.syspath_prepend(BENCHES)
    return importlib.import_module("contenders")
