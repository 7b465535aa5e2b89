"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest

import jitwatch
from jitwatch.autoinstall import PTH_LINE
from jitwatch.testing import no_recompiles, watched
from tests.checkout import PACKAGE, ROOT

PROGRAM = """
import jax, numpy as np, pytest
from jitwatch.testing import no_recompiles

@jax.jit
def step(x):
    return x + 1

def run(*sizes):
    for size in sizes:
        step(np.ones(size, np.float32))
"""


def run_pytest(folder, body, *options):
    """Run a test file with the plugin, in a process of its own."""
    (folder / "test_it.py").write_text(PROGRAM + body)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *options,
            "test_it.py",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_fixture_lists_the_compiles_of_the_test(tmp_path):
    """jitwatch_events counts by function, for this test only, and the agent is gone afterwards."""
    done = run_pytest(
        tmp_path,
        """
def test_first(jitwatch_events):
    run(1, 2, 2)
    assert jitwatch_events.compiles == {"test_it.step": 2}
    assert jitwatch_events.recompiles == {"test_it.step": 1}
    assert [event["nth"] for event in jitwatch_events.events] == [1, 2]

def test_second(jitwatch_events):
    run(1, 2)
    assert jitwatch_events.compiles == {}

def test_third():
    import jitwatch
    assert jitwatch.snapshot() == {}
""",
    )
    assert "3 passed" in done.stdout


def test_marker_fails_a_test_that_compiles_too_often(tmp_path):
    """max_compiles(n) allows n, and the failure names function, line and number."""
    done = run_pytest(
        tmp_path,
        """
@pytest.mark.max_compiles(2)
def test_enough():
    run(1, 2)

@pytest.mark.max_compiles(2)
def test_too_many():
    run(3, 4, 5)

@pytest.mark.max_compiles(0)
def test_own_failure_stays():
    run(6)
    assert 1 == 2
""",
        "--strict-markers",
    )
    assert "2 failed, 1 passed" in done.stdout
    assert "3 compiles, at most 2 allowed" in done.stdout
    assert "test_it.step (compile 3) called at" in done.stdout
    assert "assert 1 == 2" in done.stdout


@pytest.mark.parametrize("argument", ["", "'two'", "True", "-1", "n=2"])
def test_marker_with_a_bad_argument_is_an_error(tmp_path, argument):
    """The message says how to write it."""
    done = run_pytest(tmp_path, f"\n@pytest.mark.max_compiles({argument})\ndef test_it():\n    pass\n")
    assert 0 != done.returncode
    assert "expects one whole number of at least 0, such as max_compiles(2)" in done.stdout + done.stderr


def test_plugin_is_found_without_being_named(tmp_path):
    """The installed package registers itself with pytest."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--markers"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "@pytest.mark.max_compiles(n)" in done.stdout


def step_function():
    return jax.jit(lambda x: x * 3)


def test_no_recompiles_lets_first_compiles_and_cached_calls_pass():
    """A block that compiles each function once is fine."""
    step = step_function()
    with no_recompiles() as log:
        for _ in range(3):
            step(np.float32(1))
    assert [1] == list(log.compiles.values())


def test_no_recompiles_names_what_recompiled():
    """The error says which function and where it was called."""
    step = step_function()
    with pytest.raises(AssertionError, match=r"^1 recompile, none allowed") as caught, no_recompiles():
        step(np.ones(1, np.float32))
        step(np.ones(2, np.float32))
    assert __file__ in str(caught.value)
    assert re.search(r", \d+\.\d\d s: x float32\[1\] → float32\[2\]$", str(caught.value))


def test_no_recompiles_knows_what_had_compiled_before_the_block():
    """No agent saw the first compile, but JAX's cache has it: one more is a recompile, a cached call is none."""
    step = step_function()
    step(np.ones(1, np.float32))
    with no_recompiles() as log:
        step(np.ones(1, np.float32))
    assert {} == log.recompiles
    told = r"^1 recompile, none allowed:\n.*step.* \(in the cache before\) called at"
    with pytest.raises(AssertionError, match=told), no_recompiles() as log:
        step(np.ones(2, np.float32))
    assert [1] == list(log.recompiles.values())


