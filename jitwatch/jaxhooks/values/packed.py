"""Arguments that a library packs before it calls what it jitted, under the user's names.

`equinox.filter_jit` (0.11 to 0.13) and `haliax.named_jit` (1.4) jit one function of three arguments for all functions
of a name: the arrays that may be donated, the other arrays, and as a static argument all that is no array, with the
tree structures. Here the leaves get paths by the user's own parameters: `model.layers[0].weight` instead of
`dynamic_nodonate['first'][0]`. If a version packs otherwise, JAX's names are kept.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from jitwatch.jaxhooks.identity.unwrapping import code_of
from jitwatch.jaxhooks.values import structure
from jitwatch.jaxhooks.values.arguments import nodes_below, usable
from jitwatch.jaxhooks.values.description import Numbers, describe
from jitwatch.jaxhooks.values.traced import Traced

_OF_EQUINOX = re.compile(r"dynamic_(?:no)?donate\['(fun|first|rest)'\]\[(\d+)\]")
_OF_HALIAX = re.compile(
    r"dynamic_(?:donated|reserved)\[1\]\[(?:0\]\[(?P<position>\d+)|1\]\['(?P<keyword>\w+)')\](?P<rest>.*)"
)
_MAX_LEAVES = 20_000
_MAX_STATICS = 64
#: Number of arguments of the jitted functions; the static one is the last.
COUNT = 3
#: Name and structure of an argument.
_Root = tuple[str, Any]
#: Path of a function that is itself a module with arrays.
_FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class _Packed:
    """The packed arguments of one call.

    Attributes:
        names: Names of the positional arguments.
        keywords: Names of the keyword arguments.
        roots: Name and structure of each argument.
        leaves: Paths of the leaves of all roots, in order.
        statics: Path and value of each leaf that is no array.
        tree_token: Hash of the structures.
        renamed: Returns the user's path for one of JAX's.
    """

    names: list[str]
    keywords: list[str]
    roots: list[_Root]
    leaves: list[str]
    statics: list[tuple[str, Any]]
    tree_token: int
    renamed: Callable[[str], str]


def is_packed(fun: Any) -> bool:
    """Whether this is the function that one of the libraries passes to `jax.jit`."""
    code = fun.__code__ if isinstance(fun, types.FunctionType) else None
    return code is not None and code.co_name == "fun_wrapped" and fun.__module__ in _READERS


def unpacked(fun: Any, traced: Traced, static: Any, layers: Sequence[Any], numbers: Numbers) -> Traced:
    """Return the trace with the user's names, or unchanged if this version of the library packs otherwise.

    Args:
        fun: What was passed to `jax.jit`; `is_packed` holds for it.
        traced: The trace with JAX's names.
        static: The static one of the three arguments.
        layers: The user's function and its wrappers, the outermost first.
        numbers: Numbers classes and objects.
    """
    try:
        found = _READERS[fun.__module__](static, layers)
        return replace(
            traced,
            paths=usable([found.renamed(path) for path in traced.paths], len(traced.paths)),
            tree=tuple(nodes_below(_numbered(found.roots), found.leaves, numbers)),
            tree_token=found.tree_token,
            keywords=tuple(sorted(found.keywords)),
            statics=tuple((path, describe(value, numbers)) for path, value in found.statics[:_MAX_STATICS]),
            n_static_parameters=0,
        )
    except Exception:
        # Another version of the library, not an error of the job.
        return traced


def users_names(
    fun: Any, static: Any, layers: Sequence[Any], paths: Sequence[str]
) -> tuple[list[str], list[str]] | None:
    """Return the paths by the user's names, and the names of the user's positional arguments; None if packed otherwise.

    Args:
        fun: What was passed to `jax.jit`.
        static: The static one of the three arguments.
        layers: The user's function and its wrappers, the outermost first.
        paths: JAX's paths.
    """
    try:
        found = _READERS[fun.__module__](static, layers)
        return [found.renamed(path) for path in paths], found.names
    except Exception:
        return None


def _of_equinox(static: Any, layers: Sequence[Any]) -> _Packed:
    """Read what equinox packs: function, first argument and other arguments separately, each as its leaves in order."""
    (fun_values, fun_tree), (first_values, first_tree), (rest_values, rest_tree) = static
    positional, keywords = rest_tree.children()
    # Equinox adds a None to the positional arguments, of which the first is separate.
    others = positional.children()[:-1]
    names = _names(layers, len(positional.children()))
    keys = list(keywords.node_data()[1])
    first = [(names[0], first_tree)] if names else []
    rest = [*zip(names[1:], others, strict=True), *zip(keys, keywords.children(), strict=True)]
    parts = {"fun": _leaves([(_FUNCTION, fun_tree)]), "first": _leaves(first), "rest": _leaves(rest)}

    def renamed(path: str) -> str:
        found = _OF_EQUINOX.fullmatch(path)
        return parts[found[1]][int(found[2])] if found is not None else path

    return _Packed(
        names=names,
        keywords=keys,
        roots=[*first, *rest],
        leaves=parts["first"] + parts["rest"],
        statics=[
            (path, value)
            for part, held in (("fun", fun_values), ("first", first_values), ("rest", rest_values))
            for path, value in zip(parts[part], held, strict=True)
            if value is not None
        ],
        tree_token=hash((first_tree, rest_tree)),
        renamed=renamed,
    )


def _of_haliax(static: Any, layers: Sequence[Any]) -> _Packed:
    """Read what haliax packs: each part is the function and its arguments, with the arrays at their positions."""
    values, tree = static[1]
    positional, keywords = tree.children()
    names = _names(layers, len(positional.children()))
    keys = list(keywords.node_data()[1])
    roots = [*zip(names, positional.children(), strict=True), *zip(keys, keywords.children(), strict=True)]
    leaves = _leaves(roots)

    def renamed(path: str) -> str:
        found = _OF_HALIAX.fullmatch(path)
        return path if found is None else f"{found['keyword'] or names[int(found['position'])]}{found['rest']}"

    return _Packed(
        names=names,
        keywords=keys,
        roots=roots,
        leaves=leaves,
        statics=list(zip(leaves, values, strict=True)),
        tree_token=hash(tree),
        renamed=renamed,
    )


#: By the module that defines what is jitted.
_READERS: dict[str, Callable[[Any, Sequence[Any]], _Packed]] = {
    "equinox._jit": _of_equinox,
    "haliax.partitioning": _of_haliax,
}


def _leaves(roots: list[_Root]) -> list[str]:
    found = (path for name, tree in roots for path in structure.leaf_paths(tree, name))
    return list(islice(found, _MAX_LEAVES))


def _numbered(roots: list[_Root]) -> Iterator[tuple[Any, str, int]]:
    """Yield the structures that are no single leaf, each with the index of its first leaf."""
    first = 0
    for name, tree in roots:
        if not structure.is_leaf(tree):
            yield tree, name, first
        first += tree.num_leaves


def _names(layers: Sequence[Any], count: int) -> list[str]:
    """Return the names of the positional arguments that the caller passes."""
    code = None if any(is_packed(layer) for layer in layers) else code_of(layers[-1])
    if code is None:
        return [f"args[{i}]" for i in range(count)]
    bound = sum(_count_bound(layer) for layer in layers)
    names = list(code.co_varnames[bound : code.co_argcount])
    rest = "args"
    if code.co_flags & inspect.CO_VARARGS:
        rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
    return (names + [f"{rest}[{i}]" for i in range(count)])[:count]


def _count_bound(layer: Any) -> int:
    """Return how many positional arguments a bound method or a partial passes itself."""
    if isinstance(layer, types.MethodType):
        return 1
    return len(layer.args) if isinstance(layer, functools.partial) else 0
