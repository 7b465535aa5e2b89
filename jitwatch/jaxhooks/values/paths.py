"""Paths of leaves as the user would write them: `state.params['w1']`. Runs no code of the user's objects.

Flax's `nnx.jit` passes a description and a list of arrays for a module; the paths in it are read from the description.

`equinox.filter_jit` (0.11 to 0.13) and `haliax.named_jit` (1.4) jit one function of three arguments for all functions
of a name: the arrays that may be donated, the other arrays, and as a static argument all that is no array, with the
tree structures. Such leaves get paths by the user's own parameters: `model.layers[0].weight` instead of
`dynamic_nodonate['first'][0]`. If a version packs otherwise, JAX's names are kept.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from jitwatch.jaxhooks.identity.unwrapping import closure_of, code_of, layers_of, passed_as_static
from jitwatch.jaxhooks.values.arguments import nodes_below, usable
from jitwatch.jaxhooks.values.description import Numbers, describe
from jitwatch.jaxhooks.values.parts import is_leaf, leaf_paths
from jitwatch.model.signature import Signature

_MAX_PATH = 200
#: Nesting of tracers around an array, and the attributes in which tracers and random keys hold the inner value.
_MAX_TRACERS = 8
_INSIDE = ("primal", "val", "_base_array")
_PMAP_FILE = os.path.join("jax", "_src", "pmap.py")

NamedLeaves = list[tuple[str, Any]]
_OF_EQUINOX = re.compile(r"dynamic_(?:no)?donate\['(fun|first|rest)'\]\[(\d+)\]")
_OF_HALIAX = re.compile(
    r"dynamic_(?:donated|reserved)\[1\]\[(?:0\]\[(?P<position>\d+)|1\]\['(?P<keyword>\w+)')\](?P<rest>.*)"
)
_MAX_LEAVES = 20_000
_MAX_STATICS = 64
#: Number of arguments of the jitted functions; the static one is the last.
_COUNT = 3
#: Name and structure of an argument.
_Root = tuple[str, Any]
#: Path of a function that is itself a module with arrays.
_FUNCTION = "function"


def named_leaves(roots: Iterable[tuple[str, Any]]) -> NamedLeaves:
    """Return every leaf of these named values with its path, in JAX's order."""
    return [pair for name, tree in roots for pair in _leaves_below(name, tree)]


def _leaves_below(name: str, tree: Any) -> NamedLeaves:
    """Return every leaf of a value with its path."""
    util = sys.modules["jax"].tree_util
    found: NamedLeaves = []
    for keys, leaf in util.tree_flatten_with_path(tree, is_leaf=is_flax_module)[0]:
        path = name + "".join(map(_step, keys))
        if is_flax_module(leaf):
            arrays = util.tree_leaves(leaf)
            found += zip(_paths_in_module(path, leaf, len(arrays)), arrays, strict=True)
        else:
            found.append((path, leaf))
    return [(path[:_MAX_PATH], leaf) for path, leaf in found]


def with_module_paths(paths: tuple[str, ...], roots: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    """Replace paths in flax modules by the user's: `m.kernel` instead of `m.states[0][1]`; leaves may be tracers."""
    named = named_leaves(roots)
    if len(named) != len(paths):
        return paths
    return tuple([known if is_module_path(path) else path for path, (known, _) in zip(paths, named, strict=True)])


def is_module_path(path: str) -> bool:
    """Whether JAX's path is in the list of arrays that `nnx.jit` passes for a module."""
    return ".states[" in path


def is_flax_module(tree: Any) -> bool:
    """Whether this is what `nnx.jit` passes to JAX for a module: a description and a list of arrays."""
    return type(tree).__name__ == "NodeStates" and type(tree).__module__.startswith("flax.nnx")


def _paths_in_module(name: str, states: Any, count: int) -> list[str]:
    """Return the paths of a module's arrays, `m.layers[0].kernel`, from flax's description of it (0.10 to 0.12).

    If flax describes the module otherwise, every array gets the module's path.
    """
    try:
        graph = states.graphdef
        paths = list(_walk(name, iter(graph.nodes), iter(graph.attributes)))
    except Exception:  # another version of flax, not an error of the job
        return [name] * count
    return paths if len(paths) == count else [name] * count


def _walk(path: str, nodes: Iterator[Any], attributes: Iterator[Any]) -> Iterator[str]:
    node = next(nodes)
    kind = type(node).__name__
    if kind == "VariableDef":
        yield path
    elif kind == "NodeDef":
        for _ in range(node.num_attributes):
            key, attribute = next(attributes)
            below = f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]"
            if type(attribute).__name__ == "NodeAttr":
                yield from _walk(below, nodes, attributes)
            elif type(attribute).__name__ == "ArrayAttr":
                yield below


