"""The Python reference of the site: which names it has, and the pages that Sphinx's autodoc fills.

The native classes have no docstrings at run time. `use_stub` puts the classes of `_native.pyi` in their place, with
their signatures, types and docstrings.
"""

import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import frameseal

# Each public module, and what its page is called in the navigation.
MODULES = {
    "frameseal": "the core, errors, a call",
    "frameseal.aiortc": "connections of aiortc",
    "frameseal.livekit": "rooms of LiveKit",
    "frameseal.pymediasoup": "transports of pymediasoup",
    "frameseal.videosdk": "meetings of VideoSDK",
    "frameseal.getstream": "calls of Stream",
    "frameseal.frame_cryptor": "pipelines without aiortc",
    "frameseal.datachannel": "data channels",
    "frameseal.archive": "sealed recordings",
    "frameseal.keys.fetch": "a client for key servers",
    "frameseal.keys.fingerprint": "codes that people compare",
    "frameseal.keys.policies": "when a room changes its key",
    "frameseal.keys.room": "the policies on an event loop",
    "frameseal.inspection.readings": "sealed frames, without a key",
    "frameseal.tools.sfu": "an SFU without a key",
    "frameseal._native": "types of the core",
}

NATIVE = "frameseal._native"
STUB = Path(frameseal.__file__).with_name("_native.pyi")

_PAGE = "{title}\n{line}\n\n.. py:module:: {module}\n\n{introduction}\n\n"


def use_stub() -> None:
    """Put the stub's classes in place of the native ones, in `frameseal` and in its module.

    All public modules are imported before, because they need the native functions.
    """
    for module in MODULES:
        importlib.import_module(module)
    for name in frameseal.__all__:
        getattr(frameseal, name)
    typing.type_check_only = lambda cls: cls  # type: ignore[attr-defined]  # exists for type checkers only
    loader = importlib.machinery.SourceFileLoader(NATIVE, str(STUB))
    stub = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(NATIVE, loader, origin=str(STUB)))
    loader.exec_module(stub)
    for name in frameseal.__all__:
        if inspect.isclass(getattr(frameseal, name)) and hasattr(stub, name):
            setattr(frameseal, name, getattr(stub, name))
    sys.modules[NATIVE] = stub
    frameseal._native = stub  # type: ignore[attr-defined]


def public_names(module: str) -> list[str]:
    """Return the public names of a module in its own order.

    Without `__all__` they are the classes and functions that the module defines. The page of the native module has
    what `frameseal` does not have.
    """
    found = importlib.import_module(module)
    if module == NATIVE:
        classes = [name for name, value in vars(found).items() if _defined(value, found)]
        return [name for name in classes if name not in frameseal.__all__]
    names = getattr(found, "__all__", None)
    return [*names] if names is not None else [name for name, value in vars(found).items() if _defined(value, found)]


def _defined(value: object, module: ModuleType) -> bool:
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return False
    return value.__module__ == module.__name__ and not value.__name__.startswith("_")


def gaps(module: str) -> Iterator[str]:
    """Yield the public names of *module*, and the methods of its classes, that have no docstring."""
    for name in public_names(module):
        value = getattr(importlib.import_module(module), name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        # A dataclass and a named tuple make themselves a docstring that only lists their fields.
        if not value.__doc__ or value.__doc__.startswith(f"{name}("):
            yield f"{module}.{name}"
        for member, inner in vars(value).items() if inspect.isclass(value) else ():
            method = inner.__func__ if isinstance(inner, staticmethod | classmethod) else inner
            if inspect.isfunction(method) and not member.startswith("_") and not inspect.getdoc(getattr(value, member)):
                yield f"{module}.{name}.{member}"


def docstrings() -> dict[str, str]:
    """Return the docstring of each public name, and of each public method and property. `use_stub` comes first."""
    found = {}
    for module in MODULES:
        for name in public_names(module):
            value = getattr(importlib.import_module(module), name)
            documented = inspect.isclass(value) or inspect.isfunction(value)
            found[f"{module}.{name}"] = inspect.cleandoc(value.__doc__ or "") if documented else ""
            for member, inner in vars(value).items() if inspect.isclass(value) else ():
                method = inner.__func__ if isinstance(inner, staticmethod | classmethod) else inner
                if not member.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)):
                    found[f"{module}.{name}.{member}"] = inspect.cleandoc(method.__doc__ or "")
    return found


def page(module: str) -> str:
    """Return the page of a module: its introduction, and a directive of autodoc for each public name."""
    found = importlib.import_module(module)
    title = module if module != NATIVE else "Types of the core"
    introduction = inspect.getdoc(found) or ""
    text = _PAGE.format(title=title, line="=" * len(title), module=module, introduction=introduction)
    return text + "\n".join(_entry(module, name, getattr(found, name)) for name in public_names(module))


def _entry(module: str, name: str, value: Any) -> str:
    if inspect.isclass(value):
        options = ["members", "undoc-members", *(["show-inheritance"] if value.__bases__ != (object,) else [])]
        return f".. autoclass:: {module}.{name}\n" + "".join(f"   :{option}:\n" for option in options)
    if inspect.isfunction(value) or inspect.isbuiltin(value):
        return f".. autofunction:: {module}.{name}\n"
    return f".. autodata:: {module}.{name}\n   :no-value:\n"


def contents() -> str:
    """Return the page that lists the modules."""
    title = "Python"
    rows = "".join(f"   * - :py:mod:`{module}`\n     - {summary}\n" for module, summary in MODULES.items())
    pages = "".join(f"   {module}\n" for module in MODULES)
    return (
        f"{title}\n{'=' * len(title)}\n\n"
        "The public names, with their types. All other names may change.\n\n"
        f".. list-table::\n   :widths: auto\n\n{rows}\n"
        f".. toctree::\n   :hidden:\n\n{pages}"
    )


def pages() -> dict[str, str]:
    """Return the text of each page in reStructuredText, by its name."""
    if missing := [name for module in MODULES for name in gaps(module)]:
        raise SystemExit(f"without a docstring: {', '.join(missing)}")
    return {"index": contents(), **{module: page(module) for module in MODULES}}
