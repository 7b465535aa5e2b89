"""The arguments of `equinox.filter_jit` under the user's names.

Equinox (0.11 to 0.13) jits one function of three arguments for all of a name: the arrays that may be donated,
the others, and as a static argument everything that is no array, with the structures. Here what was
packed is told by the user's own parameters: `model.layers[0].weight`, not `dynamic_nodonate['first'][0]`.
Where equinox packs otherwise, the names stay those of JAX.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from jitwatch.jaxhooks import structure
from jitwatch.jaxhooks.arguments import nodes_below, usable
from jitwatch.jaxhooks.identity import code_of
from jitwatch.jaxhooks.values import Numbers, describe

if TYPE_CHECKING:
    from jitwatch.jaxhooks.signatures import Traced

_PACKED = re.compile(r"dynamic_(?:no)?donate\['(fun|first|rest)'\]\[(\d+)\]")
_MAX_LEAVES = 20_000
MAX_STATICS = 64
#: Name and structure of an argument.
_Root = tuple[str, Any]
#: What the arrays of a function that is a module itself are called.
_FUNCTION = "function"


def is_filter_jit(fun: Any) -> bool:
    """Whether it is what equinox passes to `jax.jit`."""
    code = fun.__code__ if isinstance(fun, types.FunctionType) else None
    return code is not None and code.co_name == "fun_wrapped" and fun.__module__ == "equinox._jit"


def unpacked(traced: Traced, args: tuple[Any, ...], layers: Sequence[Any], numbers: Numbers) -> Traced:
    """The trace with the user's names, or as it was.

    Args:
        traced: By JAX's names.
        args: The three arguments; only the static one is looked at.
        layers: The user's function under its wrappers, the outermost first.
        numbers: For classes and for objects.
    """
    try:
        return _unpacked(traced, args[2], layers, numbers)
    except Exception:
        # Another version of equinox; nothing is wrong with the job.
        return traced


def users_names(static: Any, layers: Sequence[Any], paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths by the names of the user's function, and the names of its positional arguments.

    Args:
        static: The static one of the three arguments.
        layers: The user's function under its wrappers, the outermost first.
        paths: By JAX's names.
    """
    (_, fun_tree), (_, first_tree), (_, rest_tree) = static
    packed, names = _packed(layers, fun_tree, first_tree, rest_tree)[:2]
    return [_renamed(path, packed) for path in paths], names


def _packed(
    layers: Sequence[Any], fun_tree: Any, first_tree: Any, rest_tree: Any
) -> tuple[dict[str, list[str]], list[str], list[_Root], list[_Root], list[str]]:
    """Paths of the leaves by part, names of the positional arguments, structures of both parts, keywords."""
    positional, keywords = rest_tree.children()
    # Equinox adds a None to the positional arguments, of which the first is apart.
    others = positional.children()[:-1]
    names = names_of_arguments(layers, len(positional.children()))
    keys = list(keywords.node_data()[1])
    first = [(names[0], first_tree)] if names else []
    rest = [*zip(names[1:], others, strict=True), *zip(keys, keywords.children(), strict=True)]
    packed = {"fun": leaves_of([(_FUNCTION, fun_tree)]), "first": leaves_of(first), "rest": leaves_of(rest)}
    return packed, names, first, rest, keys


def _unpacked(traced: Traced, static: Any, layers: Sequence[Any], numbers: Numbers) -> Traced:
    (fun_values, fun_tree), (first_values, first_tree), (rest_values, rest_tree) = static
    packed, _, first, rest, keys = _packed(layers, fun_tree, first_tree, rest_tree)
    values = [
        (path, value)
        for part, held in (("fun", fun_values), ("first", first_values), ("rest", rest_values))
        for path, value in zip(packed[part], held, strict=True)
        if value is not None
    ]
    return replace(
        traced,
        paths=usable([_renamed(path, packed) for path in traced.paths], len(traced.paths)),
        tree=tuple(nodes_below(numbered([*first, *rest]), packed["first"] + packed["rest"], numbers)),
        tree_token=hash((first_tree, rest_tree)),
        keywords=tuple(sorted(keys)),
        statics=tuple((path, describe(value, numbers)) for path, value in values[:MAX_STATICS]),
        n_static_parameters=0,
    )


def leaves_of(roots: list[_Root]) -> list[str]:
    """The paths of all leaves of some structures, in order."""
    found = (path for name, tree in roots for path in structure.leaf_paths(tree, name))
    return list(islice(found, _MAX_LEAVES))


def numbered(roots: list[_Root]) -> Iterator[tuple[Any, str, int]]:
    """The structures that are no single leaf, each with the number of its first leaf."""
    first = 0
    for name, tree in roots:
        if not structure.is_leaf(tree):
            yield tree, name, first
        first += tree.num_leaves


def _renamed(path: str, packed: dict[str, list[str]]) -> str:
    found = _PACKED.fullmatch(path)
    return packed[found[1]][int(found[2])] if found is not None else path


def names_of_arguments(layers: Sequence[Any], count: int) -> list[str]:
    """Names of the positional arguments that are left to the caller."""
    code = None if any(is_filter_jit(layer) for layer in layers) else code_of(layers[-1])
    if code is None:
        return [f"args[{i}]" for i in range(count)]
    taken = sum(_taken_by(layer) for layer in layers)
    names = list(code.co_varnames[taken : code.co_argcount])
    rest = "args"
    if code.co_flags & inspect.CO_VARARGS:
        rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
    return (names + [f"{rest}[{i}]" for i in range(count)])[:count]


def _taken_by(layer: Any) -> int:
    """How many positional arguments a bound method or a partial gives by itself."""
    if isinstance(layer, types.MethodType):
        return 1
    return len(layer.args) if isinstance(layer, functools.partial) else 0
