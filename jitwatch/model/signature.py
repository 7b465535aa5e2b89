"""Signatures: what a program was compiled for, as plain data without objects of JAX or of the user.

`jaxhooks.values.signatures` makes signatures, the diagnosis compares them. Leaves are stored in columns, so that two
states of a thousand leaves are compared by a few tuple comparisons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

#: What triggered a compile: a call, ahead-of-time compilation, a transformation (grad, vmap), or an operation outside
#: of jit that got the function as its body (`jax.lax.map`).
Origin = Literal["call", "aot", "derived", "eager"]

#: Prefix of the path of a change in the body of an operation outside of jit; the operation follows.
BODY_OF = "body of "
_ARRAY = re.compile(r"(another )?\w+\[[\d,]*\]")
#: How objects of a class are compared: by content, by identity, or by the class's own `__eq__`.
Hashing = Literal["plain", "identity", "custom"]


@dataclass(frozen=True, slots=True)
class Value:
    """A Python value: a short text, and tokens that distinguish it from others with the same text.

    Attributes:
        type: Name of its class.
        text: Short text, made without running code of the user.
        fields: Path below the value and text of each part (`.hidden_dim`, `128`).
        token: Distinguishes values whose parts have equal texts: a hash of plain values, else the object's number.
        hashing: `plain` values compare by content; `identity` values by identity, which is Python's default for
            classes; `custom` values by the `__eq__` of their class.
        field_tokens: The token of each part, in the order of `fields`; empty where they are unknown.
    """

    type: str
    text: str
    fields: tuple[tuple[str, str], ...] = ()
    token: int = 0
    hashing: Hashing = "plain"
    field_tokens: tuple[int, ...] = ()

    @property
    def holds_arrays(self) -> bool:
        """Whether it compares by identity and holds arrays: a jit cache keeps these alive with a static argument."""
        return self.hashing == "identity" and any(_ARRAY.match(text) for _, text in self.fields)


@dataclass(frozen=True, slots=True)
class Node:
    """A node in the tree of arguments: a container, a custom node or a None.

    Attributes:
        kind: Bare name of its class.
        count: Number of children; these are compared themselves.
        number: Distinguishes classes of the same name.
        order: The keys of a dictionary whose order matters.
        aux: The node's static data; None without any.
    """

    kind: str
    count: int = field(default=0, compare=False)
    number: int = 0
    order: tuple[str, ...] = ()
    aux: Value | None = None

    @property
    def text(self) -> str:
        """The node as it is shown: `dict`, `tuple of 3`."""
        return f"{self.kind} of {self.count}" if self.kind in ("list", "tuple") else self.kind


@dataclass(frozen=True, slots=True)
class Placement:
    """The sharding, devices and layout of an argument.

    Attributes:
        sharding: JAX's sharding as a short text; empty for an uncommitted array.
        devices: The devices as a short text (`cpu:0`).
        layout: The layout on the device; empty for the default.
    """

    sharding: str = ""
    devices: str = ""
    layout: str = ""

    @property
    def is_committed(self) -> bool:
        """Whether the array is committed to its devices, so that JAX does not move it."""
        return bool(self.sharding)


@dataclass(frozen=True, slots=True)
class Constant:
    """An array that is a constant of a program."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything that a compile depends on.

    Attributes:
        origin: What triggered the compile.
        variant: How libraries wrapped the function; two variants never share a program.
        code: Number of the user's code object; running a notebook cell again makes a new one.
        function: Number of the function object that was jitted; each `jax.jit(lambda …)` makes a new one.
        options: Names and numbers of the options of `jax.jit` (donation, shardings, static arguments).
        line: `file:line` where the function is defined.
        paths: Path of every array leaf, such as `state.params['w']`, in JAX's order.
        shapes, dtypes, weak_types, placements: A value for every leaf.
        tree: Path and node of containers, custom nodes and Nones.
        keywords: Names of the arguments that were passed by keyword.
        tree_token: Hash of the whole structure; 0 where it is not available.
        statics: The static arguments by name, those with their default value included.
        passed: How each static argument was passed: `by position`, `by keyword` or `by default`.
        captured: Variables of the closure and arguments of a partial, by name.
        context: JAX's configuration and contexts that programs depend on, by JAX's name.
        constants: The large arrays that are constants of the program.
        n_static_parameters: Number of parameters that are declared static.
        operations: Number of operations of the program, inner functions included.
        repeated: The inner jitted function with most occurrences in the program, and their number.
        operation: The operation of JAX that the function is the body of (`jax.lax.map`) or was made by; else empty.
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
        """Estimated memory of the signature; values that several signatures share are counted in each."""
        values = [value for _, value in (*self.statics, *self.captured)]
        values += [node.aux for _, node in self.tree if node.aux is not None]
        parts = sum(120 + len(path) + len(text) for value in values for path, text in value.fields)
        return 400 + 100 * len(self.paths) + 150 * len(self.tree) + 250 * len(values) + parts
