"""Every branch on the version of JAX or Python in the hooks, in one table, so that it can go when its time has come.

`docs/support.md` shows the table; a test compares both, and looks that each place still exists.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branch:
    """Code that only some versions need.

    Attributes:
        place: Module below `jitwatch.jaxhooks` and name in it, as `compat.INFER_0_9_0`.
        versions: Where it is needed.
        why: What is different there.
        source: The file of JAX or the page that shows it.
        until: When it can go.
    """

    place: str
    versions: str
    why: str
    source: str
    until: str


_OLDEST = "the oldest supported JAX is {}"

BRANCHES: tuple[Branch, ...] = (
    Branch(
        "compat.INFER_0_9_0",
        "JAX 0.9.0",
        "`_infer_params` does not exist; `_trace_for_jit` has its four arguments",
        "jax/_src/pjit.py",
        _OLDEST.format("0.9.1"),
    ),
    Branch(
        "compat.PMAP",
        "JAX ≤ 0.9",
        "`pmap` compiles by a path of its own; from 0.10 on it is a `jit` of `shard_map`",
        "jax/_src/interpreters/pxla.py",
        _OLDEST.format("0.10"),
    ),
    Branch(
        "donation.donors.watched_pmap",
        "JAX ≤ 0.7",
        "what `pmap` makes is no jitted function",
        "jax/_src/api.py",
        _OLDEST.format("0.8"),
    ),
    Branch(
        "compat.JIT_IMPLEMENTATION_0_7",
        "JAX ≤ 0.7",
        "the primitive of a jitted call is `pjit_p`; from 0.8 on `jit_p`",
        "jax/_src/pjit.py",
        _OLDEST.format("0.8"),
    ),
    Branch(
        "compat.key_class",
        "JAX ≤ 0.9",
        "`PRNGKeyArray` is in `jax._src.prng`; from 0.10 on in `jax._src.random.prng`",
        "jax/_src/prng.py",
        _OLDEST.format("0.10"),
    ),
    Branch(
        "compat.Hook.get",
        "JAX ≤ 0.6",
        "`ArrayImpl.addressable_shards` is a cached property",
        "jax/_src/array.py",
        _OLDEST.format("0.7"),
    ),
    Branch(
        "compile.monitoring._unregister",
        "JAX ≤ 0.8.0",
        "the public functions that take a listener away do not exist",
        "jax/_src/monitoring.py",
        _OLDEST.format("0.8.1"),
    ),
    Branch(
        "values.trace_context.TraceContext",
        "JAX ≤ 0.9",
        "`trace_context_names` does not exist: the states are read by their names",
        "jax/_src/config.py",
        _OLDEST.format("0.10"),
    ),
    Branch(
        "compile.phases.PhaseClock",
        "JAX ≤ 0.9",
        "a jitted function that another one calls sends a trace event of its own",
        "jax/_src/pjit.py",
        _OLDEST.format("0.10"),
    ),
    Branch(
        "values.signatures._PMAP_ARGUMENTS",
        "JAX ≥ 0.10",
        "the arguments of `pmap` have names, `flat_args[0]`",
        "jax/_src/pmap.py",
        "JAX names them otherwise",
    ),
    Branch(
        "memory.oom.says_out_of_memory",
        "JAX ≤ 0.9.0",
        "errors of XLA have no `error_code_string`, so that their text is read; in 0.6 it says INTERNAL",
        "jaxlib",
        _OLDEST.format("0.9.1"),
    ),
    Branch(
        "donation.arrays.Arrays.mark",
        "JAX ≤ 0.10",
        "the C++ fast path meets a donated array without running Python: ValueError, or a hang or segmentation fault "
        "on several devices",
        "https://docs.jax.dev/en/latest/changelog.html",
        _OLDEST.format("0.11"),
    ),
    Branch(
        "donation.guards.install",
        "JAX ≤ 0.10",
        "a marked array follows a null pointer in `is_ready`, `platform`, `clone` and `_pjrt_layout`",
        "jaxlib",
        _OLDEST.format("0.11"),
    ),
    Branch(
        "donation.arrays.Arrays.install",
        "JAX ≥ 0.11",
        "donation and `delete()` leave the same behind, so that `delete()` leaves a number",
        "jax/_src/array.py",
        "JAX tells them apart",
    ),
    Branch(
        "donation.donors.donated_positions",
        "JAX ≤ 0.8",
        "numbers of donated arguments leave out static ones",
        "jax/_src/api_util.py",
        _OLDEST.format("0.9"),
    ),
    Branch(
        "exceptions.watch_raises",
        "Python 3.11",
        "`sys.monitoring` does not exist: only errors that nobody catches are seen, by `sys.excepthook`",
        "https://docs.python.org/3/library/sys.monitoring.html",
        "the oldest supported Python is 3.12",
    ),
    Branch(
        "donation.raising._variables",
        "Python 3.12",
        "reading `f_locals` of a function keeps a copy of its variables",
        "https://peps.python.org/pep-0667/",
        "the oldest supported Python is 3.13",
    ),
)


def table() -> str:
    """The table in Markdown."""
    rows = [
        "| where | versions | why | source | can go when |",
        "|---|---|---|---|---|",
        *(f"| `{one.place}` | {one.versions} | {one.why} | {one.source} | {one.until} |" for one in BRANCHES),
    ]
    return "\n".join(rows) + "\n"
