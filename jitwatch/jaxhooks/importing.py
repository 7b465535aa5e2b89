"""Runs a callback when the job imports a module, so that installing before `import jax` changes nothing.

Importing jax for the job would freeze `JAX_PLATFORMS` and its like before the job has set them.
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


class _NotifyingLoader(importlib.abc.Loader):
    """The module's own loader, with a callback after the module has run."""

    def __init__(self, loader: importlib.abc.Loader, watch: ImportWatch) -> None:
        self._loader = loader
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        # Resources and file names (`pkgutil.get_data`) are the real loader's.
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Leave no trace of us in the module: reloads and resources go to its own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._watch.stop()
        with guard.guarded("import"):
            self._watch.callback()


class ImportWatch(importlib.abc.MetaPathFinder):
    """A finder that only looks out for one top-level module.

    Args:
        name: The module.
        callback: Called once, after the module was executed, in the importing thread.
    """

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self._name = name
        self.callback = callback
        self._asking = threading.local()

    def start(self) -> None:
        """Look out from now on."""
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Stop looking out; does nothing when it has stopped."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders give, with the loader wrapped; None for other modules."""
        if fullname != self._name or getattr(self._asking, "now", False):
            return None
        self._asking.now = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.now = False
        # Looking out goes on until the module has run: many only ask whether it is there.
        if spec is not None and spec.loader is not None:
            spec.loader = _NotifyingLoader(spec.loader, self)
        return spec


def when_imported(name: str, callback: Callable[[], None]) -> ImportWatch | None:
    """Call `callback` now if the module is there, else when it is imported.

    Returns the watch to stop when the callback is still to come.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        callback()
        return None
    watch = ImportWatch(name, callback)
    watch.start()
    return watch
