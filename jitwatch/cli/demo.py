"""`jitwatch demo`: a small real training job under watch, with nothing downloaded."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

import jitwatch
from jitwatch import config, summary
from jitwatch.cli.options import add_agent_options, agent_options
from jitwatch.errors import ConfigError

if TYPE_CHECKING:
    from jitwatch.demo.train import Progress

_DESCRIPTION = """Train a small character-level transformer for about a minute on text that comes with
Python, watch it compile, and sum up. The last batch of each epoch is smaller than the others, as
in many real jobs: find the recompile that it costs."""


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser("demo", help="train a small model and watch it compile", description=_DESCRIPTION)
    parser.add_argument("--seconds", type=_positive, default=60.0, help="how long to train (default: 60)")
    parser.add_argument("--steps", type=_at_least_one, help="train exactly so many steps instead")
    parser.add_argument(
        "--misbehave", action="store_true", help="then commit every known mistake once, on purpose, and see it named"
    )
    add_agent_options(parser)
    parser.set_defaults(call=_demo)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to a day, got {text}")
    return value


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of steps from 1 up, got {text}")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    if config.is_disabled():
        raise ConfigError("JITWATCH_DISABLE is set, so there would be nothing to see; unset it for the demo")
    watch = jitwatch.install(**agent_options(options))
    print(f"The job's endpoint:  {watch.url}/         (a page to look at)")
    print(f"                     {watch.url}/metrics  (for Prometheus)")
    print("Training a character-level transformer; the first step compiles.\n", flush=True)
    from jitwatch.demo.train import train

    result = train(seconds=options.seconds, steps=options.steps, on_progress=_ProgressLine(), on_step=jitwatch.step)
    print(
        f"\n\n{result.steps} steps in {result.elapsed_s:.1f} s, loss {result.first_loss:.2f} → {result.last_loss:.2f}"
    )
    print(f"evaluation loss {result.eval_loss:.2f}; the model writes: {result.sample!r}\n")
    if options.misbehave:
        _misbehave()
    print(summary.text(watch.snapshot()))
    watch.uninstall()
    return 0


def _misbehave() -> None:
    from jitwatch.demo.mistakes import commit_all

    print("Now the known mistakes, each once, on purpose:")
    commit_all(lambda name, what: print(f"  {name:<24} {what}", flush=True))
    print()


class _ProgressLine:
    """Prints progress on one line of a terminal, and now and then a line elsewhere."""

    _EVERY_S = 10.0

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._last_s = -self._EVERY_S

    def __call__(self, progress: Progress) -> None:
        compiles = jitwatch.snapshot()["totals"]["compiles"]
        line = (
            f"step {progress.step:5d}  loss {progress.loss:5.2f}  {progress.tokens_per_s:8.0f} tokens/s  "
            f"{progress.elapsed_s:5.1f} s  {compiles} compiles"
        )
        if self._is_terminal:
            print(f"\r{line}", end="", flush=True)
        elif progress.elapsed_s - self._last_s >= self._EVERY_S:
            self._last_s = progress.elapsed_s
            print(line, flush=True)
