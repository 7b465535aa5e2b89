"""What launchers say about a process, and the identifier that tells processes apart."""

from __future__ import annotations

import os
import re
import socket

import pytest

from jitwatch.system import launchers
from jitwatch.system.launchers import global_rank, job_id, local_rank, process_id


@pytest.mark.parametrize("name", launchers.LOCAL_RANK_VARIABLES)
def test_local_rank_of_each_launcher(name):
    """torchrun, srun, Open MPI, Intel MPI, MVAPICH, MPICH, PALS, Flux and jsrun say it each in their own way."""
    assert 3 == local_rank({name: "3"})
    assert 3 == global_rank({name: "3"})


@pytest.mark.parametrize("name", launchers.GLOBAL_RANK_VARIABLES)
def test_global_rank_of_each_launcher(name):
    """JAX's own variable and an indexed Kubernetes job as well; the index on the machine is only the second choice."""
    assert 7 == global_rank({name: "7", "LOCAL_RANK": "3"})
    assert local_rank({name: "7"}) is None


@pytest.mark.parametrize("text", ["", "-1", "one", "1.0", "²"])
def test_rank_that_is_no_number_is_skipped(text):
    """A variable that is set to something else does not count, the next one does."""
    assert local_rank({"LOCAL_RANK": text}) is None
    assert 2 == local_rank({"LOCAL_RANK": text, "SLURM_LOCALID": "2"})


def test_rank_outside_of_a_launcher_is_none():
    """One process on its own has no rank, which is not rank 0."""
    assert (None, None) == (local_rank({}), global_rank({}))
    assert 0 == local_rank({"LOCAL_RANK": "0"})


@pytest.mark.parametrize(
    "inner",
    [
        {"RANK": "5", "LOCAL_RANK": "1"},
        {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
        {"PMI_RANK": "5", "MPI_LOCALRANKID": "1"},
    ],
)
@pytest.mark.parametrize("outer", [{"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, {"JOB_COMPLETION_INDEX": "0"}])
def test_rank_of_the_inner_launcher_wins(inner, outer):
    """Below mpirun or torchrun in a batch script or a pod, each process inherits the number 0 of the script."""
    assert (5, 1) == (global_rank({**outer, **inner}), local_rank({**outer, **inner}))


def test_job_id_is_that_of_the_scheduler():
    """None outside of one; torchrun calls a run that nobody named 'none'."""
    assert job_id({}) is None
    assert job_id({"TORCHELASTIC_RUN_ID": "none"}) is None
    assert "s" == job_id({"RAY_JOB_ID": "r", "SLURM_JOB_ID": "s"})


def test_process_id_names_host_number_and_start():
    """The same for the life of the process, and usable as it is in a file name."""
    known = process_id()

    assert known == process_id()
    host = launchers.safe_name(socket.gethostname())[:64]
    assert re.fullmatch(rf"{re.escape(host)}-{os.getpid()}-\d{{8}}T\d{{6}}\.\d{{6}}", known)


def test_process_id_differs_between_processes_with_one_number(monkeypatch):
    """Two containers may each have a process 1 of the same host; the time tells them apart."""
    monkeypatch.setattr(launchers, "_own", None)
    first = process_id()
    monkeypatch.setattr(launchers, "_own", None)
    assert first != process_id()


def test_process_id_of_a_host_with_a_strange_name_is_bounded(monkeypatch):
    """A name is a part of a file name, whatever somebody called the machine."""
    monkeypatch.setattr(launchers, "_own", None)
    monkeypatch.setattr(socket, "gethostname", lambda: "../" + "x" * 300)
    assert 110 > len(process_id())
    assert "/" not in process_id()
