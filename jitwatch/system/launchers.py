"""Job ID and rank of this process, as set by schedulers and launchers, a unique identifier, and an inherited run.

A job ID identifies what was submitted, a rank a position in it. Neither identifies a process: the workers of a pool,
several `srun` steps in one allocation and a job that was requeued share both. `process_id` does.

The name of a run is propagated to child processes, by their environment, with `jitwatch activate` only: a job and its
workers (data loaders, process pools) are then one run of several processes. It is valid in the process group and
session in which it was set (`setsid(2)`, `setpgid(2)`). The children of a notebook server, a shell or a daemon have a
session or a group of their own, and so a run of their own; those of `multiprocessing` and loky do not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime, timezone

#: Variables with the job ID, in order of preference.
JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "TORCHELASTIC_RUN_ID", "RAY_JOB_ID")
#: Variables with the index of a process on its machine. A launcher that is started by another one comes first: below
#: `mpirun` in a Slurm batch script each process inherits SLURM_LOCALID=0 and SLURM_PROCID=0.
LOCAL_RANK_VARIABLES = (
    "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK", "PMI_LOCAL_RANK",
    "PALS_LOCAL_RANKID", "FLUX_TASK_LOCAL_ID", "JSM_NAMESPACE_LOCAL_RANK", "SLURM_LOCALID",
)  # fmt: skip
#: Variables with the index of a process in the whole job.
GLOBAL_RANK_VARIABLES = (
    "JAX_PROCESS_ID", "RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK", "PALS_RANKID",
    "FLUX_TASK_RANK", "JSM_NAMESPACE_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX",
)  # fmt: skip
#: `<host>.<session>.<process group>:<run>`; the host, since schedulers take environments to other machines.
INHERITED_RUN = "JITWATCH_INHERITED_RUN"
#: Placeholders: of torchrun for a run without a name, of Ray for a worker without a job.
_NO_IDS = frozenset({"none", "ffffffff"})
_MAX_HOST = 64

#: Process ID and identifier of the last call: a forked child needs an identifier of its own.
_own: tuple[int, str] | None = None


def safe_name(text: str) -> str:
    """The text made safe for a file name: no separators, not only dots, at most 100 characters."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:100] or "run"


def job_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """The scheduler's job ID, or None without a scheduler. Each element of a job array has its own."""
    for name in JOB_ID_VARIABLES:
        value = environ.get(name)
        if value and value not in _NO_IDS:
            element = environ.get("LSB_JOBINDEX", "0") if name == "LSB_JOBID" else "0"
            return f"{value}-{element}" if element not in ("", "0") else value
    return None


def local_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """Index of this process on its machine as set by the launcher, or None without one."""
    return _first_number(LOCAL_RANK_VARIABLES, environ)


def global_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """Index of this process in the whole job as set by the launcher, else that on its machine."""
    rank = _first_number(GLOBAL_RANK_VARIABLES, environ)
    return rank if rank is not None else local_rank(environ)


def process_id() -> str:
    """A unique identifier of this process, such as `node7-4711-20250301T120000.123456`; safe in a file name.

    Host and process ID are not unique: IDs are reused, and each container may have the ID 1. The time is that of the
    first call, in UTC.
    """
    global _own
    known, pid = _own, os.getpid()
    if known is None or known[0] != pid:
        started = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        from socket import gethostname  # lazy: `import jitwatch` does not need it

        _own = known = pid, f"{safe_name(gethostname())[:_MAX_HOST]}-{pid}-{started}"
    return known[1]


def inherited_run(environ: Mapping[str, str] = os.environ) -> str | None:
    """Name of the run that this process inherits, or None if it begins a new one."""
    group, _, run = environ.get(INHERITED_RUN, "").rpartition(":")
    return run if run and group == _group() else None


def propagate(run: str) -> None:
    """Make the processes that this one starts from now on part of `run`."""
    if inherited_run() != run:
        os.environ[INHERITED_RUN] = f"{_group()}:{run}"


def is_propagated() -> bool:
    """Whether `propagate` was called in this process or in one of its ancestors."""
    return INHERITED_RUN in os.environ


def stop_propagating() -> None:
    """Let the processes that this one starts from now on begin new runs."""
    os.environ.pop(INHERITED_RUN, None)


def _group() -> str:
    return f"{os.uname().nodename}.{os.getsid(0)}.{os.getpgrp()}"


def _first_number(names: tuple[str, ...], environ: Mapping[str, str]) -> int | None:
    values = (environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal() and value.isascii()), None)
