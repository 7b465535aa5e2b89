"""Job ID and rank of this process, as set by schedulers and launchers, and a unique process identifier.

A job ID identifies what was submitted, a rank a position in it. Neither identifies a process: the workers of a pool,
several `srun` steps in one allocation and a job that was requeued share both. `process_id` does.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from datetime import datetime, timezone

#: Variables with the job ID, in order of preference.
JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "TORCHELASTIC_RUN_ID", "RAY_JOB_ID")
#: Variables with the index of a process on its machine. A launcher that is started by another one comes first: below
#: `mpirun` in a Slurm batch script each process inherits SLURM_LOCALID=0 and SLURM_PROCID=0.
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
#: Variables with the index of a process in the whole job.
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
        if not value or value in _NO_IDS:
            continue
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

    It consists of host, process ID and the time of the first call in UTC: process IDs are reused, and in containers
    each process may have the ID 1 on a host of the same name.
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
