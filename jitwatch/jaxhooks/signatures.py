"""Reads signatures from what JAX computed for a trace and a lowering; nothing is traced or hashed again.

Two steps, since two hooks know the two halves: `traced()` when a function was traced (its arguments are
at hand), `lowered()` when the program goes on to XLA (JAX has decided where each argument lies). What is
kept in between holds abstract values, names and plain text, never an argument.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jitwatch.jaxhooks.context import Context, TraceContext
from jitwatch.jaxhooks.identity import Identities, code_of
from jitwatch.jaxhooks.placement import UNCOMMITTED, placement_of
from jitwatch.jaxhooks.values import Numbers, describe, shorten
from jitwatch.jaxhooks.wrappers import KEY_FIELDS
from jitwatch.signature import Constant, Origin, Placement, Signature, Value

#: Constants of a program that are worth a word, in bytes.
LARGE_CONSTANT = 1 << 20
_MAX_CONSTANTS = 20
_MAX_STATICS = 64
_MAX_CAPTURED = 32
_MAX_NODES = 5_000
_MAX_PATH = 200
_OPTIONS = (*KEY_FIELDS, "static_argnums", "static_argnames", "keep_unused", "inline")

#: Variant of the programs that JAX derives by itself.
DERIVED = "derived"

Named = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """What a trace tells: the program's arguments, before anybody decided where they lie."""

    variant: str
    code: int
    function: int
    options: int
    paths: tuple[str, ...]
    avals: tuple[Any, ...]
    tree: tuple[tuple[str, str], ...]
    tree_token: int
    statics: Named
    captured: Named
    n_static_parameters: int


