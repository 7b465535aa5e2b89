"""`jitwatch demo`: trains, can be scraped meanwhile, and sums up."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from jitwatch.demo import mistakes
from jitwatch.events import PITFALLS

TIMEOUT_S = 120
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
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = re.search(pattern, path.read_text(encoding="utf-8"))
        if found is not None:
            return found
        with suppress(subprocess.TimeoutExpired):
            assert process.wait(0.05) is None, path.read_text(encoding="utf-8")
    raise AssertionError(f"no {pattern} in {path.read_text(encoding='utf-8')}")


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


def test_misbehaving_demo_names_every_mistake_with_its_line():
    """Each pitfall is announced, committed, and named in the summary at a line of the function that commits it."""
    done = subprocess.run(
        [sys.executable, "-m", "jitwatch", "demo", "--steps", "2", "--misbehave", "--port", "0"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert 0 == done.returncode
    # XLA writes a line of its own about the double donation.
    assert [] == [line for line in done.stderr.splitlines() if "previously donated in the same call" not in line]
    announced, _, advice = done.stdout.partition("What to change:")
    source = Path(mistakes.__file__).read_text(encoding="utf-8")
    lines = {
        node.name: range(node.lineno, (node.end_lineno or 0) + 1)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }
    found = set(re.findall(r"(\w+) in \S+ (?:\(\S+\) )?at mistakes\.py:(\d+):", " ".join(advice.split())))
    told = {name for name, _ in found}
    names = [mistake.__name__ for mistake in mistakes.MISTAKES]

    assert sorted(PITFALLS) == sorted(set(names) - {"growing_cache"})
    assert sorted(PITFALLS) == sorted(told)
    # The lengths that let the cache grow are shapes that churn.
    committed_by = {name: [name] for name in PITFALLS} | {"shape_churn": ["shape_churn", "growing_cache"]}
    assert [] == [one for one in found if not any(int(one[1]) in lines[by] for by in committed_by[one[0]])]
    assert [] == [name for name in names if not re.search(rf"^  {name} +[A-Z]", announced, re.MULTILINE)]
    entries = rf"Jit caches: \d+ entries, most of jitwatch\.demo\.mistakes\.attended {mistakes.GROWING_STEPS}\."
    assert re.search(entries, " ".join(announced.split()))


def test_demo_that_is_disabled_says_so():
    """There would be nothing to see."""
    done = subprocess.run(
        [sys.executable, "-m", "jitwatch", "demo", "--steps", "1"],
        env=environment(JITWATCH_DISABLE="1"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("jitwatch: JITWATCH_DISABLE is set")
