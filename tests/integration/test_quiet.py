"""Nothing of ours shows: stdout, stderr and exit code of a job are those without the agent."""

from __future__ import annotations

import shlex
import signal
import subprocess
from dataclasses import dataclass

import pytest

from tests.integration.launching import BARE, TIMEOUT_S, WAYS, Launcher, Outcome, assert_same, stable, write

#: What every job does: compiles, recompiles, donates, and uses what it has donated.
TRAIN = """
import functools, os, sys, threading, warnings
import jax
import jax.numpy as jnp

@functools.partial(jax.jit, donate_argnums=0)
def step(x):
    return x * 2 + 1

def train():
    for n in range(1, 9):
        x = jnp.ones(n)
        jax.block_until_ready(step(x))
    try:
        return x + 1
    except (RuntimeError, ValueError):
        return "deleted"

"""


@dataclass(frozen=True)
class Case:
    """A job, and how it is started.

    Attributes:
        source: What the job does.
        flags: Options of the interpreter.
        text: Standard input.
        redirects: What a shell makes of its streams, as `2>&-`.
        variables: Environment.
    """

    source: str = "print(train())"
    flags: tuple[str, ...] = ()
    text: str | None = None
    redirects: str = ""
    variables: tuple[tuple[str, str], ...] = ()


