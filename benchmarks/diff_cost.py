"""Cost of finding the causes of a recompile, apart from the compile itself.

Signatures of states with many leaves are read from real functions, as the hooks do; then one leaf or all leaves change.
'Diff' compares two signatures and lists the changes. 'Whole' is the work of the diagnosis for one compile of a function
with 32 known signatures: find the nearest, compare, store. 'Read' is what the hooks add to tracing and lowering. The
budget of a diff is 5 ms at 1,000 leaves.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jitwatch
from jitwatch.diagnosis import diff
from jitwatch.diagnosis.causes import MAX_SIGNATURES, Causes
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.values.contents import Contents
from jitwatch.jaxhooks.values.signatures import SignatureReader
from jitwatch.model.events import Compiled
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature, Value
from jitwatch.probes.compile import CompileProbe

FUNCTION = Function("train.step", "step", "train.py:1")


def state_of(leaves: int, **changed: Any) -> dict[str, Any]:
    """Nested dicts with two leaves per layer."""
    layers = {f"layer_{number}": {"kernel": ONES, "bias": ONES} for number in range(leaves // 2)}
    return layers | changed


ONES = jnp.ones(2)
OTHER = jnp.ones(3, jnp.int32)


def signature_of(state: dict[str, Any]) -> Signature:
    """The signature that the agent reads from a real compile."""
    found: list[Signature] = []

    def compiled(
        self: CompileProbe, function: Any, seconds: Any, cache: Any, signature: Signature | None = None, **rest: Any
    ) -> None:
        if signature is not None:
            found.append(signature)

    original, CompileProbe.compiled = CompileProbe.compiled, compiled  # type: ignore[assignment,method-assign]
    try:
        with jitwatch.install(port=0):
            jax.jit(lambda state: 0)(state)
    finally:
        CompileProbe.compiled = original  # type: ignore[method-assign]
    (signature,) = found
    return replace(signature, function=1, code=1)


def median_ms(run: Callable[[], Any], rounds: int) -> str:
    """Median and quartiles of the calling thread's CPU time."""
    taken = []
    for _ in range(rounds):
        started = time.thread_time()
        run()
        taken.append((time.thread_time() - started) * 1e3)
    low, middle, high = statistics.quantiles(taken, n=4)
    return f"{middle:8.3f}  ({low:.3f} to {high:.3f})"


def compiled(signature: Signature) -> Compiled:
    return Compiled(function=FUNCTION, trace_s=0.0, lower_s=0.0, compile_s=0.0, signature=signature)


def whole(base: Signature, last: Signature) -> Callable[[], None]:
    """A compile of a function with the maximum number of known signatures, each of another size."""
    causes = Causes()
    for number in range(MAX_SIGNATURES):
        shapes = ((number + 10,), *base.shapes[1:])
        causes.add(compiled(replace(base, shapes=shapes)))
    number = MAX_SIGNATURES

    def run() -> None:
        nonlocal number
        number += 1
        shapes = ((number + 10,), *last.shapes[1:])
        causes.add(compiled(replace(last, shapes=shapes)))

    return run


def reading(state: dict[str, Any]) -> Callable[[], None]:
    """The readings of the hooks during tracing and lowering."""
    calls: list[tuple[Any, ...]] = []
    original = SignatureReader.traced

    def remember(self: SignatureReader, *args: Any) -> Any:
        if args[0] is target:
            calls.append(args)
        return original(self, *args)

    def target(state: dict[str, Any]) -> int:
        return 0

    SignatureReader.traced = remember  # type: ignore[method-assign]
    try:
        with jitwatch.install(port=0):
            jax.jit(target)(state)
    finally:
        SignatureReader.traced = original  # type: ignore[method-assign]
    reader = SignatureReader(Identities())
    shardings = [None] * len(jax.tree.leaves(state))

    def run() -> None:
        reader.lowered(reader.traced(*calls[0]), shardings, None, Contents())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="repetitions (default: 200)")
    parser.add_argument("--leaves", type=int, default=1_000, help="leaves of the state (default: 1000)")
    options = parser.parse_args()
    leaves, rounds = options.leaves, options.rounds
    base = signature_of(state_of(leaves))
    last_layer = f"layer_{leaves // 2 - 1}"
    cases = {
        "nothing": signature_of(state_of(leaves)),
        "one leaf": signature_of(state_of(leaves, **{last_layer: {"kernel": ONES, "bias": OTHER}})),
        "all leaves": signature_of(jax.tree.map(lambda _: OTHER, state_of(leaves))),
        "one key": signature_of(state_of(leaves, extra=ONES)),
        "one static": replace(base, statics=(("n", Value("int", "1", token=1)),)),
        "all keys": signature_of({f"other_{name}": layer for name, layer in state_of(leaves).items()}),
    }
    print(f"jax {jax.__version__}; {leaves:,} leaves; ms of CPU time, median (quartiles)\n")
    print(f"read at a trace and a lowering         {median_ms(reading(state_of(leaves)), rounds)}\n")
    for name, other in cases.items():
        count = len(diff.changes(base, other))
        print(f"diff,  {name:<12} {count:>5} changes {median_ms(partial(diff.changes, base, other), rounds)}")
        print(f"whole, {name:<12}               {median_ms(whole(base, other), rounds)}", flush=True)


if __name__ == "__main__":
    main()
