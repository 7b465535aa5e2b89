"""Automatic installation of the agent, called by the line in `jitwatch.pth` when a process starts.

`jitwatch activate` writes the line, Python runs it at each start, and it imports this module only if
`JITWATCH_AUTOINSTALL=1` is set. The agent is installed when the process imports jax. A process that does not import it
(a launcher, a resource tracker, pip) gets only an import hook, and the name of the run in its environment for the
processes that it starts. A failure is one line on stderr, and the process continues.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from jitwatch import agent, config
from jitwatch.system import launchers

#: The environment is not trusted with `-E` or `-I`, or if the program has rights that its caller lacks (setuid). With
#: `-S` no .pth file is to take effect, even if the program calls `site.main()`.
_BEGIN = """try:
 if not sys.flags.ignore_environment and not sys.flags.no_site and \
os.getuid() == os.geteuid() and os.getgid() == os.getegid():
  from jitwatch.autoinstall import begin; begin()
except ImportError: pass"""
#: Python runs the lines of a .pth file that begin with `import`. Without the variable nothing of jitwatch is imported.
PTH_LINE = f'import os, sys; os.environ.get("JITWATCH_AUTOINSTALL") == "1" and exec({_BEGIN!r})\n'


def install_now() -> None:
    """Install the agent with the options of the environment. Never raises."""
    try:
        import jitwatch

        # Warnings are off by default: each of many workers would warn that its port is in use.
        jitwatch.install(log_level=None if os.environ.get("JITWATCH_LOG_LEVEL") else "error")
    except Exception as error:
        _print_error(f"the agent was not installed in process {os.getpid()}: {error}")


def _print_error(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"jitwatch: {text}", file=sys.stderr, flush=True)  # noqa: T201 - before any logger is set up


class _JaxFinder(importlib.abc.MetaPathFinder):
    """Finder that installs the agent when jax is imported; the agent then attaches at the end of the import."""

    def __init__(self) -> None:
        self._searching = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of jax with a loader that installs the agent; None for other modules."""
        if fullname != "jax" or getattr(self._searching, "now", False):
            return None
        spec = self.find_without_self()
        # Only the loader installs: a search for the spec does not yet import jax.
        if spec is not None and spec.loader is not None:
            spec.loader = _InstallingLoader(spec.loader, self)
        return spec

    def find_without_self(self) -> ModuleSpec | None:
        """The spec of jax that the other finders give."""
        self._searching.now = True
        try:
            return importlib.util.find_spec("jax")
        finally:
            self._searching.now = False


class _InstallingLoader(importlib.abc.Loader):
    """Loader of jax that installs the agent first."""

    def __init__(self, loader: importlib.abc.Loader, finder: _JaxFinder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        # Resources and file names (`pkgutil.get_data`) come from the original loader.
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Install the agent unless the job did; the import hook of the agent then provides the loader."""
        cancel()
        if not agent.is_wanted():
            install_now()
            found = self._finder.find_without_self()
            if found is not None and found.loader is not None:
                self._loader = found.loader
        if spec.loader is self:  # otherwise another loader wraps this one, and calls `exec_module`
            spec.loader = self._loader
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module has the original loader, as without jitwatch.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)


def begin() -> None:
    """Install the import hook for jax, and name the run. Called by the line in the .pth file. Never raises."""
    try:
        if not config.is_disabled() and "jax" not in sys.modules:
            # At startup, while no other thread can be reading the environment.
            if not os.environ.get("JITWATCH_RUN"):
                launchers.propagate(config.default_run())
            sys.meta_path.insert(0, _JaxFinder())
    except Exception as failure:
        _print_error(f"JITWATCH_AUTOINSTALL does not work here: {failure}")


def cancel() -> None:
    """Remove the import hook: this process installs the agent itself, or needs none."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _JaxFinder)]
