"""Makes every function of jitwatch that runs in a job fail, one by one, and compares the job with the bare one.

    python -m tests.faults.walk                      everything, half an hour on two cores
    python -m tests.faults.walk --every 20           a sample
    python -m tests.faults.walk --only misses        functions whose name contains the text

Exit code 1 if a job noticed. What it prints at its end stands in docs/transparency.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.injection import MODES

_ROOT = Path(__file__).parents[2]
#: What is called from outside and can only raise before it has begun. Each is a few lines around a guarded call.
ENTRIES = {
    # The terminal of every guard.
    "guard.failed",
    # What stands for a donating function, called by the job.
    "Watched.__call__",
    "Watched.__get__",
    "Watched.__getattr__",
    "CompiledCall.__call__",
    # The one place where generated code calls us back besides `begun`.
    "ObservedFunction.end",
    "ObservedFunction.fail",
    "ObservedFunction.broken",
    # The verbs that the job's own code calls; what they call is guarded.
    "agent.install",
    "agent.step",
    "agent.snapshot",
    "agent.scalars",
    "agent.explain",
    "Watch.snapshot",
    "Watch.__init__",
    "Watch.explain",
    # What is asked when `install` has failed.
    "agent._is_strict",
    "guard.guarded",
    "guard.call",
    # JAX calls them: listeners, and what stands for methods that are written in C++.
    "Listeners._on_scalar",
    "Listeners._on_duration",
    "Listeners._on_event",
    "_raising.<locals>.guarded",
    "_answering_platform.<locals>.platform",
    "Arrays.install.<locals>.delete",
    "_Warnings.warn",
    "_Warnings.__getattr__",
    # Python calls them.
    "_checking.<locals>.hook",
    "_reserve_tool.<locals>.raised",
    "ViolationDetector._raised_in_python",
    "agent._at_exit",
    "agent._in_forked_child",
    "ImportWatch.find_spec",
    "_NotifyingLoader.exec_module",
    "_NotifyingLoader.create_module",
    "_NotifyingLoader.__getattr__",
    "expected.expected",
    "Expected.__init__",
    "Expected.__enter__",
    "Expected.__exit__",
    "steady.steady",
    "Steady.__init__",
    "Steady.__enter__",
    "Steady.__exit__",
    "Steady.end",
    "Explanation.__str__",
}
#: Left out where they return None: an object whose `__init__` does nothing cannot be called; and the answer 'no'.
NONE_IS_AN_ANSWER = {
    "Watched.__init__",
    "CompiledCall.__init__",
    "Thread.__init__",
    "BegunThread.__init__",
    "compat.is_installed",
}


class Zygote:
    """A process that forks jobs; see `zygote`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def run(self, **request: Any) -> dict[str, Any]:
        """One job."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


@dataclass
class Result:
    """What the walk found.

    Attributes:
        tried: Faults that were injected, by mode.
        skipped: Faults that could not be put into a function.
        noticed: Faults that changed the job, with the first difference.
        uncounted: Faults that raised, changed nothing and were not counted.
    """

    functions: int = 0
    tried: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    noticed: list[tuple[str, str]] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)


def comparable(outcome: dict[str, Any]) -> tuple[int, str, str]:
    """What must be equal: exit code, standard output, standard error without addresses of objects."""
    return outcome["code"], outcome["stdout"], re.sub(r"0x[0-9a-f]+", "0x", outcome["stderr"])


def difference(bare: dict[str, Any], found: dict[str, Any]) -> str | None:
    """The first difference that the job shows, or None."""
    for name, expected, actual in zip(("code", "stdout", "stderr"), comparable(bare), comparable(found), strict=True):
        if expected != actual:
            if isinstance(expected, int):
                return f"exit code {actual}, not {expected}: {found['stderr'][-300:]}"
            lines = zip([*expected.splitlines(), ""], [*actual.splitlines(), ""], strict=False)
            first = next(((a, b) for a, b in lines if a != b), ("", str(actual)[-200:]))
            return f"{name}: {first[1][:200]!r}, not {first[0][:200]!r}"
    return None


def is_entry(module: str, qualname: str, mode: str) -> bool:
    """Whether a fault in the function's first instruction cannot be caught by anybody."""
    names = ENTRIES | NONE_IS_AN_ANSWER if mode == "none" else ENTRIES
    return qualname in names or f"{module.rpartition('.')[2]}.{qualname}" in names


def walk(*, every: int = 1, only: str = "", jobs: int = 2, modes: tuple[str, ...] = MODES) -> Result:
    """Run the jobs.

    Args:
        every: Take only each n-th fault.
        only: Take only functions whose name contains this.
        jobs: Processes at a time.
        modes: Of `injection.MODES`.
    """
    zygotes = [Zygote() for _ in range(jobs)]
    try:
        bare = zygotes[0].run(agent=False)
        healthy = zygotes[0].run(agent=True)
        problem = difference(bare, healthy)
        if problem is not None or healthy["counted"] or healthy["log"]:
            raise RuntimeError(f"the job without a fault differs: {problem} {healthy['log'][:2000]}")
        seen = [tuple(one) for one in zygotes[0].run(agent=True, trace=True)["seen"]]
        faults = [
            (module, qualname, mode)
            for mode in modes
            for module, qualname in seen
            if only in f"{module}.{qualname}"
            and not is_entry(module, qualname, mode)
            and "<" not in qualname.rpartition(".")[2]
        ][::every]
        result = Result(functions=len(seen))
        shares = [faults[i::jobs] for i in range(jobs)]
        with ThreadPoolExecutor(jobs) as pool:
            for found in pool.map(lambda pair: list(_share(bare, *pair)), zip(zygotes, shares, strict=True)):
                for fault, outcome in found:
                    _add(result, bare, fault, outcome)
        return result
    finally:
        for one in zygotes:
            one.close()


def _share(
    bare: dict[str, Any], zygote: Zygote, faults: list[tuple[str, str, str]]
) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    for fault in faults:
        outcome = zygote.run(agent=True, fault=fault)
        if sys.stderr.isatty() or difference(bare, outcome):
            print(
                fault, "" if outcome.get("skipped") else difference(bare, outcome) or "ok", file=sys.stderr, flush=True
            )
        yield fault, outcome


def _add(result: Result, bare: dict[str, Any], fault: tuple[str, str, str], outcome: dict[str, Any]) -> None:
    if outcome.get("skipped"):
        result.skipped += 1
        return
    module, qualname, mode = fault
    result.tried[mode] += 1
    name = f"{module}.{qualname} ({mode})"
    problem = difference(bare, outcome)
    if problem is not None:
        result.noticed.append((name, problem))
    elif mode == "raise" and not outcome.get("counted") and "injected fault" not in outcome["log"]:
        result.uncounted.append(name)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--mode", choices=MODES, action="append")
    options = parser.parse_args()
    result = walk(every=options.every, only=options.only, jobs=options.jobs, modes=tuple(options.mode or MODES))
    print(f"{result.functions} functions run in the job; {sum(result.tried.values())} faults: {dict(result.tried)}")
    print(f"{result.skipped} could not be injected; {len(ENTRIES)} entries are left out")
    print(f"{len(result.noticed)} changed the job; {len(result.uncounted)} raised and were neither counted nor logged")
    for name, problem in result.noticed:
        print(f"NOTICED {name}: {problem}")
    for name in result.uncounted:
        print(f"UNCOUNTED {name}")
    return 1 if result.noticed else 0


if __name__ == "__main__":
    sys.exit(main())
