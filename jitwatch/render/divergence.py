"""Sentences about the first difference between the programs of the processes of a job, and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jitwatch.diagnosis.divergence import Divergence
from jitwatch.render import formats

_ADVICE: Final = (
    "Look for a constant, a shape, a static argument or a branch that depends on the process: jax.process_index(), the "
    "host name, the time, a random seed, local data, or the order of a set (PYTHONHASHSEED)"
)
_ADVICE_FILES: Final = (
    "With the option hlo_dir, `jitwatch diff` on the two programs shows the first operation that differs"
)
_ADVICE_EXTRA: Final = (
    "If all devices run this program, every process has to call the function: look for a branch that depends on "
    "jax.process_index() or on local data. It is harmless if a process only compiles the program ahead of time"
)
_ADVICE_COMPILER: Final = (
    "Start every process with the same XLA_FLAGS, JAX and jaxlib. If XLA's autotuning has to give the same result on "
    "every host, set jax_share_binary_between_hosts"
)
_FIELDS: Final[Mapping[str, str]] = {
    "xla_flags": "XLA flags",
    "jaxlib": "versions of jaxlib",
    "platform_version": "versions of the backend",
    "device_kind": "kinds of devices",
}


def message(found: Divergence) -> str:
    """The difference in a sentence: function, number of the compile, and processes."""
    (first, some), *others = found.groups
    where = f" ({first.call_site})" if first is not None and first.call_site else ""
    if found.kind == "extra":
        verb = "has" if len(some) == 1 else "have"
        return f"Only {processes(some)} {verb} compiled {found.function}{where}, for the devices of all processes"
    what = f"compile {found.nth} of {found.function}{where}"
    rest = [process for one, group in others if one is not None for process in group]
    verb = "compiled" if len(others) == 1 else "each compiled"
    return f"{_capitalized(processes(rest))} {verb} a different program than {processes(some)}: {what}"


def advice(kind: str, *, has_files: bool = False) -> str:
    """What to look for.

    Args:
        kind: Kind of the divergence; `compiler` for flags and versions.
        has_files: Whether the difference of the programs is known.
    """
    if kind == "compiler":
        return formats.sentences(_ADVICE_COMPILER)
    if kind == "extra":
        return formats.sentences(_ADVICE_EXTRA)
    return formats.sentences(_ADVICE, None if has_files else _ADVICE_FILES)


def of_compiler(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The differences of flags and versions in a sentence, or None: `XLA flags differ: --xla_a=1 only in process 1`."""
    parts = []
    for row in rows:
        values = [f"{_value(one['value'])} in {processes(one['processes'])}" for one in row["values"]]
        parts.append(f"the {_FIELDS.get(row['field'], row['field'])} differ: {formats.listed(values, most=4)}")
    return _capitalized("; ".join(parts)) if parts else None


def processes(indices: Sequence[int]) -> str:
    """Processes by their indices: `process 1`, `processes 0, 2 and 3`, `processes 0 to 6`."""
    some = sorted(indices)
    if len(some) == 1:
        return f"process {some[0]}"
    if some == list(range(some[0], some[-1] + 1)) and len(some) > 2:
        return f"processes {some[0]} to {some[-1]}"
    return f"processes {formats.listed([str(one) for one in some], most=6)}"


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return str(value) or "none"


def _capitalized(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
