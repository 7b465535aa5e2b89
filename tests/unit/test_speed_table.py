"""The speed table of `python -m benchmarks`, from made-up figures."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks import __main__ as speed
from benchmarks.figures import Figure, Spread, dump, load

RATIO = Figure("cached call, tiny", "≤ 1.000", "×", Spread(0.99, 0.995, 1.0), Spread(0.98, 1.0, 1.02), "paired")
TIME = Figure("`install()`", "≤ 20 ms", "ms", Spread(17.0, 18.25, 20.0), None, "fresh interpreters")


def test_figures_are_read_back_from_the_last_line():
    """A benchmark may print warnings before its figures."""
    assert [RATIO, TIME] == load(f"a warning\n{dump([RATIO, TIME])}\n")


def test_spread_is_median_and_quartiles():
    """As everywhere in the benchmarks; a single number has no quartiles."""
    assert Spread(1.5, 3.0, 4.5) == Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert ("3.000 µs (1.500 to 4.500)", "2.000 ms") == (
        Spread(1.5, 3.0, 4.5).text("µs"),
        Spread(2.0, 2.0, 2.0).text("ms"),
    )


def test_table_has_a_row_for_each_figure_and_two_columns_for_each_interpreter():
    """A figure that one of the interpreters lacks leaves its cells empty."""
    several = [
        speed.Results("Python 3.11, JAX 0.6.2", {RATIO.name: RATIO}),
        speed.Results("Python 3.13, JAX 0.12", {RATIO.name: RATIO, TIME.name: TIME}),
    ]
    assert [
        "| figure | goal | Python 3.11, JAX 0.6.2 | bare against bare | Python 3.13, JAX 0.12 | bare against bare "
        "| how (the first version's) |",
        "|---|---|---|---|---|---|---|",
        "| cached call, tiny | ≤ 1.000 | × 0.995 (0.990 to 1.000) | × 1.000 (0.980 to 1.020) "
        "| × 0.995 (0.990 to 1.000) | × 1.000 (0.980 to 1.020) | paired |",
        "| `install()` | ≤ 20 ms |  |  | 18.250 ms (17.000 to 20.000) |  | fresh interpreters |",
    ] == speed.table(several).splitlines()


def test_a_benchmark_that_fails_leaves_out_its_rows(monkeypatch, capsys):
    """The others are measured, and the error is shown."""

    def run(command, **_):
        if "benchmarks/startup.py" in command:
            return subprocess.CompletedProcess(command, 1, "", "no such file")
        return subprocess.CompletedProcess(command, 0, dump([RATIO]), "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(speed, "BENCHMARKS", (("cached_call", "", ""), ("startup", "", "")))
    results = speed.measured(["python"], is_quick=True)

    assert {RATIO.name: RATIO} == results.figures
    assert "startup.py --figures failed:\nno such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, *_ in speed.BENCHMARKS if (speed.HERE / f"{name}.py").exists()])
def test_benchmarks_of_the_table_return_figures(name):
    """Each has the option with which the table runs it."""
    text = (speed.HERE / f"{name}.py").read_text(encoding="utf-8")
    assert "--figures" in text
    assert "def figures(" in text
