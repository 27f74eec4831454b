"""What `make loom` and `make miri` make of their tests and controls, with others in their place: who fails is told."""

import importlib
import re
from pathlib import Path

import pytest

from support.paths import ROOT

MODELS = ROOT / "rust/models"

RAN = "echo 'test model_x ... model some counters: 162 orders, 0.5 s, all'"
STOPPED = "echo 'model a fork: 99 orders, 9.0 s, stopped'"
FOUND = "echo 'a nonce was issued twice'; echo 'an authentic frame was refused'; echo 'a frame opens once'; exit 101"


@pytest.fixture
def loom(monkeypatch):
    monkeypatch.syspath_prepend(MODELS)
    return importlib.import_module("loom")


def ran(loom, monkeypatch, tmp_path: Path, models: str, controls: str = FOUND) -> int:
    binary = tmp_path / "models"
    binary.write_text(f"#!/bin/sh\ncase $* in *--ignored*) {controls};; *) {models};; esac\n")
    binary.chmod(0o755)
    monkeypatch.setattr(loom, "build", lambda: binary)
    return loom.main([])


def test_models_that_pass_are_listed_with_their_figures(loom, monkeypatch, tmp_path, capsys):
    assert ran(loom, monkeypatch, tmp_path, f"{RAN}; {STOPPED}") == 0
    said = capsys.readouterr().out
    assert re.search(r"(?m)^some counters +162 +0.5$", said)
    assert "2 models, 261 orders, at most 2 preemptions" in said
    assert "a fork: stopped after 600 s" in said


@pytest.mark.parametrize("models", ["true", f"{RAN}; exit 101"])
def test_a_model_that_fails_and_a_run_without_models_fail(loom, monkeypatch, tmp_path, models):
    assert ran(loom, monkeypatch, tmp_path, models) == 1


@pytest.mark.parametrize("controls", ["true", "exit 101", "echo 'a nonce was issued twice'"])
def test_a_fault_that_is_not_found_fails(loom, monkeypatch, tmp_path, capsys, controls):
    assert ran(loom, monkeypatch, tmp_path, RAN, controls) == 1
    assert "must fail with" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--preemptions", "0"], ["--seconds", "0"]])
def test_bounds_that_explore_nothing_are_refused(loom, arguments):
    with pytest.raises(SystemExit):
        loom.main(arguments)


@pytest.mark.parametrize(("script", "source"), [("loom", "interleavings"), ("miri", "memory")])
def test_every_control_is_expected_to_fail(monkeypatch, script, source):
    monkeypatch.syspath_prepend(MODELS)
    controls = re.findall(r"fn (control_\w+)", (ROOT / f"rust/core/tests/models/{source}.rs").read_text("utf-8"))
    assert controls == list(importlib.import_module(script).CONTROLS)


UNDEFINED = "Undefined Behavior: out-of-bounds, uninitialized, a tag of Stack Borrows"
CLEAN = "\n".join(f"test {module}tests::x ... ok" for module in ("wire::", "codec::", "keyring::nonce::"))
CLEAN += "\n" + "\n".join(f"test frame::{module}::x ... ok" for module in ("memory", "replay", "stats"))


@pytest.mark.parametrize(
    ("control", "tests", "code"),
    [
        ((1, UNDEFINED), (0, CLEAN), 0),
        ((1, UNDEFINED), (1, CLEAN), 1),
        ((1, UNDEFINED), (0, ""), 1),
        ((0, UNDEFINED), (0, CLEAN), 1),
        ((1, "a panic"), (0, CLEAN), 1),
    ],
)
def test_miri_must_find_the_controls_and_nothing_else(monkeypatch, control, tests, code):
    monkeypatch.syspath_prepend(MODELS)
    miri = importlib.import_module("miri")
    monkeypatch.setattr(miri, "test", lambda *arguments: control if "--ignored" in arguments else tests)
    assert miri.main([]) == code
