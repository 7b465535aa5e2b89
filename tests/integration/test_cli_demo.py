"""`jitwatch demo`: trains, can be scraped meanwhile, and sums up."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from jitwatch.demo import pitfalls
from jitwatch.model.taxonomy import PITFALLS
from tests.waiting import wait_until

TIMEOUT_S = 240
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def environment(**extra: str) -> dict[str, str]:
    """The test's environment without options of jitwatch."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")},
        "JAX_PLATFORMS": "cpu",
        **extra,
    }


def wait_for(path: Path, pattern: str, process: subprocess.Popen[bytes]) -> re.Match[str]:
    """Poll until the growing file has a match."""

    def match() -> re.Match[str] | None:
        is_over = process.poll() is not None
        text = path.read_text(encoding="utf-8")
        found = re.search(pattern, text)
        assert found or not is_over, text
        return found

    found = wait_until(match, what=f"{pattern} in {path}", timeout_s=TIMEOUT_S)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One short demo: its exit code, output, and what a scrape and the page said while it trained."""
    folder = tmp_path_factory.mktemp("demo")
    output = folder / "output.txt"
    with (
        output.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, "-m", "jitwatch", "demo", "--steps", "5", "--port", "0"],
            cwd=folder,
            env=environment(),
            stdout=sink,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            url = wait_for(output, r"http://127\.0\.0\.1:\d+", process)[0]
            scraped = DIRECT.open(f"{url}/metrics", timeout=10).read().decode()
            page = DIRECT.open(f"{url}/", timeout=10).read().decode()
            is_running = process.poll() is None
            code = process.wait(TIMEOUT_S)
        finally:
            process.kill()
    return {
        "code": code,
        "text": output.read_text(encoding="utf-8"),
        "scraped": scraped,
        "page": page,
        "is_running": is_running,
        "files": sorted(path.name for path in folder.iterdir()),
    }


def test_demo_exits_with_0(demo):
    """Five steps are trained, and nothing is left in the folder."""
    assert 0 == demo["code"], demo["text"]
    assert ["output.txt"] == demo["files"]
    assert re.search(r"^5 steps in \d+\.\d s, loss \d\.\d\d → \d\.\d\d$", demo["text"], re.MULTILINE)


def test_demo_prints_an_address_that_answers_while_it_trains(demo):
    """Prometheus and a browser find what they need there."""
    assert demo["is_running"]
    assert "\njitwatch_build_info{" in demo["scraped"]
    assert "<html" in demo["page"].lower()


def test_demo_sums_up_by_function(demo):
    """The training step compiled for the full batch and for the smaller last one."""
    row = r"^ +\d+\.\d\d +(\d+) +(\d+) +(?:\d+\.\d\d +\S+ %|- +-)  jitwatch\.demo\.model\.(\w+) \(model\.py:\d+\)(.*)$"
    rows = {name: (*counts, why) for *counts, name, why in re.findall(row, demo["text"], re.MULTILINE)}

    assert ("2", "1", ": 1 shape") == rows["train_step"]
    assert ("2", "1", ": 1 shape") == rows["eval_step"]
    assert ("1", "0", "") == rows["generate"]
    assert re.search(r"^6 compiles \(2 recompiles\) took \d+\.\d s; ", demo["text"], re.MULTILINE)


def test_misbehaving_demo_is_a_tour_of_every_pitfall(tmp_path):
    """Each one is announced, run, and reported at once at a line of its function, with its advice.

    The package lies where an installer puts it, beside the libraries.
    """
    site = tmp_path / "lib" / "site-packages"
    shutil.copytree(Path(pitfalls.__file__).parents[1], site / "jitwatch", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "jitwatch", "demo", "--steps", "2", "--misbehave", "--port", "0"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert 0 == done.returncode
    # XLA writes about the double donation: a line, and from JAX 0.11 on where in its source that was found.
    of_xla = r"^E.* previously donated in the same call .*\n(=== Source Location Trace: ===\s*\n(external/.*\n)*\n?)?"
    assert "" == re.sub(of_xla, "", done.stderr, flags=re.MULTILINE)
    source = Path(pitfalls.__file__).read_text(encoding="utf-8")
    lines = {
        node.name: range(node.lineno, (node.end_lineno or 0) + 1)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }
    stations = re.findall(r"^ ?\d+\. (\w+): [A-Z].*\n(?:    (?!→).*\n)*    → ((?:.+\n)+)", done.stdout, re.MULTILINE)
    said = {name: " ".join(text.split()) for name, text in stations}
    places = {name: int(found[1]) for name, text in said.items() if (found := re.match(r"pitfalls\.py:(\d+): ", text))}

    assert [example.__name__ for example in pitfalls.EXAMPLES] == list(said)
    assert sorted(PITFALLS) == sorted(places)
    assert [] == [name for name, line in places.items() if line not in lines[name]]
    assert [] == [name for name in PITFALLS if said[name].count(". ") < 1]
    entries = rf"Jit caches: \d+ entries, most in jitwatch\.demo\.pitfalls\.attended \({pitfalls.GROWING_STEPS}\)\."
    assert re.match(entries, said["growing_cache"])
    assert "Advice:" not in done.stdout


def test_demo_in_a_terminal_leaves_the_page_there_until_ctrl_c():
    """Somebody may be looking at it. The recompile is told while it trains, with its line and its fix."""
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "jitwatch", "demo", "--steps", "3", "--port", "0", "--no-open"],
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        seen = b""
        deadline = time.monotonic() + TIMEOUT_S
        try:
            while b"Press Ctrl-C to end the demo." not in seen and time.monotonic() < deadline:
                seen += os.read(master, 4096)
            url = re.search(rb"The page is still served at (\S+)", seen)
            assert url, seen
            assert DIRECT.open(f"{url[1].decode()}healthz", timeout=10).read().startswith(b"jitwatch")
            process.send_signal(signal.SIGINT)
            assert 0 == process.wait(TIMEOUT_S)
        finally:
            process.kill()
    os.close(master)
    text = " ".join(seen.decode().split())
    told = "train_step recompiled at train.py:134: tokens int32[32,65] → int32[20,65]."
    assert 2 == text.count(told), text
    assert "If that is the last batch of an epoch, drop the remainder or pad it to 32." in text


#: Waits, at one moment of the demo, until it is told to go on; then runs the demo.
STOPS = """
import atexit, importlib, sys

