"""Automatic installation of the agent, called by the line in `jitwatch.pth` when a process starts.

`jitwatch activate` writes the line, Python runs it at each start, and it imports this module only if
`JITWATCH_AUTOINSTALL=1` is set. The agent is installed when the process imports jax. A process that does not import it
(a launcher, a resource tracker, pip) gets only an import hook, and the name of the run in its environment for the
processes that it starts. A failure is one line on stderr, and the process continues.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from jitwatch import agent, config
from jitwatch.jaxhooks.importing import ImportWatch
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


def begin() -> None:
    """Wait for the import of jax, and name the run. Called by the line in the .pth file. Never raises."""
    try:
        if not config.is_disabled() and "jax" not in sys.modules:
            # At startup, while no other thread can be reading the environment.
            if not os.environ.get("JITWATCH_RUN"):
                launchers.propagate(config.default_run())
            ImportWatch("jax", _install).start()
    except Exception as failure:
        _print_error(f"JITWATCH_AUTOINSTALL does not work here: {failure}")


def cancel() -> None:
    """Install nothing: this process installs the agent itself, or needs none."""
    for watch in _watches():
        if watch.callback is _install:
            watch.stop()


def _install() -> None:
    """Install the agent with the options of the environment, unless the job did. Never raises."""
    try:
        if not agent.is_wanted():
            # Warnings are off by default: each of many workers would warn that its port is in use.
            agent.install(log_level=None if os.environ.get("JITWATCH_LOG_LEVEL") else "error")
        # Python still counts jax as being imported, so that the agent waits for the end of it.
        for watch in _watches():
            watch.stop()
            watch.callback()
    except Exception as error:
        _print_error(f"the agent was not installed in process {os.getpid()}: {error}")


def _watches() -> list[ImportWatch]:
    return [finder for finder in sys.meta_path if isinstance(finder, ImportWatch)]


def _print_error(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"jitwatch: {text}", file=sys.stderr, flush=True)  # noqa: T201 - before any logger is set up
