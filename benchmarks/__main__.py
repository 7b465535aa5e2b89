"""Print the speed table: what the agent costs, beside the goals and bare against bare, for one or several versions.

    JAX_PLATFORMS=cpu python -m benchmarks --python PYTHON... [--quick]

Each benchmark runs in a process of its own, with the Python, JAX and jitwatch of the given interpreters (default: the
one that runs this). An interpreter may be a command, such as '.ci/trixie .venv/bin/python'. It runs in the checkout.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, load

HERE = Path(__file__).parent
#: Each benchmark with its options, and with those of `--quick`. One that does not exist is left out.
BENCHMARKS: tuple[tuple[str, str, str], ...] = (
    ("cached_call", "--rounds 40", "--rounds 4"),
    ("fresh_processes", "--rounds 10", "--rounds 2"),
    ("donating_call", "--rounds 30", "--rounds 4"),
    ("compile_cost", "--rounds 80", "--rounds 8"),
    ("startup", "--times 15", "--times 3"),
    ("scrape", "--seconds 10", "--seconds 2"),
    ("exceptions", "--rounds 40", "--rounds 4"),
)
ABOUT = "import jax, jaxlib, platform; print(f'Python {platform.python_version()}, JAX {jax.__version__}')"


@dataclass
class Results:
    """The figures of one interpreter, by name, in order."""

    about: str
    figures: dict[str, Figure]


def run(command: list[str], *arguments: str) -> str:
    """Run an interpreter in the checkout, and return what it prints."""
    # The checkout is another folder inside of another root.
    environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"), "PYTHONPATH": "."}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, cwd=HERE.parent, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join([*command, *arguments])} failed:\n{done.stderr[-2_000:]}")
    return done.stdout


def measured(command: list[str], *, is_quick: bool) -> Results:
    """Run all benchmarks with one interpreter."""
    results = Results(run(command, "-c", ABOUT).strip().rpartition("\n")[2], {})
    for name, options, quick in BENCHMARKS:
        if not (HERE / f"{name}.py").exists():
            continue
        print(f"{results.about}: {name}", file=sys.stderr, flush=True)
        try:
            output = run(command, f"benchmarks/{name}.py", "--figures", *shlex.split(quick if is_quick else options))
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            continue
        results.figures |= {figure.name: figure for figure in load(output)}
    return results


def table(several: list[Results]) -> str:
    """The markdown table: a row a figure, two columns an interpreter."""
    names = list(dict.fromkeys(name for one in several for name in one.figures))
    heads = [head for one in several for head in (one.about, "bare against bare")]
    lines = [f"| figure | goal | {' | '.join(heads)} | how (the first version's) |"]
    lines.append("|---" * (len(heads) + 3) + "|")
    for name in names:
        cells, known = [], next(one.figures[name] for one in several if name in one.figures)
        for one in several:
            figure = one.figures.get(name)
            control = figure.control.text(figure.unit) if figure is not None and figure.control is not None else ""
            cells += [figure.agent.text(figure.unit) if figure is not None else "", control]
        lines.append(f"| {name} | {known.goal} | {' | '.join(cells)} | {known.how} |")
    return "\n".join(lines)


def machine() -> str:
    """The machine, in words."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return f"{os.cpu_count()} cores of {model or platform.processor() or platform.machine()}, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters, or commands for them")
    parser.add_argument("--quick", action="store_true", help="a few repetitions, to see that everything runs")
    options = parser.parse_args()
    several = [measured(shlex.split(one), is_quick=options.quick) for one in options.python]
    load_1 = os.getloadavg()[0]
    print(table(several))
    print(f"\nMedian (quartiles), on {machine()}; load at the end {load_1:.1f}.")


if __name__ == "__main__":
    main()
