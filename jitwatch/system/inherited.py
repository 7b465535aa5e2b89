"""The name of the run that a process hands on to the processes it starts, through their environment.

Only where `jitwatch activate` is in use: a job and the workers that it starts (data loaders, process pools) are
then one run of several processes. A name holds within the process group and session in which it was written. What
a notebook server, a shell or a daemon starts has a session or a group of its own, and so a run of its own.

Source: `setsid(2)` and `setpgid(2)`; an interactive shell gives each job its own process group, `jupyter_client`
and terminal emulators start what they start in a new session, `multiprocessing` and loky in neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: `<host>.<session>.<process group>:<run>`; the host, since schedulers take environments to other machines.
VARIABLE = "JITWATCH_INHERITED_RUN"


def run_of(environ: Mapping[str, str] = os.environ) -> str | None:
    """Name of the run that this process was started in, or None if it begins one."""
    group, _, run = environ.get(VARIABLE, "").rpartition(":")
    return run if run and group == _group() else None


def hand_on(run: str) -> None:
    """Let the processes that this one starts from now on belong to `run`."""
    if run_of() != run:
        os.environ[VARIABLE] = f"{_group()}:{run}"


def is_handed_on() -> bool:
    """Whether `hand_on` is in use here: in this process, or in one that it descends from."""
    return VARIABLE in os.environ


def forget() -> None:
    """Let the processes that this one starts from now on begin runs of their own."""
    os.environ.pop(VARIABLE, None)


def _group() -> str:
    return f"{os.uname().nodename}.{os.getsid(0)}.{os.getpgrp()}"
