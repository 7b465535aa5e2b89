"""Identifies a jitted function, and describes one change between two of its compiles."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from jitwatch.model.cleaning import clean_fields
from jitwatch.model.taxonomy import JAX_LABEL, Cause


@dataclass(frozen=True, slots=True)
class Function:
    """Identity of a jitted function: one unwrapped code object of the user.

    Attributes:
        label: `module.qualname`, the value of the metric label `function`; `__jax__` for functions of JAX itself. A
            double quote becomes a single one: Grafana does not escape it in a query.
        name: The bare name; for functions of JAX itself the name of the operation (`convert_element_type`).
        location: `file:line` of its definition, or None when it has no source (C functions).
        is_library: Whether an installed library defines it.
    """

    label: str
    name: str
    location: str | None = None
    is_library: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        clean_fields(self, "label", "name", "location")
        if '"' in self.label:
            object.__setattr__(self, "label", self.label.replace('"', "'"))

    @property
    def is_internal(self) -> bool:
        """Whether it is a function of JAX itself."""
        return self.label == JAX_LABEL


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between a compile and the nearest earlier compile of the same function.

    Attributes:
        path: What changed, such as `batch['tokens']`, `config.hidden_dim` or `jax_enable_x64`.
        kind: The cause that it is.
        before, after: Short text, made without running code of the user; never contents of arrays.
    """

    path: str
    kind: Cause
    before: str
    after: str

    def __post_init__(self) -> None:
        clean_fields(self, "path", "before", "after")

    def payload(self) -> dict[str, str]:
        """The change in a record."""
        return {"path": self.path, "kind": self.kind, "before": self.before, "after": self.after}


def argument_of(path: str) -> str:
    """The argument that a path begins with: `batch` of `batch['tokens']`."""
    return re.split(r"[.\[]", path, maxsplit=1)[0] or path