def test_error_of_the_block_goes_first():
    """An exception of the test itself is not hidden."""
    step = step_function()
    with pytest.raises(ValueError, match="mine"), no_recompiles():
        step(np.ones(1, np.float32))
        step(np.ones(2, np.float32))
        raise ValueError("mine")


def test_agent_that_is_there_is_used_and_left_alone():
    """Where the job installed an agent, its counts go on and it stays installed."""
    with jitwatch.install(port=0) as watch:
        step_function()(1.0)
        with watched() as log:
            step_function()(2)
        assert [1] == list(log.compiles.values())
        assert watch.is_active


def test_switched_off_agent_is_an_error(monkeypatch):
    """A test that counts compiles must not pass because counting is off."""
    monkeypatch.setenv("JITWATCH_DISABLE", "1")
    with pytest.raises(jitwatch.JitwatchError, match="JITWATCH_DISABLE is set"), watched():
        pass


#: Tests of somebody who has never heard of jitwatch; the second one is meant to fail.
INNOCENT = """
import multiprocessing, threading, warnings
import jax, jax.numpy as jnp, pytest

step = jax.jit(lambda x: x * 2, donate_argnums=0)

def test_passes(recwarn, capfd):
    for n in range(1, 8):
        assert step(jnp.ones(n)).sum() == 2 * n
    gone = jnp.ones(3)
    step(gone)
    with pytest.raises(RuntimeError):
        gone + 1
    assert [] == recwarn.list
    assert ("", "") == capfd.readouterr()

def test_fails():
    assert step(jnp.ones(3)).shape == (4,)

def test_warns():
    warnings.warn("mine", UserWarning)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which jitwatch lies as pip installs it; an editable installation lists no files of the package."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, folder / "jitwatch", ignore=shutil.ignore_patterns("__pycache__"))
    with (ROOT / "pyproject.toml").open("rb") as file:
        plugins = tomllib.load(file)["project"]["entry-points"]["pytest11"]
    info = folder / f"jitwatch-{jitwatch.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jitwatch\nVersion: {jitwatch.__version__}\n")
    lines = "".join(f"{name} = {module}\n" for name, module in plugins.items())
    (info / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file())
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    return folder


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], ["-W", "error"]),
        ([], ["-W", "error", "-n", "2", "--import-mode=importlib", "--cov=.", "--cov-report=term"]),
        ([], ["-p", "no:jitwatch", "--assert=plain", "-s"]),
        (["-OO"], []),
    ],
    ids=["warnings are errors", "xdist and coverage", "without the plugin", "without docstrings"],
)
def test_run_of_tests_is_the_same_under_the_agent(tmp_path, site, flags, options):
    """Nothing of ours shows, not even a warning: as `jitwatch run -m pytest` and where the agent installs itself."""
    (tmp_path / "test_one.py").write_text(INNOCENT)
    line = tmp_path / "line"
    line.mkdir()
    (line / "sitecustomize.py").write_text(PTH_LINE)
    common = {
        name: value for name, value in os.environ.items() if not name.startswith(("JITWATCH_", "PYTEST_", "COV_"))
    }
    common |= {"JAX_PLATFORMS": "cpu", "JITWATCH_PORT": "0", "PYTHONPATH": os.pathsep.join(map(str, (line, site)))}

    def outcome(*command, **variables):
        done = subprocess.run(
            [sys.executable, *flags, "-m", *command, "pytest", "-p", "no:cacheprovider", *options, "test_one.py"],
            cwd=tmp_path,
            env={**common, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )
        # Lines of `=` are as long as leaves room for the seconds.
        lines = re.sub(r"={3,}", "===", re.sub(r"\d+\.\d+s", "…s", done.stdout)).splitlines()
        if "-n" in options:
            # Which worker takes which test, and which is done first, is not said.
            lines = sorted(
                "".join(sorted(line)) if line.endswith("%]") else re.sub("gw.", "gw", line) for line in lines
            )
        return done.returncode, lines, done.stderr

    bare = outcome()
    log = ["--event-log", str(tmp_path / "log.jsonl")]
    assert bare == outcome("jitwatch", "run", "--quiet", *log, "-m")
    assert bare == outcome(JITWATCH_AUTOINSTALL="1")
    assert 1 == bare[0] or flags
    assert [] == [line for line in bare[1] if "PytestAssertRewriteWarning" in line]