has_stopped = False

def stop():
    global has_stopped
    if not has_stopped:
        has_stopped = True
        print("here", flush=True)
        sys.stdin.readline()

class BeforeJax:
    def find_spec(self, name, path=None, target=None):
        if name == "jax" and sys.modules["jitwatch"].snapshot():
            stop()

def before(module, name):
    module = importlib.import_module(module)
    original = getattr(module, name)

    def stopping(*arguments, **options):
        stop()
        return original(*arguments, **options)

    setattr(module, name, stopping)

{setup}
from jitwatch.cli import main

sys.exit(main(["demo", "--port", "0", "--no-open", *sys.argv[1:]]))
"""
MOMENTS = {
    "the agent starts": 'before("jitwatch", "install")',
    "jax is not imported yet": "sys.meta_path.insert(0, BeforeJax())",
    "the first step is traced": 'before("jitwatch.demo.model", "_normalize")',
    "it sums up": 'before("jitwatch.render.summary", "text")',
    "the agent stops": 'before("jitwatch.agent", "_uninstall")',
    "a pitfall was reported": 'before("jitwatch.cli.demo", "_report_of")',
}


def interrupted(setup, *options, until_it_ends=False):
    """Press Ctrl-C while the demo waits at a moment, once or until it ends; exit code, stdout, stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", STOPS.format(setup=setup), *options],
        env=environment(JAX_DISABLE_MOST_OPTIMIZATIONS="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for line in process.stdout:
                if line == "here\n":
                    break
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + TIMEOUT_S
            # Two signals in the same instant are one.
            while until_it_ends and process.poll() is None and time.monotonic() < deadline:
                process.send_signal(signal.SIGINT)
            out, err = process.communicate("\n", timeout=TIMEOUT_S)
        finally:
            process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize("moment", MOMENTS)
def test_demo_ends_cleanly_by_ctrl_c(moment):
    """Ctrl-C is no failure: no traceback, but what happened until then, and the exit code that a shell expects."""
    options = ["--steps", "2"] if moment != "the first step is traced" else ["--seconds", "600"]
    code, out, err = interrupted(
        MOMENTS[moment], *options, *(["--misbehave"] if moment == "a pitfall was reported" else [])
    )

    assert (130, "") == (code, err), out
    assert re.search(r"^\d+ compiles ", out, re.MULTILINE) or moment == "the agent stops", out


def test_demo_ends_at_once_by_a_second_ctrl_c():
    """Whoever presses it again does not want to read."""
    code, out, err = interrupted(MOMENTS["jax is not imported yet"], until_it_ends=True)
    assert (130, "") == (code, err)
    assert "compiles" not in out.rpartition("train.py")[2]


def test_demo_that_has_ended_is_not_interrupted():
    """All is said and done, and the interpreter is about to go."""
    code, out, err = interrupted("atexit.register(stop)", "--steps", "2")
    assert (0, "") == (code, err), out


def test_demo_interrupted_in_a_compile_sums_up(tmp_path):
    """It ends when the compile has, since XLA cannot be stopped."""
    output = tmp_path / "output.txt"
    with (
        output.open("wb") as sink,
        subprocess.Popen(
            [sys.executable, "-m", "jitwatch", "demo", "--seconds", "600", "--port", "0"],
            env=environment(),
            stdout=sink,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            url = wait_for(output, r"http://127\.0\.0\.1:\d+", process)[0]
            wait_until(
                lambda: "train_step" in str(json.load(DIRECT.open(f"{url}/api/v1/state", timeout=10))["in_progress"]),
                what="a compile of train_step",
                timeout_s=TIMEOUT_S,
            )
            process.send_signal(signal.SIGINT)
            code = process.wait(TIMEOUT_S)
        finally:
            process.kill()
    text = output.read_text(encoding="utf-8")
    assert 130 == code, text
    assert "Traceback" not in text
    assert re.search(r"^Interrupted\. Summary so far:\n\n\d+ compiles? \(?", text, re.MULTILINE), text


def test_demo_that_is_disabled_says_so():
    """The demo needs the agent."""
    done = subprocess.run(
        [sys.executable, "-m", "jitwatch", "demo", "--steps", "1"],
        env=environment(JITWATCH_DISABLE="1"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("jitwatch: JITWATCH_DISABLE is set")
