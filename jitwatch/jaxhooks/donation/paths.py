"""Names of leaves as the user would write them: `state.params['w1']`. No code of the user's objects is run."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from jitwatch.jaxhooks import equinox
from jitwatch.jaxhooks.identity import code_of, layers_of, passed_as_static, unwrap

_MAX_PATH = 200
#: Tracers around an array, and what they and random keys call what is inside.
_MAX_TRACERS = 8
_INSIDE = ("primal", "val", "_base_array")
#: The parameters of what equinox passes to `jax.jit`.
_PACKED = ("dynamic_donate", "dynamic_nodonate", "static")
_PMAP_FILE = os.path.join("jax", "_src", "pmap.py")

Named = list[tuple[str, Any]]


def named_leaves_of(roots: Iterable[tuple[str, Any]]) -> Named:
    """Every leaf below these named values with its path, in JAX's order."""
    return [pair for name, tree in roots for pair in named_leaves(name, tree)]


def named_leaves(name: str, tree: Any) -> Named:
    """Every leaf of a value with its path."""
    flattened, _ = sys.modules["jax"].tree_util.tree_flatten_with_path(tree)
    if is_flax_module(tree):
        paths = _paths_in_module(name, tree, len(flattened))
        return [(path[:_MAX_PATH], leaf) for path, (_, leaf) in zip(paths, flattened, strict=True)]
    return [((name + "".join(map(_step, keys)))[:_MAX_PATH], leaf) for keys, leaf in flattened]


def is_flax_module(tree: Any) -> bool:
    """Whether it is what `nnx.jit` passes to JAX for a module: a description and a list of arrays."""
    return type(tree).__name__ == "NodeStates" and type(tree).__module__.startswith("flax.nnx")


def _paths_in_module(name: str, states: Any, count: int) -> list[str]:
    """Paths of a module's arrays, `m.layers[0].kernel`, from flax's description of it (0.10 to 0.12).

    Where flax describes it otherwise, every array has the name of the module.
    """
    try:
        graph = states.graphdef
        paths = list(_walk(name, iter(graph.nodes), iter(graph.attributes)))
    except Exception:  # another version of flax; nothing is wrong with the job
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


def users_names(fun: Any, args: tuple[Any, ...], paths: list[str]) -> tuple[list[str], list[str]] | None:
    """The same leaves by the names of the user's function, and its parameters, where equinox packed the arguments."""
    if not equinox.is_filter_jit(fun) or len(args) != len(_PACKED):
        return None
    try:
        return equinox.users_names(args[2], layers_of(passed_as_static(fun, args, (2,))), paths)
    except Exception:  # another version of equinox
        return None


def path_in(leaves: Named, array: Any) -> str:
    """Path of an array among the leaves of a call, or empty; under `grad` and `vmap` it is inside of a tracer."""
    return next((path for path, leaf in leaves if any(inner is array for inner in inside(leaf))), "")


def inside(leaf: Any) -> Iterator[Any]:
    """A leaf, and what is in it: the array of a random key, what a tracer of `grad` and `vmap` stands for."""
    for _ in range(_MAX_TRACERS):
        yield leaf
        leaf = next((getattr(leaf, name) for name in _INSIDE if hasattr(type(leaf), name)), None)
        if leaf is None:
            return


def is_of_pmap(code: types.CodeType) -> bool:
    """Whether this is what `jax.pmap` returns (0.8 on): a function that passes its leaves to a jitted one."""
    return code.co_name == "wrapped" and code.co_filename.endswith(_PMAP_FILE)


def pmap_leaves(frame: types.FrameType) -> Named:
    """The leaves that such a function got, named after the parameters of the user's function."""
    inner = frame.f_locals
    infer: Any = inner["infer_params"]
    known = {
        name: cell.cell_contents for name, cell in zip(infer.__code__.co_freevars, infer.__closure__ or (), strict=True)
    }
    args, statics = inner["args"], known.get("static_broadcasted_tuple", ())
    names = parameters(known.get("wrapped_fun", known.get("f")), len(args))
    roots = [pair for i, pair in enumerate(zip(names, args, strict=True)) if i not in statics]
    return named_leaves_of([*roots, *inner["kwargs"].items()])


def parameters(fun: Any, count: int) -> list[str]:
    """Names of a function's first parameters, from its code."""
    code = code_of(unwrap(fun))
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if isinstance(fun, types.MethodType):
        names = names[1:]
    return names[:count] + [f"args[{i}]" for i in range(len(names), count)]


def _step(key: Any) -> str:
    """One step of a path; keys of the user's own classes are not asked for their text."""
    name = getattr(key, "name", None)
    if type(name) is str:
        return f".{name}"
    for attribute in ("key", "idx"):
        value = getattr(key, attribute, None)
        if type(value) in (str, int):
            return f"[{value!r}]"
    return "[…]"
