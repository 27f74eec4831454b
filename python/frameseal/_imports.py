"""Functions that run when another package imports a module: the hook and the adapters change what is in it.

A framework may import a stack, or a part of its own, long after the application has called frameseal.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

__all__ = ["after_import"]

Then = Callable[[ModuleType], None]


def after_import(covers: Callable[[str], bool], then: Then) -> None:
    """Call *then* with each module whose name *covers*: with present modules now, with others when they are imported.

    A second call with the same *then* calls it with the present modules again. If *then* raises, the import fails.
    """
    _watcher.followed.setdefault(then, covers)
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)
    for name in list(sys.modules):
        if covers(name):
            # Wait here, without any lock, for a thread that is importing the module.
            with contextlib.suppress(ImportError):
                then(importlib.import_module(name))


class _FollowingLoader(importlib.abc.Loader):
    """The loader of one module, which calls the functions after it has executed the module."""

    def __init__(self, inner: importlib.abc.Loader, functions: list[Then]) -> None:
        self._inner = inner
        self._functions = functions

    def __getattr__(self, name: str) -> object:
        found: object = getattr(vars(self)["_inner"], name)
        return found

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module of the inner loader. None means that the import system makes it."""
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, and call the functions with it."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        for then in self._functions:
            then(module)


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds the modules that functions wait for, through the finders after it."""

    def __init__(self) -> None:
        self.followed: dict[Then, Callable[[str], bool]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that functions wait for, with a `_FollowingLoader`. None means another module."""
        functions = [then for then, covers in list(self.followed.items()) if covers(fullname)]
        if not functions:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                        spec.loader = _FollowingLoader(spec.loader, functions)
                    return spec
        return None


_watcher: Final = _Watcher()
