"""Functions that wait for modules: which modules they receive, when, and what they leave as it was."""

import importlib
import importlib.machinery
import importlib.util
import sys
import threading

import pytest

from frameseal._imports import _watcher, after_import


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the folder of a package that nobody has imported."""
    folder = tmp_path / "awaited"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "part.py").write_text("value = 1\n")
    (folder / "broken.py").write_text("value = 1\nraise LookupError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_watcher, "followed", {})
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is not _watcher])
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "awaited"]:
        del sys.modules[name]


def test_a_module_is_received_after_it_ran_and_once(package):
    seen = []
    after_import({"awaited.part"}.__contains__, lambda module: seen.append((module.__name__, module.value)))
    importlib.import_module("awaited")
    assert seen == []
    importlib.import_module("awaited.part")
    importlib.import_module("awaited.part")
    assert seen == [("awaited.part", 1)]


def test_a_present_module_is_received_at_once_and_again_with_each_call(package):
    importlib.import_module("awaited.part")
    seen = []
    for times in (1, 2):
        after_import({"awaited.part"}.__contains__, seen.append)
        assert seen == [sys.modules["awaited.part"]] * times
    assert sys.meta_path.count(_watcher) == 1


def test_a_module_that_is_loaded_again_is_received_again(package):
    seen = []
    after_import({"awaited.part"}.__contains__, seen.append)
    module = importlib.import_module("awaited.part")
    importlib.reload(module)
    assert seen == [module, module]


def test_every_function_receives_the_module(package):
    seen = []
    after_import({"awaited.part"}.__contains__, lambda module: seen.append("first"))
    after_import({"awaited.part"}.__contains__, lambda module: seen.append("second"))
    importlib.import_module("awaited.part")
    assert seen == ["first", "second"]


def test_the_module_keeps_the_loader_of_its_own(package):
    after_import({"awaited.part"}.__contains__, lambda module: None)
    spec = importlib.util.find_spec("awaited.part")
    assert spec.loader.get_filename("awaited.part") == str(package / "part.py")
    module = importlib.import_module("awaited.part")
    assert type(module.__loader__) is type(module.__spec__.loader) is importlib.machinery.SourceFileLoader


def test_a_module_that_fails_is_not_received_and_its_error_is_its_own(package):
    seen = []
    after_import({"awaited.broken", "awaited.none"}.__contains__, seen.append)
    with pytest.raises(LookupError, match="broken"):
        importlib.import_module("awaited.broken")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("awaited.none")
    assert seen == []


def test_a_function_that_raises_fails_the_import(package):
    def refuse(module):
        raise ImportError("refused")

    after_import({"awaited.part"}.__contains__, refuse)
    with pytest.raises(ImportError, match="refused"):
        importlib.import_module("awaited.part")
    assert "awaited.part" not in sys.modules


def test_a_module_that_another_thread_is_importing_is_waited_for(package):
    (package / "part.py").write_text("import builtins\nbuiltins.begun.set()\nbuiltins.go_on.wait(10)\nvalue = 1\n")
    begun, go_on = threading.Event(), threading.Event()
    import builtins

    builtins.begun, builtins.go_on = begun, go_on
    try:
        importing = threading.Thread(target=importlib.import_module, args=("awaited.part",))
        importing.start()
        assert begun.wait(10)
        seen = []
        waiting = threading.Thread(
            target=after_import, args=({"awaited.part"}.__contains__, lambda module: seen.append(module.value))
        )
        waiting.start()
        go_on.set()
        for thread in (importing, waiting):
            thread.join(10)
        assert seen == [1]
    finally:
        del builtins.begun, builtins.go_on
