"""Debuggers, profilers, coverage beside the agent: they see what they see without it, and it sees the job as well."""

from __future__ import annotations

import json
import pstats
import sys
import types
from collections.abc import Sequence

import pytest
from coverage import CoverageData

from jitwatch.jaxhooks import compat
from tests.integration.launching import BARE, INSTALL, WAYS, Launcher, Outcome, assert_same, write

#: What every job does: compiles, recompiles, donates, and uses what it has donated, in Python and in C.
TRAIN = """
import functools, json, os, sys, threading
import jax
import jax.numpy as jnp

@functools.partial(jax.jit, donate_argnums=0)
def step(x):
    y = x * 2
    return y + 1

total = jax.jit(lambda x: x.sum())

def use(x):
    try:
        return x + 1
    except (RuntimeError, ValueError):
        return "deleted"

def train():
    for n in range(1, 4):
        x = jnp.ones(n)
        total(x)
        out = step(x)
    print(use(x))
    try:
        return total(x)
    except (RuntimeError, ValueError):
        return "deleted"

def tell():
    import jitwatch
    with open(os.environ["TOLD"], "w") as file:
        json.dump(jitwatch.scalars(), file)

"""
#: The error that C raises is seen by `sys.monitoring`; without it where JAX's arrays are marked, with JAX ≤ 0.10.
HAS_MONITORING = hasattr(sys, "monitoring")
needs_monitoring = pytest.mark.versions(python=">=3.12", reason="sys.monitoring is there from Python 3.12 on")


def run(
    launcher: Launcher,
    source: str,
    *job: str,
    before: str = "",
    text: str | None = None,
    sees_raises: bool = HAS_MONITORING,
    ways: Sequence[str] = WAYS,
    **variables: str,
) -> Outcome:
    """The outcome of a job, which is the same in each way of starting it; with an agent, that has seen everything.

    Args:
        launcher: Starts it.
        source: What it does, after `TRAIN`.
        job: How it is started, if not as a script.
        before: What it does before it imports jax.
        text: Its standard input.
        sees_raises: Whether the agent sees errors that C raises in whatever version of JAX.
        ways: How the agent comes into it.
        variables: Its environment; `{way}` stands for the way of starting.
    """
    write(launcher.folder, f"{before}{TRAIN}{source}\n")
    outcomes = {}
    for way in (BARE, *ways):
        told = launcher.folder / f"{way}.json"
        # XLA's own line about a dead array has the time in it.
        named = {"TF_CPP_MIN_LOG_LEVEL": "3"} | {name: value.format(way=way) for name, value in variables.items()}
        outcomes[way] = launcher.outcome(way, *(job or ("job.py",)), text=text, TOLD=str(told), **named)
        assert told.exists(), (way, outcomes[way])
        scalars = json.loads(told.read_text())
        if way == BARE:
            assert {} == scalars
        else:
            assert (way, 6) == (way, scalars["jitwatch/compiles"])
            assert scalars["jitwatch/donation_violations"] in ({2} if sees_raises else {1, 2}), way
    return assert_same(outcomes)


# --- pdb

TRAINS = "print(train())\ntell()"
BREAKS = f"breakpoint()\n{TRAINS}"


def typed(commands: str) -> str:
    """What somebody types; `b STATEMENT` sets a breakpoint on that line of `TRAIN`."""
    lines = [line.strip() for line in [INSTALL, *TRAIN.strip().split("\n")]]
    found = []
    for command in commands.split("; "):
        verb, _, rest = command.partition(" ")
        found.append(f"{verb} {lines.index(rest) + 1}" if verb == "b" and rest in lines else command)
    return "\n".join([*found, ""])


def test_pdb_steps_through_a_job(launcher):
    """Lines, variables, errors that are caught, and an end with a tracer that is still on."""
    commands = "b y = x * 2; b return x + 1; c; n; p x.shape + y.shape; n; n; c; c; c; n; n; n; n; c"
    done = run(launcher, BREAKS, text=typed(commands))
    assert 0 == done.code
    for expected in ("-> y = x * 2", "(1, 1)", "-> except (RuntimeError, ValueError):", "->'deleted'"):
        assert expected in done.stdout


def test_module_pdb_steps_through_a_job(launcher):
    """And runs it again in the same process, where the agent is there already. A tracer makes the imports slow."""
    commands = "b return x + 1; c; n; n; cl 1; c; n; n; q"
    done = run(launcher, TRAINS, "-m", "pdb", "job.py", text=typed(commands), ways=["install", "run"])
    assert 1 == done.stdout.count("will be restarted")
    assert 1 == done.stdout.count("-> except (RuntimeError, ValueError):")


def test_pdb_stops_in_functions_of_jax(launcher):
    """By name and by line, in one whose code is another as well; what comes next are the same lines."""
    hook = compat.infer_hook()
    file, line = place_in(hook.get().__code__)
    commands = f"import {hook.owner}; b {hook.owner}.{hook.attribute}; c; n; n; cl 1; b {file}:{line}; c; n; cl 2; c"
    done = run(launcher, BREAKS, text=typed(commands))
    assert 2 == done.stdout.count(f"({line}){hook.attribute}()\n")


