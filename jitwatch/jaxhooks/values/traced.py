"""The half of a signature that a trace gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jitwatch.jaxhooks.values.trace_context import Context
from jitwatch.model.signature import Node, Origin, Value

NamedValues = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """What a trace gives for a signature: the arguments of the program, before their placement is decided."""

    paths: tuple[str, ...]
    avals: tuple[Any, ...]
    origin: Origin = "call"
    variant: str = ""
    code: int = 0
    function: int = 0
    options: tuple[tuple[str, int], ...] = ()
    option_ids: tuple[int, ...] = ()
    #: Avals of the results, for programs that may differ in nothing else.
    results: tuple[Any, ...] = ()
    tree: tuple[tuple[str, Node], ...] = ()
    tree_token: int = 0
    keywords: tuple[str, ...] = ()
    statics: NamedValues = ()
    passed: tuple[tuple[str, str], ...] = ()
    captured: NamedValues = ()
    n_static_parameters: int = 0
    operation: str = ""
    #: JAX's configuration where it differs from what JAX has set while it compiles.
    context: Context = ()
