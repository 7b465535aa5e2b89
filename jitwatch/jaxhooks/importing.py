"""Runs a callback when the job imports a module, so that jitwatch can be installed before `import jax`.

Importing jax for the job would fix `JAX_PLATFORMS` and similar variables before the job has set them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat


class _NotifyingLoader(importlib.abc.Loader):
    """The module's own loader, with a callback after the module has run."""

    def __init__(self, loader: importlib.abc.Loader, watch: ImportWatch) -> None:
        self._loader = loader
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        # Resources and file names (`pkgutil.get_data`) are those of the real loader.
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Leave no reference to this loader in the module: reloads and resources use its own.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._watch.stop()
        with guard.guarded("import"):
            self._watch.callback()


class ImportWatch(importlib.abc.MetaPathFinder):
    """A finder that waits for the import of a top-level module, and calls back once in the importing thread."""

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self._name = name
        self.callback = callback
        self._asking = threading.local()

    def start(self) -> None:
        """Start waiting."""
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Stop waiting; does nothing if it is not waiting."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the other finders, with the loader wrapped; None for other modules."""
        if fullname != self._name or getattr(self._asking, "now", False):
            return None
        self._asking.now = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.now = False
        # Keep waiting until the module was executed: many callers only check whether it can be found.
        if spec is not None and spec.loader is not None:
            spec.loader = _NotifyingLoader(spec.loader, self)
        return spec


def when_imported(name: str, callback: Callable[[], None]) -> ImportWatch | None:
    """Call `callback` now if the module is imported, else when it will be; return the watch that waits, or None."""
    if compat.is_imported(name):
        callback()
        return None
    watch = ImportWatch(name, callback)
    watch.start()
    return watch
