"""Propagation of the run's name from a process to its children, through their environment.

It is used with `jitwatch activate` only: a job and its workers (data loaders, process pools) are then one run of
several processes. A name is valid in the process group and session in which it was set. The children of a notebook
server, a shell or a daemon have a session or a group of their own, and so a run of their own.

Source: `setsid(2)` and `setpgid(2)`; an interactive shell gives each job its own process group, `jupyter_client` and
terminal emulators start children in a new session, `multiprocessing` and loky in neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: `<host>.<session>.<process group>:<run>`; the host, since schedulers take environments to other machines.
VARIABLE = "JITWATCH_INHERITED_RUN"


def inherited_run(environ: Mapping[str, str] = os.environ) -> str | None:
    """Name of the run that this process inherits, or None if it begins a new one."""
    group, _, run = environ.get(VARIABLE, "").rpartition(":")
    return run if run and group == _group() else None


def propagate(run: str) -> None:
    """Make the processes that this one starts from now on part of `run`."""
    if inherited_run() != run:
        os.environ[VARIABLE] = f"{_group()}:{run}"


def is_propagated() -> bool:
    """Whether `propagate` was called in this process or in one of its ancestors."""
    return VARIABLE in os.environ


def stop_propagating() -> None:
    """Let the processes that this one starts from now on begin new runs."""
    os.environ.pop(VARIABLE, None)


def _group() -> str:
    return f"{os.uname().nodename}.{os.getsid(0)}.{os.getpgrp()}"