CASES = {
    # Hooks of the job, or of a library for it.
    "excepthooks": Case(
        "sys.excepthook = lambda kind, error, trace: print('mine', kind.__name__)\n"
        "threading.excepthook = lambda args: print('mine too', args.exc_type.__name__)\n"
        "sys.unraisablehook = lambda args: print('unraisable', args)\n"
        "print(train())\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()\n[][1]\n"
    ),
    "excepthooks that call the one before": Case(
        "def chained(before):\n    return lambda *args: (print('mine'), before(*args))\n"
        "sys.excepthook = chained(sys.excepthook)\nthreading.excepthook = chained(threading.excepthook)\n"
        "print(train())\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()\n[][1]\n"
    ),
    "excepthooks put back": Case(
        "sys.excepthook, threading.excepthook = print, print\nprint(train())\n"
        "sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__\n1 / 0\n"
    ),
    # Streams that are not what they should be.
    "stderr is closed": Case("print(train(), sys.stderr)", redirects="2>&-"),
    "stdout is closed": Case("train(); print(sys.stdout, file=sys.stderr)", redirects=">&-"),
    "stdin is closed": Case("print(train(), sys.stdin)", redirects="<&-"),
    "all streams are closed": Case("train(); sys.exit(3)", redirects="<&- >&- 2>&-"),
    "stderr is full": Case("print(train())", redirects="2>/dev/full"),
    "stderr is None": Case("sys.stderr = None\nprint(train())\nsys.exit('reason')"),
    "stderr is a closed file": Case("sys.stderr.close()\nprint(train())"),
    "stderr is no file": Case("sys.stderr = object()\nprint(train())"),
    "stderr is kept by the job": Case(
        "import contextlib, io\nwith contextlib.redirect_stderr(io.StringIO()) as kept:\n    print(train())\n"
        "print(repr(kept.getvalue()))"
    ),
    # Loggers of the job.
    "everything is logged": Case(
        "import logging\nlogging.getLogger('jax').setLevel(40)\nlogging.basicConfig(level=1)\nprint(train())"
    ),
    "nothing is logged": Case("import logging\nlogging.disable(logging.CRITICAL)\nprint(train())"),
    "loggers are configured": Case(
        "import logging.config\nlogging.config.dictConfig({'version': 1, 'disable_existing_loggers': True,\n"
        "    'handlers': {'h': {'class': 'logging.StreamHandler'}}, 'root': {'handlers': ['h'], 'level': 'INFO'}})\n"
        "print(train())"
    ),
    "a log handler fails": Case(
        "import logging\nclass Broken(logging.Handler):\n    def emit(self, record):\n        raise OSError('full')\n"
        "logging.getLogger().addHandler(Broken())\nprint(train())"
    ),
    # Warnings.
    "warnings are errors": Case(flags=("-W", "error")),
    "warnings are errors in the job": Case("warnings.simplefilter('error')\nprint(train())\nimport gc; gc.collect()"),
    "warnings are collected": Case(
        "with warnings.catch_warnings(record=True) as found:\n    warnings.simplefilter('always')\n    print(train())\n"
        "    import gc; gc.collect()\nprint([str(one.message) for one in found])"
    ),
    # Modes of the interpreter.
    "development mode": Case(flags=("-X", "dev")),
    "allocations are traced": Case(flags=("-X", "tracemalloc=5", "-W", "always")),
    "bytes are no text": Case(flags=("-bb", "-W", "error::BytesWarning")),
    "no docstrings": Case("print(train(), train.__doc__)", flags=("-OO",)),
    "crashes are traced": Case(
        "import faulthandler\nprint(faulthandler.is_enabled(), train())", flags=("-X", "faulthandler")
    ),
    "text is utf-8": Case(
        "print('ü', train(), sys.stdout.encoding)", flags=("-X", "utf8=0"), variables=(("LC_ALL", "C"),)
    ),
    "interactive afterwards": Case(
        "x = train()\n1 / 0", flags=("-i",), text="print(x)\nimport sys\nprint(sys.last_value)\n"
    ),
    "interactive after exit": Case("x = train()\nsys.exit(3)", flags=("-i",), text="print(x)\n"),
    # Ends.
    "exits hard": Case("print(train(), flush=True)\nos._exit(3)"),
    "exits in a thread": Case(
        "print(train())\nthread = threading.Thread(target=sys.exit, args=(3,))\nthread.start()\nthread.join()"
    ),
    "kills itself": Case("import signal\nprint(train(), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"),
    "crashes": Case("import ctypes\nprint(train(), flush=True)\nctypes.string_at(0)"),
    "aborts": Case("print(train(), flush=True)\nos.abort()"),
    "an exit handler fails": Case("import atexit\natexit.register(lambda: 1 / 0)\nprint(train())"),
    "a thread goes on": Case(
        "print(train())\nthreading.Thread(target=lambda: print(threading.main_thread().join() or train())).start()"
    ),
    "a daemon goes on": Case(
        "def more():\n    while True:\n        step(jnp.ones(3))\n\n"
        "print(train())\nthreading.Thread(target=more, daemon=True).start()"
    ),
    # Python ≥ 3.12 warns where a process with threads forks, and those of the agent are there before JAX's own.
    "a child goes its own way": Case(
        "warnings.simplefilter('ignore', DeprecationWarning)\nif os.fork() == 0:\n"
        "    print('child', flush=True)\n    sys.exit(4)\nprint('parent', os.wait()[1], train())"
    ),
}


def command(launcher: Launcher, way: str, case: Case) -> list[str]:
    """The command line, in a shell where the streams are closed by one."""
    found = launcher.command(way, ["job.py"], case.flags)
    return ["/bin/sh", "-c", f"{shlex.join(found)} {case.redirects}"] if case.redirects else found


@pytest.mark.parametrize("name", CASES)
def test_job_shows_nothing_of_the_agent(launcher, name):
    """Each way of starting has the bare job's outcome."""
    case = CASES[name]
    write(launcher.folder, TRAIN + case.source + "\n")
    outcomes = {}
    for way in (BARE, *WAYS):
        done = subprocess.run(
            command(launcher, way, case),
            cwd=launcher.folder,
            env=launcher.environment(way, **dict(case.variables)),
            input=case.text or "",
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        # A daemon thread in JAX ends the interpreter by one signal or the other, also without the agent; for one of
        # them C++ prints a line.
        code = -signal.SIGABRT if done.returncode == -signal.SIGSEGV else done.returncode
        stderr = stable(done.stderr)
        if code == -signal.SIGABRT:
            stderr = stderr.replace("terminate called without an active exception\n", "")
        outcomes[way] = Outcome(code, stable(done.stdout), stderr)
    assert_same(outcomes)
