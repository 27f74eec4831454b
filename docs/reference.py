"""Render the Python reference into a folder: the public API with its docstrings and types.

    python docs/reference.py FOLDER

It fails if a public name has no docstring. The stub `_native.pyi` provides those of the native classes.
"""

import importlib
import sys
import typing
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import pdoc
import pdoc.doc
import pdoc.doc_pyi

import frameseal

MODULES = (
    "frameseal",
    "frameseal.aiortc",
    "frameseal.pymediasoup",
    "frameseal.livekit",
    "frameseal.videosdk",
    "frameseal.getstream",
    "frameseal.frame_cryptor",
    "frameseal.datachannel",
    "frameseal.keys.fetch",
    "frameseal.keys.fingerprint",
    "frameseal.keys.policies",
    "frameseal.keys.room",
    "frameseal.inspection.readings",
    "frameseal.tools.sfu",
)

STUB = Path(frameseal.__file__).with_name("_native.pyi")

# pdoc reads a module's attributes, and the package imports each name on its first use.
for name in frameseal.__all__:
    getattr(frameseal, name)

# pdoc executes the stub, and this decorator exists for type checkers only.
typing.type_check_only = lambda cls: cls  # type: ignore[attr-defined]

# The native classes are public in `frameseal`, while their stub lies beside the module that defines them.
_find_stub_file = pdoc.doc_pyi.find_stub_file
pdoc.doc_pyi.find_stub_file = lambda module: STUB if module == "frameseal" else _find_stub_file(module)


def gaps(module: str) -> Iterator[str]:
    """Yield the public names of *module*, and of its classes, that have no docstring."""
    documented = pdoc.doc.Module(importlib.import_module(module))
    pdoc.doc_pyi.include_typeinfo_from_stub_files(documented)
    for member in _public(documented.members.values()):
        if not member.docstring and not isinstance(member, pdoc.doc.Variable):
            yield member.fullname
        if isinstance(member, pdoc.doc.Class):
            # Constants and fields may be clear by their names and types.
            yield from (
                inner.fullname
                for inner in _public(member.own_members)
                if isinstance(inner, pdoc.doc.Function) and not inner.docstring
            )


def _public(members: "Iterable[pdoc.doc.Doc]") -> "list[pdoc.doc.Doc]":
    return [member for member in members if not member.name.startswith("_")]


def main() -> None:
    """Render every module. Exits with 1 and the names if there is a gap."""
    warnings.filterwarnings("error", message="Found .* in .*__all__")
    # A NamedTuple's constructor names its fields' types as strings, out of the reach of pdoc.
    warnings.filterwarnings("ignore", message="Error parsing type annotation")
    if missing := [name for module in MODULES for name in gaps(module)]:
        sys.exit(f"without a docstring: {', '.join(missing)}")
    pdoc.pdoc(*MODULES, output_directory=Path(sys.argv[1]))


if __name__ == "__main__":
    main()
