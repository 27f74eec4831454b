"""The steps of `make free-threaded` that decide something: the mirror, the crate, and whether there is a GIL."""

import importlib
import sys
import tomllib

import pytest

from support.paths import ROOT

HERE = ROOT / "rust/free-threaded"


@pytest.fixture
def free_threaded(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("free_threaded")


def test_the_sources_come_from_the_mirror_that_apt_uses(free_threaded):
    targets = "http://cloud.test/apt cloud cloud main\nhttp://m.test/debian-security s Debian main\n"
    targets += "http://m.test/debian bookworm Debian main\nhttp://m.test/debian bookworm-updates Debian main\n"
    assert free_threaded.mirror(targets) == "http://m.test/debian"
    with pytest.raises(SystemExit, match="needs Debian's mirror"):
        free_threaded.mirror("http://cloud.test/apt cloud cloud main\n")


def test_the_crate_for_3_13_compiles_the_sources_of_the_module_with_the_last_pyo3_that_supports_it(free_threaded):
    crate = tomllib.loads(free_threaded.manifest((3, 13)).read_text("utf-8"))
    module = tomllib.loads(free_threaded.manifest((3, 14)).read_text("utf-8"))
    assert crate["lib"]["path"] == "../python/src/lib.rs" and crate["lib"]["name"] == module["lib"]["name"]
    assert crate["dependencies"].keys() == module["dependencies"].keys()
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))
    assert crate["dependencies"]["pyo3"] == "0.28" and workspace["workspace"]["dependencies"]["pyo3"] != "0.28"
    assert crate["package"]["version"] == workspace["workspace"]["package"]["version"]


def test_every_pyclass_is_frozen_and_the_module_needs_no_gil():
    """A class that is not frozen would be borrowed at run time, and raise if two threads use it."""
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "rust/python/src").glob("*.rs"))
    assert sources.count("#[pyclass(") == sources.count("#[pyclass(frozen,") == 8
    assert "#[pymodule(gil_used = false)]" in sources


def test_the_tests_of_the_lists_are_there_and_3_14_runs_all(free_threaded):
    assert all((ROOT / path).is_file() for path in free_threaded.TESTS)
    for path, _, name in (test.partition("::") for test in free_threaded.HANG_IN_3_13):
        assert path in free_threaded.TESTS and f"def {name}(" in (ROOT / path).read_text("utf-8")
    assert free_threaded.selection((3, 14)) == free_threaded.TESTS
    assert len(free_threaded.selection((3, 13))) == len(free_threaded.TESTS) + 3


def test_the_version_of_an_interpreter_is_read(free_threaded):
    assert free_threaded.version_of(sys.executable) == sys.version_info[:2]


def test_a_process_with_a_gil_is_told(free_threaded, tmp_path, monkeypatch):
    monkeypatch.setattr(free_threaded, "GIL", "import gil; print(gil.ENABLED)")
    for enabled in (True, False):
        (tmp_path / "gil.py").write_text(f"ENABLED = {enabled}")
        assert free_threaded.has_gil(sys.executable, tmp_path, PYTHONDONTWRITEBYTECODE="1") is enabled
    with pytest.raises(Exception, match="returned non-zero"):
        free_threaded.has_gil(sys.executable, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("with_one", "without", "told"),
    [(True, False, None), (False, False, "shows nothing"), (True, True, "brought the GIL back")],
)
def test_a_gil_stops_the_run_before_any_test(free_threaded, monkeypatch, capsys, *, with_one, without, told):
    ran = []
    monkeypatch.setattr(free_threaded, "environment", lambda python: python)
    monkeypatch.setattr(free_threaded, "package", lambda python: python)
    monkeypatch.setattr(free_threaded, "version_of", lambda _: (3, 14))
    monkeypatch.setattr(free_threaded, "has_gil", lambda *_, **more: with_one if more else without)
    monkeypatch.setattr(
        free_threaded.subprocess, "run", lambda command, **_: ran.append(command) or type("Done", (), {"returncode": 5})
    )
    assert free_threaded.main(["--python", "python3.14t"]) == (5 if told is None else 1)
    assert bool(ran) == (told is None)
    assert told is None or told in capsys.readouterr().err
