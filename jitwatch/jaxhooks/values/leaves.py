"""Paths of leaves as the user would write them: `state.params['w1']`. Runs no code of the user's objects."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from jitwatch.jaxhooks.identity.unwrapping import code_of, layers_of, passed_as_static, unwrap
from jitwatch.jaxhooks.values import packed

_MAX_PATH = 200
#: Nesting of tracers around an array, and the attributes in which tracers and random keys hold the inner value.
_MAX_TRACERS = 8
_INSIDE = ("primal", "val", "_base_array")
_PMAP_FILE = os.path.join("jax", "_src", "pmap.py")

NamedLeaves = list[tuple[str, Any]]


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
    """Replace paths in flax modules by the user's: `m.kernel` instead of `m.states[0][1]`.

    Args:
        paths: JAX's paths of all leaves of the roots.
        roots: The arguments by name, in JAX's order; leaves may be tracers.
    """
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


def unpacked_names(fun: Any, args: tuple[Any, ...], paths: list[str]) -> tuple[list[str], list[str]] | None:
    """Return the paths by the user's names, and the user's parameters, if a library packed the arguments; else None."""
    if not packed.is_packed(fun) or len(args) != packed.COUNT:
        return None
    return packed.users_names(fun, args[-1], layers_of(passed_as_static(fun, args, (packed.COUNT - 1,))), paths)


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
    infer: Any = inner["infer_params"]
    known = {
        name: cell.cell_contents for name, cell in zip(infer.__code__.co_freevars, infer.__closure__ or (), strict=True)
    }
    args, statics = inner["args"], known.get("static_broadcasted_tuple", ())
    names = parameters(known.get("wrapped_fun", known.get("f")), len(args))
    roots = [pair for i, pair in enumerate(zip(names, args, strict=True)) if i not in statics]
    return named_leaves([*roots, *inner["kwargs"].items()])


def parameters(fun: Any, count: int) -> list[str]:
    """Return the names of a function's first parameters, from its code."""
    code = code_of(unwrap(fun))
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if isinstance(fun, types.MethodType):
        names = names[1:]
    return names[:count] + [f"args[{i}]" for i in range(len(names), count)]


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