class SignatureReader:
    """Makes signatures; the numbers it gives to objects hold for one agent."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._numbers = Numbers()
        self._context = TraceContext()
        self._placements: dict[Placement, Placement] = {}
        self._dtypes: dict[Any, str] = {}

    def traced(self, fun: Any, ji: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: Any) -> Traced:
        """The half that a trace knows.

        Args:
            fun: What was passed to `jax.jit`.
            ji: JAX's options for it (`PjitInfo`).
            args: Positional arguments of the call; leaves may be tracers. Only static ones are looked at.
            kwargs: Keyword arguments, likewise.
            params: JAX's result (`PjitParams`).
        """
        called = self._identities.callee(fun, args, ji.static_argnums)
        layers = self._identities.layers(called)
        code = code_of(layers[-1])
        positional = names_of_positions(ji.fun_signature, len(args))
        paths = params.arg_names
        avals = tuple(params.in_avals)
        dynamic = [name for i, name in enumerate(positional) if i not in _positions(ji.static_argnums, len(args))]
        return Traced(
            variant=self._variant(layers, code),
            code=self._numbers.of(code if code is not None else layers[-1]),
            function=self._numbers.of(called),
            options=_hash_of(tuple(getattr(ji, name, None) for name in _OPTIONS)),
            paths=_usable(paths, len(avals)),
            avals=avals,
            tree=tuple(_nodes(params.in_tree, dynamic, self._numbers)),
            tree_token=_hash_of(params.in_tree),
            statics=self._statics(ji, positional, args, kwargs),
            captured=self._captured(layers),
            n_static_parameters=len({*ji.static_argnums, *ji.static_argnames}),
        )

    def derived(self, closed_jaxpr: Any) -> Traced:
        """The same for a program that JAX made from a traced one (grad, vmap)."""
        avals = tuple(getattr(closed_jaxpr, "in_avals", ()))
        debug = getattr(getattr(closed_jaxpr, "jaxpr", closed_jaxpr), "debug_info", None)
        return Traced(DERIVED, 0, 0, 0, _usable(getattr(debug, "arg_names", None), len(avals)), avals, (), 0, (), (), 0)

    def abstract(self, avals: Sequence[Any], fun: Any) -> Traced:
        """The same for `pmap` until 0.9, whose path tells no names."""
        layers = self._identities.layers(fun)
        code = code_of(layers[-1])
        number = self._numbers.of
        return Traced(
            "pmap",
            number(code if code is not None else fun),
            number(fun),
            0,
            _usable(None, len(avals)),
            tuple(avals),
            (),
            0,
            (),
            (),
            0,
        )

    def lowered(
        self, traced: Traced, shardings: Sequence[Any], layouts: Sequence[Any] | None, constants: Any
    ) -> Signature:
        """The whole signature, as that of a call; who compiles ahead of time is only known at the compile.

        Args:
            traced: The first half.
            shardings: One for each argument, those of hoisted constants first.
            layouts: The same; None for default ones.
            constants: Arrays of the closed jaxpr.
        """
        count = len(traced.avals)
        origin: Origin = "derived" if traced.variant == DERIVED else "call"
        return Signature(
            origin=origin,
            variant=traced.variant,
            code=traced.code,
            function=traced.function,
            options=traced.options,
            paths=traced.paths,
            shapes=_shapes(traced.avals),
            dtypes=tuple([self._dtype(getattr(aval, "dtype", None)) for aval in traced.avals]),
            weak_types=tuple([bool(getattr(aval, "weak_type", False)) for aval in traced.avals]),
            placements=self._placed(shardings, layouts, count),
            tree=traced.tree,
            tree_token=traced.tree_token,
            statics=traced.statics,
            captured=traced.captured,
            context=self.context(),
            constants=_large(constants),
            n_static_parameters=traced.n_static_parameters,
        )

    def context(self) -> Context:
        """What holds now of JAX's configuration."""
        return self._context.read()

    def forget(self) -> None:
        """Let go of what JAX gave."""
        self._context.forget()
        self._dtypes.clear()
        self._placements.clear()

    def _variant(self, layers: list[Any], code: types.CodeType | None) -> str:
        """How libraries and decorators wrapped the function; a rebuilt wrapper of the same code is the same."""
        codes = [layer.__code__ for layer in layers if isinstance(layer, types.FunctionType)]
        return ".".join(str(self._numbers.of(one)) for one in codes if one is not code)

    def _statics(self, ji: Any, positional: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Named:
        found = [(positional[i], args[i]) for i in sorted(_positions(ji.static_argnums, len(args)))]
        found += [(name, kwargs[name]) for name in ji.static_argnames if name in kwargs]
        return tuple((name, describe(value, self._numbers)) for name, value in found[:_MAX_STATICS])

    def _captured(self, layers: list[Any]) -> Named:
        """Variables of the user's closure and arguments of partials around it."""
        found: list[tuple[str, Any]] = []
        for layer in layers:
            if hasattr(layer, "func") and hasattr(layer, "keywords"):
                found += [(f"args[{i}]", value) for i, value in enumerate(layer.args)]
                found += list(layer.keywords.items())
        inner = layers[-1]
        code, cells = code_of(inner), getattr(inner, "__closure__", None) or ()
        for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
            try:
                found.append((name, cell.cell_contents))
            except ValueError:
                continue  # not assigned yet
        return tuple((name, describe(value, self._numbers)) for name, value in found[:_MAX_CAPTURED])

    def _placed(self, shardings: Sequence[Any], layouts: Sequence[Any] | None, count: int) -> tuple[Placement, ...]:
        shardings = list(shardings)[-count:] if count else []
        places = list(layouts)[-count:] if count and layouts is not None else [None] * count
        first = shardings[0] if shardings else None
        if all(one is first for one in shardings) and all(one is None for one in places):
            # The usual case, all of them uncommitted: one look is enough.
            return (self._interned(placement_of(first, None)),) * count
        known: dict[int, Placement] = {}
        found = []
        for sharding, layout in zip(shardings, places, strict=False):
            place = known.get(id(sharding)) if layout is None else None
            if place is None:
                place = self._interned(placement_of(sharding, layout))
                if layout is None:
                    known[id(sharding)] = place
            found.append(place)
        return tuple(found) if len(found) == count else (UNCOMMITTED,) * count

    def _interned(self, place: Placement) -> Placement:
        if len(self._placements) > 1_000:
            self._placements.clear()
        return self._placements.setdefault(place, place)

    def _dtype(self, dtype: Any) -> str:
        text = self._dtypes.get(dtype)
        if text is None:
            text = self._dtypes[dtype] = str(dtype)
        return text


def _shapes(avals: tuple[Any, ...]) -> tuple[tuple[int | str, ...], ...]:
    shapes = tuple([getattr(aval, "shape", ()) for aval in avals])
    if {type(size) for shape in shapes for size in shape} <= {int}:
        return shapes
    return tuple(tuple(size if type(size) is int else str(size) for size in shape) for shape in shapes)


def _large(constants: Any) -> tuple[Constant, ...]:
    found = []
    for one in constants or ():
        size = getattr(one, "nbytes", 0)
        if isinstance(size, int) and size >= LARGE_CONSTANT:
            found.append(Constant(tuple(one.shape), str(one.dtype), size))
    return tuple(sorted(found, key=lambda one: -one.bytes)[:_MAX_CONSTANTS])


def _usable(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None or len(names) != count:
        return tuple(f"args[{i}]" for i in range(count))
    return tuple(names)


def _hash_of(value: Any) -> int:
    """JAX hashes the very same when it looks up its caches; a class of the user may still refuse."""
    try:
        return hash(value)
    except Exception:
        return 0


def _positions(static_argnums: Sequence[int], count: int) -> set[int]:
    return {i % count for i in static_argnums if -count <= i < count} if count else set()


def names_of_positions(signature: Any, count: int) -> list[str]:
    """Names of the positional arguments of a call, `rest[0]` for those of `*rest`."""
    names: list[str] = []
    for name, parameter in getattr(signature, "parameters", {}).items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}[{i}]" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
    names += [f"args[{i}]" for i in range(len(names), count)]
    return names[:count]


def _nodes(tree: Any, positional: list[str], numbers: Numbers) -> Iterator[tuple[str, str]]:
    """Containers, Nones and custom nodes of the arguments, each with its path."""
    try:
        args, kwargs = tree.children()
        roots = list(zip(positional, args.children(), strict=False))
        named = kwargs.node_data()
        keywords = list(named[1]) if named is not None else []
    except (AttributeError, TypeError, ValueError):
        return
    yield "**kwargs", ", ".join(sorted(map(str, keywords)))
    roots += [(str(key), child) for key, child in zip(keywords, kwargs.children(), strict=False)]
    stack = roots[::-1]
    for _ in range(_MAX_NODES):
        if not stack:
            return
        path, node = stack.pop()
        data = node.node_data()
        if data is None:
            if node.num_leaves == 0:
                yield path[:_MAX_PATH], "None"
            continue
        kind, aux = data
        children = node.children()
        yield path[:_MAX_PATH], _node_text(kind, aux, len(children), numbers)
        stack.extend(zip(_child_paths(path, kind, aux, len(children)), children, strict=False))


def _node_text(kind: Any, aux: Any, count: int, numbers: Numbers) -> str:
    if kind is type(None):
        return "None"
    name = shorten(getattr(kind, "__qualname__", str(kind)))
    if kind in (list, tuple):
        return f"{name} of {count}"
    if kind is dict or aux is None or hasattr(kind, "_fields"):
        return name
    value = describe(aux, numbers)
    return f"{name} with {value.text}#{value.token & 0xFFFFFF:06x}"


def _child_paths(path: str, kind: Any, aux: Any, count: int) -> list[str]:
    if kind is dict or (isinstance(aux, (list, tuple)) and getattr(kind, "__name__", "") in ("OrderedDict",)):
        return [f"{path}[{key!r}]" if type(key) in (str, int) else f"{path}[…]" for key in aux]
    fields = getattr(kind, "_fields", None)
    if isinstance(fields, tuple) and len(fields) == count:
        return [f"{path}.{name}" for name in fields]
    return [f"{path}[{i}]" for i in range(count)]


def unhashable_static(ji: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str] | None:
    """Name and type of the first static argument whose class has no hash; no code of the user is run."""
    names = names_of_positions(ji.fun_signature, len(args))
    found = [(names[i], args[i]) for i in sorted(_positions(ji.static_argnums, len(args)))]
    found += [(name, kwargs[name]) for name in ji.static_argnames if name in kwargs]
    for name, value in found:
        inner = _unhashable_in(value, 0)
        if inner is not None:
            return name, shorten(inner)
    return None


def _unhashable_in(value: Any, depth: int) -> str | None:
    kind = type(value)
    if kind.__hash__ is None:
        return kind.__qualname__
    if kind is tuple and depth < 4:
        return next((found for one in value if (found := _unhashable_in(one, depth + 1)) is not None), None)
    return None
