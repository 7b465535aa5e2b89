"""What the line in `jitwatch.pth` calls: installs the agent when this process imports jax.

`jitwatch activate` writes the line, Python runs it at each start, and it imports this module only where
`JITWATCH_AUTOINSTALL=1` is set. A process without jax (a launcher, a resource tracker, pip) gets nothing but a
look-out for that import, and the name of the run in its environment, for the processes that it starts. A failure is
one line on stderr, and the process goes on.
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
from jitwatch.system import inherited

#: Nobody else's wish to run code counts: the environment is not to be trusted with `-E`, `-I`, or where a program
#: has rights that its caller has not. With `-S` no .pth file is wanted, even if the program calls `site.main()`.
_BEGIN = """try:
 if not sys.flags.ignore_environment and not sys.flags.no_site and \
os.getuid() == os.geteuid() and os.getgid() == os.getegid():
  from jitwatch.autoinstall import begin; begin()
except ImportError: pass"""
#: Python runs lines of a .pth file that begin with `import`; nothing else of jitwatch is imported without the variable.
PTH_LINE = f'import os, sys; os.environ.get("JITWATCH_AUTOINSTALL") == "1" and exec({_BEGIN!r})\n'


def install_now() -> None:
    """Install the agent by the variables `JITWATCH_*`; never raises."""
    try:
        import jitwatch

        # Nobody in these processes has asked for an agent, and each of many workers would warn of a taken port.
        jitwatch.install(log_level=None if os.environ.get("JITWATCH_LOG_LEVEL") else "error")
    except Exception as error:
        _say(f"the agent was not installed in process {os.getpid()}: {error}")


def _say(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"jitwatch: {text}", file=sys.stderr, flush=True)  # noqa: T201 - before any logger is set up


class _BeforeJax(importlib.abc.MetaPathFinder):
    """Installs the agent when somebody imports jax; the agent then waits for the end of that itself."""

    def __init__(self) -> None:
        self._asking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that installs; None for other modules."""
        if fullname != "jax" or getattr(self._asking, "now", False):
            return None
        spec = self.found()
        # Who only asks whether jax is there gets no agent: it comes when the module is made.
        if spec is not None and spec.loader is not None:
            spec.loader = _InstallingLoader(spec.loader, self)
        return spec

    def found(self) -> ModuleSpec | None:
        """The spec of jax that all the others give."""
        self._asking.now = True
        try:
            return importlib.util.find_spec("jax")
        finally:
            self._asking.now = False


class _InstallingLoader(importlib.abc.Loader):
    """The loader of jax, which first installs the agent."""

    def __init__(self, loader: importlib.abc.Loader, finder: _BeforeJax) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        # Resources and file names (`pkgutil.get_data`) are the real loader's.
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Install, unless the job did it; the agent's own look-out for jax then gives the loader."""
        cancel()
        if not agent.is_wanted():
            install_now()
            found = self._finder.found()
            if found is not None and found.loader is not None:
                self._loader = found.loader
        if spec.loader is self:  # else another one has wrapped this one, and calls `exec_module`
            spec.loader = self._loader
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Leave no trace in the module.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)


def begin() -> None:
    """Look out for the import of jax, and name the run; what the line does. Never raises."""
    try:
        if not config.is_disabled() and "jax" not in sys.modules:
            # Here, while no other thread of the process can be reading the environment.
            if not os.environ.get("JITWATCH_RUN"):
                inherited.hand_on(config.default_run())
            sys.meta_path.insert(0, _BeforeJax())
    except Exception as failure:
        _say(f"JITWATCH_AUTOINSTALL does not work here: {failure}")


def cancel() -> None:
    """Look out no longer: this process installs the agent itself, or wants none."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _BeforeJax)]
