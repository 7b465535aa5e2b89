"""Cost of an exception of the job with the agent installed, which observes those that C++ raises (Python ≥ 3.12).

Blocks of exceptions for 'bare', 'agent' and 'control' (bare again), interleaved in random order, by the CPU time of the
calling thread. The agent is installed before its block and uninstalled after it. `--alternatives` measures other ways
to observe exceptions in the same manner, without an agent: what the event itself costs, a Python function that only
compares the class, and the event of handled exceptions in place of raised ones.
"""

from __future__ import annotations

# ruff: noqa: SIM105 - `suppress` costs more than what is measured
import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from figures import Figure, Spread, dump

import jitwatch

BLOCK_S = 0.02
DEPTH = 20
_TOOL = 3
_KINDS = (BufferError, ValueError)


class PlainError(Exception):
    """An error of the job's own."""


class Lazy:
    """Computes attributes; a missing one raises an error that `getattr` with a default catches in C."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def raise_and_catch(n: int) -> None:
    for _ in range(n):
        try:
            raise PlainError
        except PlainError:
            pass


def missing_keys(n: int) -> None:
    empty: dict[int, int] = {}
    for i in range(n):
        try:
            empty[i]
        except KeyError:
            pass


def value_errors(n: int) -> None:
    for _ in range(n):
        try:
            int("x")
        except ValueError:
            pass


def dig(depth: int) -> None:
    if depth == 0:
        raise PlainError
    dig(depth - 1)


def deep_stack(n: int) -> None:
    for _ in range(n):
        try:
            dig(DEPTH - 2)
        except PlainError:
            pass


def dig_value(depth: int) -> None:
    if depth == 0:
        int("x")
    dig_value(depth - 1)


def deep_value_errors(n: int) -> None:
    for _ in range(n):
        try:
            dig_value(DEPTH - 2)
        except ValueError:
            pass


def exhausted_iterators(n: int) -> None:
    for _ in range(n):
        try:
            next(iter(()))
        except StopIteration:
            pass


def one_item(value: int) -> Iterator[int]:
    yield value


def generators(n: int) -> None:
    for i in range(n):
        for _ in one_item(i):
            pass


def caught_in_c(n: int) -> None:
    lazy = Lazy()
    for _ in range(n):
        getattr(lazy, "missing", None)


def failing_sort(n: int) -> None:
    """An error that passes C between two Python frames."""

    def key(value: int) -> int:
        raise PlainError

    for _ in range(n):
        try:
            [2, 1].sort(key=key)
        except PlainError:
            pass


#: Each with the frames that an exception passes.
CASES: dict[str, tuple[Callable[[int], None], int]] = {
    "raise and except": (raise_and_catch, 1),
    "KeyError of a dict": (missing_keys, 1),
    "ValueError of int()": (value_errors, 1),
    f"raised {DEPTH} frames deep": (deep_stack, DEPTH),
    f"ValueError {DEPTH} frames deep": (deep_value_errors, DEPTH),
    "next() of an exhausted iterator": (exhausted_iterators, 1),
    "generator in a for loop": (generators, 0),
    "AttributeError caught in C": (caught_in_c, 1),
    "raised through C (sort)": (failing_sort, 2),
}


def compare_class(code: Any, offset: int, error: BaseException) -> None:
    if type(error) in _KINDS:
        error.__traceback__  # noqa: B018 - stands for what is done with JAX's errors


@contextmanager
def listening(event: str, callback: Callable[..., Any]) -> Iterator[None]:
    """Call a function at each of these events."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    number = getattr(monitoring.events, event)
    monitoring.use_tool_id(_TOOL, "benchmark")
    monitoring.register_callback(_TOOL, number, callback)
    monitoring.set_events(_TOOL, number)
    try:
        yield
    finally:
        monitoring.set_events(_TOOL, 0)
        monitoring.register_callback(_TOOL, number, None)
        monitoring.free_tool_id(_TOOL)


#: `"".format` is written in C and does nothing: what remains is the event.
ALTERNATIVES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "RAISE, nothing": partial(listening, "RAISE", "".format),
    "RAISE, class": partial(listening, "RAISE", compare_class),
    "HANDLED, nothing": partial(listening, "EXCEPTION_HANDLED", "".format),
    "HANDLED, class": partial(listening, "EXCEPTION_HANDLED", compare_class),
}


def agent() -> AbstractContextManager[Any]:
    return jitwatch.install(port=0, sample_interval_s=3600)


@contextmanager
def donating_agent() -> Iterator[None]:
    """The agent of a job that donates."""
    with agent():
        jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(jnp.ones(3)))
        yield


def seconds(case: Callable[[int], None], n: int) -> float:
    started = time.thread_time()
    case(n)
    return time.thread_time() - started


def calibrate(case: Callable[[int], None]) -> int:
    n = 100
    while (took := seconds(case, n)) < BLOCK_S / 2:
        n *= 2
    return max(1, round(n * BLOCK_S / took))


def measure(case: Callable[[int], None], variants: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of an exception, by variant."""
    n = calibrate(case)
    found: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in random.sample(list(variants), len(variants)):
            with variants[variant]():
                gc.collect()
                case(n // 4)
                found[variant].append(seconds(case, n) / n)
    return found


#: The case of the speed table.
TABLE_CASE = next(iter(CASES))


def figures(rounds: int) -> list[Figure]:
    """The row of the speed table: an exception of the job's own; none on Python 3.11, which reports no exceptions."""
    if sys.version_info < (3, 12):
        return []
    jax.block_until_ready(jnp.ones(3) + 1)
    variants: dict[str, Any] = {"bare": nullcontext, "control": nullcontext, "agent": agent}
    found = measure(CASES[TABLE_CASE][0], variants, rounds)
    agent_us, control_us = (
        Spread.of([one - bare for one, bare in zip(found[name], found["bare"], strict=True)], 1e6)
        for name in ("agent", "control")
    )
    how = f"`{TABLE_CASE}`; median of {rounds} paired, interleaved blocks by thread CPU time"
    return [Figure("an exception of the job, for each frame", "≤ + 0.1 µs", "µs", agent_us, control_us, how)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--figures", action="store_true", help="print the rows of the speed table as JSON")
    parser.add_argument("--alternatives", action="store_true", help="measure other ways to observe exceptions")
    given = parser.parse_args()
    if given.figures:
        print(dump(figures(given.rounds)))
        return
    if sys.version_info < (3, 12):
        print("Python 3.11 reports no exceptions: the agent adds nothing to them")
    jax.block_until_ready(jnp.ones(3) + 1)
    variants: dict[str, Any] = {"bare": nullcontext, "control": nullcontext}
    variants |= ALTERNATIVES if given.alternatives else {"agent": agent, "agent, donating": donating_agent}
    print(f"Python {sys.version.split()[0]}, JAX {jax.__version__}, {given.rounds} rounds; ns of an exception")
    print(f"{'case':34}{'bare':>8}" + "".join(f"{variant:>34}" for variant in variants if variant != "bare"))
    for name, (case, _) in CASES.items():
        found = measure(case, variants, given.rounds)
        line = f"{name:34}{1e9 * statistics.median(found['bare']):8.0f}"
        for variant, values in found.items():
            if variant != "bare":
                added = [1e9 * (one - bare) for one, bare in zip(values, found["bare"], strict=True)]
                low, middle, high = statistics.quantiles(added, n=4)
                line += f"{f'{middle:+.0f} ({low:+.0f} to {high:+.0f})':>34}"
        print(line)


if __name__ == "__main__":
    main()
