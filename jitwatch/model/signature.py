"""What a program was compiled for, as plain data: no JAX object, no object of the user.

JAX's side (`jaxhooks.values.signatures`) makes signatures, the diagnosis compares them. Leaves are kept in
columns, so that two states of a thousand leaves are compared by a few tuple comparisons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

#: How a compile came about: by a call, ahead of time, for a program that JAX derived (grad, vmap), or as the body of an
#: operation outside of jit (`jax.lax.map`).
Origin = Literal["call", "aot", "derived", "eager"]

#: Path of the change of a function that an operation outside of jit gets as its body, without the operation.
BODY_OF = "body of "
_ARRAY = re.compile(r"(another )?\w+\[[\d,]*\]")
#: How a class compares its objects: by content, by being the same object, or by code of its own.
Hashing = Literal["plain", "identity", "custom"]


@dataclass(frozen=True, slots=True)
class Value:
    """A Python value as it may be shown: short text, and what tells two of them apart.

    Attributes:
        type: Name of its class.
        text: Short, made without running code of the user.
        fields: Path below the value and text of each part (`.hidden_dim`, `128`).
        token: Tells values apart whose parts look the same: a hash of plain ones, else the object's number.
        hashing: `plain` values compare by content; `identity` by being the same object, which is Python's
            default for classes; `custom` by code of their class.
        field_tokens: What tells each part from others, in the order of `fields`; empty where it is not known.
    """

    type: str
    text: str
    fields: tuple[tuple[str, str], ...] = ()
    token: int = 0
    hashing: Hashing = "plain"
    field_tokens: tuple[int, ...] = ()

    @property
    def holds_arrays(self) -> bool:
        """Whether it is an object that equals only itself and holds arrays: as a static argument, it keeps them."""
        return self.hashing == "identity" and any(_ARRAY.match(text) for _, text in self.fields)


@dataclass(frozen=True, slots=True)
class Node:
    """A container among the arguments, a custom node or a None.

    Attributes:
        kind: Bare name of its class.
        count: How many children it has; they are compared themselves.
        number: Tells classes of the same name apart.
        order: The keys of a dictionary whose order matters.
        aux: What the node holds besides its children, where it does.
    """

    kind: str
    count: int = field(default=0, compare=False)
    number: int = 0
    order: tuple[str, ...] = ()
    aux: Value | None = None

    @property
    def text(self) -> str:
        """As a person would say it."""
        return f"{self.kind} of {self.count}" if self.kind in ("list", "tuple") else self.kind


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an argument lies.

    Attributes:
        sharding: JAX's sharding in short, or empty for an array that is not committed to a place.
        devices: The devices in short (`cpu:0`).
        layout: Its layout on the device where that is not the default, else empty.
    """

    sharding: str = ""
    devices: str = ""
    layout: str = ""

    @property
    def is_committed(self) -> bool:
        """Whether JAX must leave the array where it is."""
        return bool(self.sharding)


@dataclass(frozen=True, slots=True)
class Constant:
    """An array that is baked into a program."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything that a compile depends on.

    Attributes:
        origin: How the compile came about.
        variant: How libraries wrapped the function; two variants never share a program.
        code: Number of the user's code object; a notebook cell that is run again makes a new one.
        function: Number of the function object that was jitted; each `jax.jit(lambda …)` makes a new one.
        options: Names and numbers of the options it was jitted with (donation, shardings, static arguments).
        line: `file:line` where the function is defined.
        paths: Name of every array leaf, as `state.params['w']`, in JAX's order.
        shapes, dtypes, weak_types, placements: A value for every leaf.
        tree: Path and description of containers, custom nodes and Nones.
        keywords: Names of the arguments that were passed by keyword.
        tree_token: Hash of the whole structure, 0 where it cannot be had.
        statics: The static arguments by name, those that were left to their default too.
        passed: How each of them was passed, `by position`, `by keyword` or `by default`.
        captured: Variables of the closure and arguments of a partial, by name.
        context: JAX's configuration and contexts that programs depend on, by JAX's name.
        constants: The large arrays baked into the program.
        n_static_parameters: How many parameters are declared static.
        operations: How many operations the program has, inner functions included.
        repeated: The inner jitted function that is in it most often, and how often.
        operation: What the function is a body of (`jax.lax.map`), or made by, where that is an operation of JAX.
    """

    origin: Origin = "call"
    variant: str = ""
    code: int = 0
    function: int = 0
    options: tuple[tuple[str, int], ...] = ()
    paths: tuple[str, ...] = ()
    shapes: tuple[tuple[int | str, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    weak_types: tuple[bool, ...] = ()
    placements: tuple[Placement, ...] = ()
    tree: tuple[tuple[str, Node], ...] = ()
    keywords: tuple[str, ...] = ()
    tree_token: int = 0
    statics: tuple[tuple[str, Value], ...] = ()
    passed: tuple[tuple[str, str], ...] = ()
    captured: tuple[tuple[str, Value], ...] = ()
    context: tuple[tuple[str, str], ...] = ()
    constants: tuple[Constant, ...] = ()
    n_static_parameters: int = 0
    operation: str = ""
    operations: int = 0
    repeated: tuple[str, int] = ("", 0)

    @property
    def bytes(self) -> int:
        """About how much memory it takes; values that several signatures share are counted in each."""
        values = [value for _, value in (*self.statics, *self.captured)]
        values += [node.aux for _, node in self.tree if node.aux is not None]
        parts = sum(120 + len(path) + len(text) for value in values for path, text in value.fields)
        return 400 + 100 * len(self.paths) + 150 * len(self.tree) + 250 * len(values) + parts
