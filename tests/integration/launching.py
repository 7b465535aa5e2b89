"""Starts a job bare and with the agent, by each way there is, and compares what the world sees of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from jitwatch.autoinstall import PTH_LINE
from tests.checkout import PACKAGE

TIMEOUT_S = 240
#: First line of a job that installs the agent itself, in its workers as well; the line is the same in each way.
INSTALL = 'import os; os.environ.get("INSTALL") and __import__("jitwatch").install(port=0)\n'
#: By a call in the program, by `jitwatch run`, and by `jitwatch activate`.
WAYS = ("install", "run", "autoinstall")
BARE = "bare"


@dataclass(frozen=True)
class Outcome:
    """What whoever started a job sees of it."""

    code: int
    stdout: str
    stderr: str


def stable(text: str) -> str:
    """A text without what differs from process to process: addresses, and the names of a notebook's cells."""
    return re.sub(r"0x[0-9a-f]+|(?<=ipykernel_)\d+", "…", text)


def make_python(folder: Path) -> Path:
    """An interpreter with the packages of this one, and with the line of `jitwatch activate`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    there = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    here = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(PACKAGE.parent)])
    (there / "packages.pth").write_text("\n".join(here) + "\n")
    (there / "jitwatch.pth").write_text(PTH_LINE)
    return python


@dataclass(frozen=True)
class Launcher:
    """Starts jobs in a folder.

    Attributes:
        python: The interpreter, from `make_python`.
        folder: Working directory of every job.
    """

    python: Path
    folder: Path

    def environment(self, way: str, **extra: str) -> dict[str, str]:
        """The test's environment without options of jitwatch, and with what a way of starting needs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
        kept |= {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0", "COLUMNS": "80"}
        if way == "install":
            kept["INSTALL"] = "1"
        if way == "autoinstall":
            kept |= {"JITWATCH_AUTOINSTALL": "1", "JITWATCH_PORT": "0"}
        return {**kept, **extra}

    def command(self, way: str, job: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
        """The command line: the interpreter's own options, then the job as `python` takes it."""
        ours = ["-m", "jitwatch", "run", "--quiet", "--port", "0", f"--event-log={self.folder / 'log.jsonl'}"]
        return [str(self.python), *flags, *(ours if way == "run" else []), *job]

    def outcome(self, way: str, *job: str, flags: Sequence[str] = (), text: str | None = None, **extra: str) -> Outcome:
        """Run a job to its end.

        Args:
            way: One of `WAYS`, or `BARE`.
            job: What follows `python`, as `train.py --lr 1`.
            flags: Options of the interpreter.
            text: Its standard input; None for an empty one.
            extra: Further variables.
        """
        done = subprocess.run(
            self.command(way, job, flags),
            cwd=self.folder,
            env=self.environment(way, **extra),
            input=text or "",
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=TIMEOUT_S,
        )
        return Outcome(done.returncode, stable(done.stdout), stable(done.stderr))

    def outcomes(self, *job: str, ways: Sequence[str] = WAYS, **options: object) -> dict[str, Outcome]:
        """Run a job bare and in several ways, two at a time; the outcomes by way."""
        with ThreadPoolExecutor(2) as pool:
            started = {way: pool.submit(self.outcome, way, *job, **options) for way in (BARE, *ways)}  # type: ignore[arg-type]
            return {way: one.result() for way, one in started.items()}


def write(folder: Path, text: str, name: str = "job.py") -> None:
    """Write a program whose first line installs the agent, if that is the way."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(INSTALL + text.lstrip("\n"), encoding="utf-8")


def assert_same(outcomes: dict[str, Outcome]) -> Outcome:
    """Each way has the outcome of the bare job, which is returned."""
    bare = outcomes[BARE]
    for way, outcome in outcomes.items():
        # Line by line, so that a failure shows which one.
        lines, expected = outcome.stdout.splitlines(), bare.stdout.splitlines()
        assert [] == [(way, *pair) for pair in zip_longest(lines, expected) if pair[0] != pair[1]], outcome.stderr
        assert (way, outcome.code) == (way, bare.code), outcome.stderr
        assert (way, outcome.stderr) == (way, bare.stderr)
    return bare