def path_in(leaves: NamedLeaves, array: Any) -> str:
    """Return the path of an array among the leaves of a call, inside tracers as well; an empty string if not found."""
    return next((path for path, leaf in leaves if any(inner is array for inner in values_inside(leaf))), "")


def values_inside(leaf: Any) -> Iterator[Any]:
    """Yield a leaf and the values in it: the array of a random key, the value of a tracer of `grad` and `vmap`."""
    for _ in range(_MAX_TRACERS):
        yield leaf
        leaf = next((getattr(leaf, name) for name in _INSIDE if hasattr(type(leaf), name)), None)
        if leaf is None:
            return


def is_of_pmap(code: types.CodeType) -> bool:
    """Whether this is the code of what `jax.pmap` returns (from 0.8 on); it passes its leaves to a jitted function."""
    return code.co_name == "wrapped" and code.co_filename.endswith(_PMAP_FILE)


def pmap_leaves(frame: types.FrameType) -> NamedLeaves:
    """Return the leaves that a frame of such code got, with paths by the parameters of the user's function."""
    inner = frame.f_locals
    known = dict(closure_of(inner["infer_params"]))
    args, statics = inner["args"], known.get("static_broadcasted_tuple", ())
    names = parameters(known.get("wrapped_fun", known.get("f")), len(args))
    roots = [pair for i, pair in enumerate(zip(names, args, strict=True)) if i not in statics]
    return named_leaves([*roots, *inner["kwargs"].items()])


def parameters(fun: Any, count: int) -> list[str]:
    """Return the names of the first positional arguments that the caller of a function passes, from its code."""
    return _names(layers_of(fun), count)


def _step(key: Any) -> str:
    """Return one step of a path; of keys of other classes than JAX's no text is requested."""
    name = getattr(key, "name", None)
    if type(name) is str:
        return f".{name}"
    for attribute in ("key", "idx"):
        value = getattr(key, attribute, None)
        if type(value) in (str, int):
            return f"[{value!r}]"
    return "[…]"


@dataclass(frozen=True, slots=True)
class _Packed:
    """The packed arguments of one call.

    Attributes:
        names, keywords: Names of the positional and the keyword arguments.
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


def unpacked(
    fun: Any, args: tuple[Any, ...], signature: Signature, layers: Sequence[Any], numbers: Numbers
) -> Signature:
    """Return the traced half of a signature with the user's names, if a library packed the arguments of the call.

    `layers` are the user's function and its wrappers, the outermost first.
    """
    found = _read(fun, args, layers)
    if found is None:
        return signature
    try:
        return replace(
            signature,
            paths=usable([found.renamed(path) for path in signature.paths], len(signature.paths)),
            tree=tuple(nodes_below(_numbered(found.roots), found.leaves, numbers)),
            tree_token=found.tree_token,
            keywords=tuple(sorted(found.keywords)),
            statics=tuple((path, describe(value, numbers)) for path, value in found.statics[:_MAX_STATICS]),
            n_static_parameters=0,
        )
    except Exception:  # another version of the library, not an error of the job
        return signature


def unpacked_names(fun: Any, args: tuple[Any, ...], paths: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Return the paths by the user's names, and the user's parameters, if a library packed the arguments; else None."""
    found = _read(fun, args, layers_of(passed_as_static(fun, args, (_COUNT - 1,))) if _is_packed(fun) else ())
    try:
        return ([found.renamed(path) for path in paths], found.names) if found is not None else None
    except Exception:  # as above
        return None


def _is_packed(fun: Any) -> bool:
    """Whether this is the function that one of the libraries passes to `jax.jit`."""
    code = fun.__code__ if isinstance(fun, types.FunctionType) else None
    return code is not None and code.co_name == "fun_wrapped" and fun.__module__ in _READERS


def _read(fun: Any, args: tuple[Any, ...], layers: Sequence[Any]) -> _Packed | None:
    """Return the packed arguments of a call; None if there are none, or this version of the library packs otherwise."""
    try:
        return _READERS[fun.__module__](args[-1], layers) if _is_packed(fun) and len(args) == _COUNT else None
    except Exception:  # as above
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
    found = (path for name, tree in roots for path in leaf_paths(tree, name))
    return list(islice(found, _MAX_LEAVES))


def _numbered(roots: list[_Root]) -> Iterator[tuple[Any, str, int]]:
    """Yield the structures that are no single leaf, each with the index of its first leaf."""
    first = 0
    for name, tree in roots:
        if not is_leaf(tree):
            yield tree, name, first
        first += tree.num_leaves


def _names(layers: Sequence[Any], count: int) -> list[str]:
    code = None if any(_is_packed(layer) for layer in layers) else code_of(layers[-1])
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