def place_in(code: types.CodeType) -> tuple[str, int]:
    """File and line of the first statement of a function."""
    return code.co_filename, next(line for *_, line in code.co_lines() if line not in (None, code.co_firstlineno))


def test_quitting_pdb_while_jax_traces_ends_the_job(launcher):
    """With the error, the traceback and the exit code of a job without the agent."""
    done = run(launcher, f"{TRAINS}\nbreakpoint()\nstep(jnp.ones(9))", text=typed("b y = x * 2; c; q"))
    assert 1 == done.code
    assert "BdbQuit" in done.stderr


# --- tracers and profilers

NOTE = """
events = []
def note(frame, event, arg):
    if frame.f_code.co_filename == __file__ and not event.startswith("c_"):
        events.append((frame.f_code.co_name, event, frame.f_lineno))
        return note
"""


@pytest.mark.parametrize(("kind", "events"), [("trace", 6), ("profile", 0)])
def test_tracer_of_the_job_is_told_the_same(launcher, kind, events):
    """Each call, line and error in the job's own file, in order."""
    source = f"sys.set{kind}(note)\nthreading.set{kind}(note)\nprint(train())\nsys.set{kind}(None)\nprint(*events)"
    done = run(launcher, f"{NOTE}{source}\ntell()")
    assert 3 == done.stdout.count("('step', 'call'")
    assert events == done.stdout.count("('step', 'line'")


def test_cprofile_counts_the_same_calls(launcher):
    """Of functions of the job that came to their end while it looked; Python ≥ 3.12 mixes up threads in it."""
    source = """
import cProfile
profile = cProfile.Profile()
print(profile.runcall(train))
profile.dump_stats(os.environ["PROFILE"])
tell()
"""
    run(launcher, source, PROFILE=f"{launcher.folder}/{{way}}.prof")
    for way in (BARE, *WAYS):
        stats = pstats.Stats(f"{launcher.folder}/{way}.prof").stats  # type: ignore[attr-defined]
        job = launcher.folder / "job.py"
        calls = {name: counts[1] for (file, _, name), counts in stats.items() if launcher.folder / file == job}
        assert calls.pop("train")
        assert (way, {"step": 3, "<lambda>": 3, "use": 1}) == (way, calls)


# --- coverage


@pytest.mark.parametrize("core", ["ctrace", pytest.param("sysmon", marks=needs_monitoring)])
def test_coverage_has_the_same_lines(launcher, core):
    """By a tracer and by `sys.monitoring`, of the job and of nothing else."""
    file = f"{launcher.folder}/{{way}}.coverage"
    run(
        launcher,
        TRAINS,
        *("-m", "coverage", "run", "--source=.", "job.py"),
        COVERAGE_CORE=core,
        COVERAGE_FILE=file,
    )
    job, found = str(launcher.folder / "job.py"), {}
    for way in (BARE, *WAYS):
        data = CoverageData(file.format(way=way))
        data.read()
        assert {job} == data.measured_files()
        found[way] = sorted(data.lines(job) or ())
    assert len(found[BARE]) > 25
    assert dict.fromkeys(found, found[BARE]) == found


# --- tools of sys.monitoring

#: Takes numbers of tools, and notes each error that is raised in the job's file, and where.
TAKE = """
import sys
monitoring, errors = sys.monitoring, []
def raised(code, offset, error):
    if code.co_filename == __file__:
        errors.append((code.co_name, type(error).__name__))
def take(*numbers):
    for number in numbers:
        monitoring.use_tool_id(number, "mine")
        monitoring.register_callback(number, monitoring.events.RAISE, raised)
        monitoring.set_events(number, monitoring.events.RAISE)
"""
#: The numbers are those of the job alone once the agent is gone.
UNINSTALL = (
    "import jitwatch\njitwatch.uninstall()\nprint([monitoring.get_tool(number) for number in range(6)], *errors)"
)


@needs_monitoring
@pytest.mark.parametrize("numbers", [(4,), (3, 4), tuple(range(6))])
def test_numbers_that_the_job_took_before_stay_its_own(launcher, numbers):
    """The agent takes another one, or does without where none is left."""
    has_free_one = not {3, 4} <= set(numbers)
    taken = f"{TAKE}take(*{numbers})\n"
    done = run(launcher, f"{TRAINS}\n{UNINSTALL}", before=taken, sees_raises=has_free_one)
    assert len(numbers) == done.stdout.count("'mine'")
    assert len(numbers) == done.stdout.count("('use', ")


@needs_monitoring
def test_numbers_that_the_job_takes_afterwards_work_beside(launcher):
    """Each is told of the same errors as without the agent, also after `uninstall()`."""
    source = f"{TAKE}take(0, 1, 2, 5)\n{TRAINS}\n{UNINSTALL}\nprint(train(), len(errors))"
    done = run(launcher, source)
    assert 4 == done.stdout.count("'mine'")
    assert 2 == done.stdout.count("None")
