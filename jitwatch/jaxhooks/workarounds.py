"""The table of code that depends on the version of JAX or Python, with the condition for removing it.

`docs/hooks.md` shows the table; a test compares both, and checks that each place exists.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workaround:
    """Code that only some versions need.

    Attributes:
        place: Module below `jitwatch.jaxhooks` and name in it, such as `compat.INFER_0_9_0`.
        versions: The versions that need it.
        why: What is different in these versions.
        source: The file of JAX, or the page, that shows it.
        until: When it can be removed.
    """

    place: str
    versions: str
    why: str
    source: str
    until: str


_OLDEST = "the oldest supported JAX is {}"

WORKAROUNDS: tuple[Workaround, ...] = (
    Workaround(
        "compat.INFER_0_9_0",
        "JAX 0.9.0",
        "`_infer_params` does not exist; `_trace_for_jit` has its four arguments",
        "jax/_src/pjit.py",
        _OLDEST.format("0.9.1"),
    ),
    Workaround(
        "compat.has_pmap_path",
        "JAX ≤ 0.9",
        "`pmap` compiles by a path of its own; from 0.10 on it is a `jit` of `shard_map`",
        "jax/_src/interpreters/pxla.py",
        _OLDEST.format("0.10"),
    ),
    Workaround(
        "donation.watched.watched_pmap",
        "JAX ≤ 0.7",
        "what `pmap` makes is no jitted function",
        "jax/_src/api.py",
        _OLDEST.format("0.8"),
    ),
    Workaround(
        "compat.JIT_IMPLEMENTATION_0_7",
        "JAX ≤ 0.7",
        "the primitive of a jitted call is `pjit_p`; from 0.8 on `jit_p`",
        "jax/_src/pjit.py",
        _OLDEST.format("0.8"),
    ),
    Workaround(
        "compat.key_class",
        "JAX ≤ 0.9",
        "`PRNGKeyArray` is in `jax._src.prng`; from 0.10 on in `jax._src.random.prng`",
        "jax/_src/prng.py",
        _OLDEST.format("0.10"),
    ),
    Workaround(
        "compat.Hook.get",
        "JAX ≤ 0.6",
        "`ArrayImpl.addressable_shards` is a cached property",
        "jax/_src/array.py",
        _OLDEST.format("0.7"),
    ),
    Workaround(
        "compile.monitoring._unregister",
        "JAX ≤ 0.8.0",
        "the public functions that remove a listener do not exist",
        "jax/_src/monitoring.py",
        _OLDEST.format("0.8.1"),
    ),
    Workaround(
        "values.trace_context.TraceContext",
        "JAX ≤ 0.9",
        "`trace_context_names` does not exist: the states are read by their names",
        "jax/_src/config.py",
        _OLDEST.format("0.10"),
    ),
    Workaround(
        "compile.phases.PhaseClock",
        "JAX ≤ 0.9",
        "a jitted function that another one calls sends a trace event of its own",
        "jax/_src/pjit.py",
        _OLDEST.format("0.10"),
    ),
    Workaround(
        "values.signatures._PMAP_ARGUMENTS",
        "JAX ≥ 0.10",
        "the arguments of `pmap` have names, `flat_args[0]`",
        "jax/_src/pmap.py",
        "JAX names them differently",
    ),
    Workaround(
        "memory.oom.says_out_of_memory",
        "JAX ≤ 0.9.0",
        "errors of XLA have no `error_code_string`, so that their text is read; in 0.6 it says INTERNAL",
        "jaxlib",
        _OLDEST.format("0.9.1"),
    ),
    Workaround(
        "donation.arrays.Arrays.mark",
        "JAX ≤ 0.10",
        "the C++ fast path meets a donated array without running Python: ValueError, or a hang or segmentation fault "
        "on several devices",
        "https://docs.jax.dev/en/latest/changelog.html",
        _OLDEST.format("0.11"),
    ),
    Workaround(
        "donation.arrays.install_guards",
        "JAX ≤ 0.10",
        "a marked array follows a null pointer in `is_ready`, `platform`, `clone` and `_pjrt_layout`",
        "jaxlib",
        _OLDEST.format("0.11"),
    ),
    Workaround(
        "donation.arrays.Arrays.install",
        "JAX ≥ 0.11",
        "donation and `delete()` leave the same state, so that `delete()` stores a tag",
        "jax/_src/array.py",
        "JAX distinguishes them",
    ),
    Workaround(
        "donation.watched.donated_positions",
        "JAX ≤ 0.8",
        "numbers of donated arguments leave out static ones",
        "jax/_src/api_util.py",
        _OLDEST.format("0.9"),
    ),
    Workaround(
        "exceptions.watch_raises",
        "Python 3.11",
        "`sys.monitoring` does not exist: only uncaught errors are seen, by `sys.excepthook`",
        "https://docs.python.org/3/library/sys.monitoring.html",
        "the oldest supported Python is 3.12",
    ),
    Workaround(
        "donation.native_errors._variables",
        "Python 3.12",
        "reading `f_locals` of a function keeps a copy of its variables",
        "https://peps.python.org/pep-0667/",
        "the oldest supported Python is 3.13",
    ),
)


def table() -> str:
    """Return the table in Markdown."""
    rows = [
        "| where | versions | why | source | can go when |",
        "|---|---|---|---|---|",
        *(f"| `{one.place}` | {one.versions} | {one.why} | {one.source} | {one.until} |" for one in WORKAROUNDS),
    ]
    return "\n".join(rows) + "\n"
