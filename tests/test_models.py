"""What `make loom` makes of its models and controls, with scripts in their place: who fails is told."""

import importlib
import re
from pathlib import Path

import pytest

from support.paths import ROOT

MODELS = ROOT / "rust/models"
SOURCE = (ROOT / "rust/core/tests/models/interleavings.rs").read_text("utf-8")

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


def test_every_control_of_the_models_is_expected_to_fail(loom):
    assert re.findall(r"fn (control_\w+)", SOURCE) == list(loom.CONTROLS)
