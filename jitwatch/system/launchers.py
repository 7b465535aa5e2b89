"""What schedulers and launchers say about this process, and the identifier that tells processes apart.

A job id names what was submitted, a rank a place in it. Neither names a process: the workers of a pool, several
`srun` steps in one allocation and a job that was requeued share both. `process_id` does.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from datetime import datetime, timezone

#: Where schedulers put the identity of a job, in order of preference.
JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "TORCHELASTIC_RUN_ID", "RAY_JOB_ID")
#: Where launchers put the index of a process among those of one machine. A launcher that was started by another one
#: comes first: below `mpirun` in a Slurm batch script each process inherits SLURM_LOCALID=0 and SLURM_PROCID=0.
LOCAL_RANK_VARIABLES = (
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PMI_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "FLUX_TASK_LOCAL_ID",
    "JSM_NAMESPACE_LOCAL_RANK",
    "SLURM_LOCALID",
)
#: Where launchers put the index of a process among those of the whole job.
GLOBAL_RANK_VARIABLES = (
    "JAX_PROCESS_ID",
    "RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMIX_RANK",
    "MV2_COMM_WORLD_RANK",
    "PMI_RANK",
    "PALS_RANKID",
    "FLUX_TASK_RANK",
    "JSM_NAMESPACE_RANK",
    "SLURM_PROCID",
    "JOB_COMPLETION_INDEX",
)
#: What torchrun calls a run that nobody named, and Ray the job of a worker that has none yet.
_NO_IDS = frozenset({"none", "ffffffff"})
_MAX_HOST = 64

#: The process that asked last, and its identifier: a forked child has one of its own.
_own: tuple[int, str] | None = None


def safe_name(text: str) -> str:
    """A text as a part of a file name: no separators, no dots alone, at most 100 characters."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:100] or "run"


def job_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """Identity of the job as the scheduler gives it, or None outside of one. A job array has one for each element."""
    for name in JOB_ID_VARIABLES:
        value = environ.get(name)
        if not value or value in _NO_IDS:
            continue
        element = environ.get("LSB_JOBINDEX", "0") if name == "LSB_JOBID" else "0"
        return f"{value}-{element}" if element not in ("", "0") else value
    return None


def local_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """Index of this process on its machine as the launcher gives it, or None outside of one."""
    return _first_number(LOCAL_RANK_VARIABLES, environ)


def global_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """Index of this process among all of its job, as the launcher gives it; else that on its machine."""
    rank = _first_number(GLOBAL_RANK_VARIABLES, environ)
    return rank if rank is not None else local_rank(environ)


def process_id() -> str:
    """Host, number and first use of this process, as `node7-4711-20250301T120000.123456`; usable in a file name.

    The time is that of the first call in this process, UTC: process numbers come again, and in containers each
    process may be number 1 of a host with the same name.
    """
    global _own
    known, pid = _own, os.getpid()
    if known is None or known[0] != pid:
        started = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        _own = known = pid, f"{safe_name(socket.gethostname())[:_MAX_HOST]}-{pid}-{started}"
    return known[1]


def _first_number(names: tuple[str, ...], environ: Mapping[str, str]) -> int | None:
    for name in names:
        value = environ.get(name, "")
        if value.isdecimal() and value.isascii():
            return int(value)
    return None
