"""Doing something as soon as another module is imported, without importing it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def when_imported(name: str, callback: Callable[[], object]) -> None:
    """Calls `callback` once, right after the module `name` is imported; at once, if it is.

    What saved models name must be known to Keras before it loads one, and Keras cannot be asked to
    look it up. The finder that waits for the import goes as soon as it has served; the module
    itself is loaded as it always is.

    Args:
        name: string, a top-level module.
        callback: function without arguments.
    """
    if name in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Finder(name, callback))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, callback: Callable[[], object]) -> None:
        self._name, self._callback = name, callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        elif spec is None:
            self.wait()
        return spec

    def wait(self) -> None:
        """Waits for the next try: an import may fail."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def found(self) -> None:
        self._callback()


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module is to look as if nobody had waited for it.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._loader.exec_module(module)
        except BaseException:
            self._finder.wait()
            raise
        self._finder.found()
