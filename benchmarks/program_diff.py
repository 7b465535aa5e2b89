"""Seconds and memory for the outline of a program and for the difference between two: of 300 layers, and of 100 MB."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def layers(number: int, rate: float) -> tuple[str, float]:
    """The text of a gradient step of this many layers, and the seconds for its trace and lowering."""
    import jax
    import jax.numpy as jnp

    def loss(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        for weight in weights:
            x = jax.nn.relu(x @ weight) + jnp.sin(x) * 0.5
        return (x**2).sum() * rate

    weights = [jnp.ones((64, 64)) for _ in range(number)]
    started = time.perf_counter()
    module = jax.jit(jax.grad(loss)).lower(weights, jnp.ones((8, 64))).compiler_ir("stablehlo")
    spent = time.perf_counter() - started
    return module.operation.get_asm(enable_debug_info=True), spent


def repeated(text: str, megabytes: float) -> str:
    """A program of this size: the text's functions, again and again."""
    start, end = text.index("  func.func"), text.rindex("\n}")
    body = text[start:end]
    number = max(1, round(megabytes * 1e6 / len(body)))
    return f"{text[:start]}{body * number}{text[end:]}"


def constants(megabytes: float) -> str:
    """A program with one constant of this size."""
    head = "module @jit_f {\n  func.func public @main(%arg0: tensor<f32>) -> tensor<f32> {\n"
    return f'{head}    %cst = stablehlo.constant dense<"0x{"A5" * round(megabytes * 5e5)}"> : tensor<9xf32>\n  }}\n}}\n'


def memory(name: str) -> int:
    """A line of the process's status in kB: memory now, or the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(kind: str, repeat: int, megabytes: float) -> dict[str, float]:
    """The figures of one kind of program, in a process of its own."""
    from jitwatch.programs import compare_texts, outline_of

    lowering_s = 0.0
    if kind == "constant":
        texts = [constants(megabytes), constants(megabytes).replace("A5A5A5", "A5A5A6", 1)]
    else:
        texts = [layers(300, rate)[0] for rate in (0.001, 0.002)]
        lowering_s = statistics.median(layers(300, 0.001)[1] for _ in range(repeat))
        if kind == "large":
            texts = [repeated(text, megabytes) for text in texts]
    size = len(texts[0])
    # Equal programs have different texts: another file name.
    copy = texts[0] + '#loc = loc("/elsewhere.py":1:1)\n'
    # Making the texts took more memory than they have: count from here.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    spent: dict[str, list[float]] = {"outline": [], "equal": [], "different": []}
    for _ in range(repeat):
        for name, call in (
            ("outline", lambda: outline_of(texts[0])),
            ("equal", lambda: compare_texts(texts[0], copy)),
            ("different", lambda: compare_texts(texts[0], texts[1])),
        ):
            started = time.process_time()
            call()
            spent[name].append(time.process_time() - started)
    most = memory("VmHWM")
    outline = outline_of(texts[0])
    return {
        "mb": size / 1e6,
        "operations": outline.total,
        "lowering_s": lowering_s,
        "row_kb": len(json.dumps(outline.row())) / 1e3,
        "more_mib": (most - before) / 1024,
        **{f"{name}_s": statistics.median(values) for name, values in spent.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kind", choices=("layers", "large", "constant"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measure(options.kind, options.repeat, options.megabytes)))
        return
    for kind in ("layers", "large", "constant"):
        command = [sys.executable, __file__, "--kind", kind, "--repeat", str(options.repeat)]
        command += ["--megabytes", str(options.megabytes)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(f"{kind}: {found['mb']:.1f} MB, {found['operations']:,.0f} operations")
        print(f"  outline {found['outline_s']:.2f} s, its row {found['row_kb']:.1f} kB")
        print(f"  difference {found['equal_s']:.2f} s if they are equal, {found['different_s']:.2f} s if not")
        print(f"  {found['more_mib']:.0f} MiB more than the texts")
        if found["lowering_s"]:
            print(f"  trace and lowering of 300 layers {found['lowering_s']:.2f} s")


if __name__ == "__main__":
    main()
