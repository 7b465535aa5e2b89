"""What the line in `jitwatch.pth` calls: installs the agent when this process imports jax.

`jitwatch activate` writes the line, Python runs it at each start, and it imports this module only where
`JITWATCH_AUTOINSTALL=1` is set. A process without jax (a launcher, a resource tracker, pip) gets nothing but a
look-out for that import. Whatever goes wrong is said in a line on stderr, and the process goes on.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType

from jitwatch import agent, config

#: Python runs lines of a .pth file that begin with `import`; nothing else of jitwatch is imported without the variable.
PTH_LINE = (
    'import os; os.environ.get("JITWATCH_AUTOINSTALL") == "1" and '
    'exec("try:\\n from jitwatch.autoinstall import begin; begin()\\nexcept ImportError: pass")\n'
)


def install_now() -> None:
    """Install the agent by the variables `JITWATCH_*`; never raises."""
    try:
        import jitwatch

        jitwatch.install()
    except Exception as error:
        _say(f"the agent was not installed in process {os.getpid()}: {error}")


def _say(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"jitwatch: {text}", file=sys.stderr, flush=True)  # noqa: T201 - before any logger is set up


class _BeforeJax:
    """Installs the agent when somebody is about to import jax; the agent then waits for the end of that itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """What the other finders give, that of the agent among them; None for other modules."""
        if fullname != "jax" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        if agent.is_wanted():
            return None  # the job installs it itself, which asks where jax is
        install_now()
        return importlib.util.find_spec(fullname)


def begin() -> None:
    """Look out for the import of jax; what the line does. Never raises."""
    try:
        if not config.is_disabled() and "jax" not in sys.modules:
            sys.meta_path.insert(0, _BeforeJax())
    except Exception as failure:
        _say(f"JITWATCH_AUTOINSTALL does not work here: {failure}")


def cancel() -> None:
    """Look out no longer: this process installs the agent itself, or wants none."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _BeforeJax)]
