"""What `import frameseal` offers, and what it does not drag in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import frameseal
from support import typed_api


def in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_is_there_once_and_listed():
    assert len(set(frameseal.__all__)) == len(frameseal.__all__)
    for name in frameseal.__all__:
        assert getattr(frameseal, name) is not None
    assert set(frameseal.__all__) <= set(dir(frameseal))


def test_star_import_gives_exactly_the_public_names():
    namespace: dict[str, object] = {}
    exec("from frameseal import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(frameseal.__all__)


def test_the_names_that_must_not_move_are_public():
    fixed = """KeyRing Encryptor Decryptor Profile ExternalE2EEKeyProvider E2EEManager E2EEState
    FrameError MalformedFrame UnknownKey AuthenticationFailed ReplayedFrame SenderMismatch KeyExhausted"""
    assert set(fixed.split()) <= set(frameseal.__all__)


async def test_the_names_that_must_not_move_do_what_they_did():
    typed_api.seal_and_open()
    await typed_api.hold_a_call()


def test_importing_the_package_drags_in_neither_an_event_loop_nor_any_third_party():
    heavy = [
        "asyncio",
        "pyee",
        "numpy",
        "aiortc",
        "vsaiortc",
        "av",
        "logging",
        "importlib.metadata",
        "frameseal.e2ee.manager",
    ]
    code = f"import sys, frameseal; print([name for name in {heavy!r} if name in sys.modules])"
    assert in_a_fresh_interpreter(code) == "[]"


@pytest.mark.parametrize(("name", "module"), frameseal._MODULES.items())
def test_every_name_is_loaded_on_first_use(name, module):
    code = f"""
import sys, frameseal
assert "{name}" in dir(frameseal) and "{name}" not in vars(frameseal)
first = frameseal.{name}
import {module}
assert first is {module}.{name} is frameseal.{name} is vars(frameseal)["{name}"]
assert "aiortc" not in sys.modules
"""
    in_a_fresh_interpreter(code)


def test_every_name_is_imported_from_the_module_that_defines_it():
    for name, module in frameseal._MODULES.items():
        if name != "__version__":
            assert getattr(frameseal, name).__module__ in (module, "frameseal"), name


def test_type_checkers_see_the_names_that_are_loaded_late():
    tree = ast.parse(Path(frameseal.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: statement.module for statement in guarded.body for alias in statement.names}
    assert imported == frameseal._MODULES
    # Without "as", a strict type checker does not re-export the name.
    assert all(alias.asname == alias.name for statement in guarded.body for alias in statement.names)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = frameseal.nonsense


def test_the_version_is_the_native_modules():
    assert frameseal.__version__ == sys.modules["frameseal._native"].__version__
    assert frameseal.__version__.split(".")[0].isdecimal()


def test_the_package_is_marked_as_typed():
    assert (Path(frameseal.__file__).parent / "py.typed").exists()
