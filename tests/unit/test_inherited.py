"""The run that a process hands on to those that it starts."""

from __future__ import annotations

import os

import pytest

import jitwatch
from jitwatch import config
from jitwatch.system import launchers


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    """An environment in which nothing was handed on."""
    monkeypatch.delenv(launchers.INHERITED_RUN, raising=False)
    return os.environ


def test_run_is_that_of_the_parent():
    """And so the default of the option, unless a scheduler has a name for the job."""
    assert launchers.inherited_run() is None
    launchers.propagate("r1")

    assert launchers.inherited_run() == "r1" == config.load().run
    assert config.load(environ={**os.environ, "SLURM_JOB_ID": "4711"}).run == "4711"
    assert config.load({"run": "mine"}).run == "mine"
    assert [] == config.unknown_variables()


@pytest.mark.parametrize("change", ["getsid", "getpgrp", "uname"])
def test_run_does_not_go_on_in_another_session_group_or_machine(monkeypatch, change):
    """A shell's next job, what a notebook server starts, what a scheduler starts elsewhere."""
    launchers.propagate("r1")
    other = {
        "getsid": lambda pid: 4_194_000,
        "getpgrp": lambda: 4_194_000,
        "uname": lambda: os.uname_result(("", "other", "", "", "")),
    }
    monkeypatch.setattr(os, change, other[change])

    assert launchers.inherited_run() is None
    assert config.load().run != "r1"
    launchers.propagate("r2")
    assert "r2" == launchers.inherited_run()


@pytest.mark.parametrize("value", ["", "r1", ":", ":r1", "1.2:", "1.2:r1"])
def test_value_that_is_none_of_ours_is_no_run(monkeypatch, value):
    """Whoever sets the variable by hand meant another one."""
    monkeypatch.setenv(launchers.INHERITED_RUN, value)
    assert launchers.inherited_run() is None


def test_agent_hands_on_its_run_only_where_that_is_in_use():
    """A worker belongs to the run that the job names in its own call of install()."""
    with jitwatch.install(port=0, run="mine"):
        assert not launchers.is_propagated()
    launchers.propagate("r1")
    with jitwatch.install(port=0, run="mine"):
        assert "mine" == launchers.inherited_run()
    assert not launchers.is_propagated()
