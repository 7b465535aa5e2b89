"""The arguments of `haliax.named_jit` under the user's names.

Haliax (1.4) jits one function of three arguments for all of a name: the arrays that are donated, the others, and as a
static argument everything that is no array, with the structure. Each is a pair of the function and its arguments.
Where haliax packs otherwise, the names stay those of JAX.
"""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jitwatch.jaxhooks import equinox
from jitwatch.jaxhooks.arguments import nodes_below, usable
from jitwatch.jaxhooks.values import Numbers, describe

if TYPE_CHECKING:
    from jitwatch.jaxhooks.signatures import Traced

_PACKED = re.compile(
    r"dynamic_(?:donated|reserved)\[1\]\[(?:0\]\[(?P<position>\d+)|1\]\['(?P<keyword>\w+)')\](?P<rest>.*)"
)


def is_named_jit(fun: Any) -> bool:
    """Whether it is what haliax passes to `jax.jit`."""
    code = fun.__code__ if isinstance(fun, types.FunctionType) else None
    return code is not None and code.co_name == "fun_wrapped" and fun.__module__ == "haliax.partitioning"


def unpacked(traced: Traced, args: tuple[Any, ...], layers: Sequence[Any], numbers: Numbers) -> Traced:
    """The trace with the user's names, or as it was.

    Args:
        traced: By JAX's names.
        args: The three arguments; only the static one is looked at.
        layers: The user's function under its wrappers, the outermost first.
        numbers: For classes and for objects.
    """
    try:
        values, tree = args[2][1]
        positional, keywords = tree.children()
        names = equinox.names_of_arguments(layers, len(positional.children()))
        keys = list(keywords.node_data()[1])
        roots = [*zip(names, positional.children(), strict=True), *zip(keys, keywords.children(), strict=True)]
        leaves = equinox.leaves_of(roots)
        named = list(zip(leaves, values, strict=True))
        return replace(
            traced,
            paths=usable([_renamed(path, names) for path in traced.paths], len(traced.paths)),
            tree=tuple(nodes_below(equinox.numbered(roots), leaves, numbers)),
            tree_token=hash(tree),
            keywords=tuple(sorted(keys)),
            statics=tuple((path, describe(value, numbers)) for path, value in named[: equinox.MAX_STATICS]),
            n_static_parameters=0,
        )
    except Exception:
        # Another version of haliax; nothing is wrong with the job.
        return traced


def _renamed(path: str, names: Sequence[str]) -> str:
    found = _PACKED.fullmatch(path)
    if found is None:
        return path
    return f"{found['keyword'] or names[int(found['position'])]}{found['rest']}"
