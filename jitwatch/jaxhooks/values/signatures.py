"""Reads signatures from what JAX computed for a trace and a lowering; nothing is traced or hashed again.

Two steps, since two hooks know the two halves: `traced()` when a function was traced (its arguments are
at hand), `lowered()` when the program goes on to XLA (JAX has decided where each argument lies). What is
kept in between holds abstract values, names and plain text, never an argument.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from jitwatch.jaxhooks.identity import jax_functions
from jitwatch.jaxhooks.identity.call_site import frame_of_jax, is_users
from jitwatch.jaxhooks.identity.identities import Identities, code_of
from jitwatch.jaxhooks.identity.wrappers import KEY_FIELDS
from jitwatch.jaxhooks.values import packed
from jitwatch.jaxhooks.values.arguments import (
    count_static,
    defaults_of_static,
    names_of_positions,
    nodes,
    positions,
    static_arguments,
    usable,
)
from jitwatch.jaxhooks.values.description import Numbers, describe
from jitwatch.jaxhooks.values.leaves import in_modules, is_in_module
from jitwatch.jaxhooks.values.placement import UNCOMMITTED, placement_of
from jitwatch.jaxhooks.values.trace_context import AXES, DISABLE_JIT, Context, TraceContext
from jitwatch.model.signature import Constant, Node, Origin, Placement, Signature, Value

#: Constants of a program that are worth a word, in bytes.
LARGE_CONSTANT = 1 << 20
_MAX_CONSTANTS = 20
_MAX_STATICS = 64
_MAX_CAPTURED = 32
_MAX_EQUATIONS = 1_000
_MAX_SHOWN = 10
_PLAIN = frozenset({bool, int, float, str, type(None)})
#: Operations of a program that are looked at, those of inner functions included.
_MAX_VISITED = 20_000
_OPTIONS = (*KEY_FIELDS, "static_argnums", "static_argnames", "keep_unused", "inline")

Named = tuple[tuple[str, Value], ...]


_FIELD_ENDS = re.compile("_(treedef|leaves|kvs)$")
#: What pmap calls its arguments from 0.10 on; until then it tells no names at all.
_PMAP_ARGUMENTS = "flat_args["
#: Name of what comes out of a derived program.
RESULT = "result"


@dataclass(frozen=True, slots=True)
class Traced:
    """What a trace tells: the program's arguments, before anybody decided where they lie."""

    paths: tuple[str, ...]
    avals: tuple[Any, ...]
    origin: Origin = "call"
    variant: str = ""
    code: int = 0
    function: int = 0
    options: tuple[tuple[str, int], ...] = ()
    option_ids: tuple[int, ...] = ()
    #: What comes out, for programs that may differ in nothing else.
    results: tuple[Any, ...] = ()
    tree: tuple[tuple[str, Node], ...] = ()
    tree_token: int = 0
    keywords: tuple[str, ...] = ()
    statics: Named = ()
    passed: tuple[tuple[str, str], ...] = ()
    captured: Named = ()
    n_static_parameters: int = 0
    operation: str = ""
    #: What holds of JAX's configuration besides what it says while it compiles.
    context: Context = ()


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
        if jax_functions.is_operation(fun):
            return self._body(fun, params)
        called = self._identities.callee(fun, args, ji.static_argnums)
        layers = self._identities.layers(called)
        code = code_of(layers[-1])
        signature, count = ji.fun_signature, len(args)
        static = positions(ji.static_argnums, count)
        names = names_of_positions(signature, count)
        positional = [name for i, name in enumerate(names) if i not in static]
        avals = tuple(params.in_avals)
        statics = static_arguments(ji, args, kwargs)[:_MAX_STATICS]
        left_out = defaults_of_static(ji, [name for name, _ in statics])[:_MAX_STATICS]
        by_keyword = {name for name in ji.static_argnames if name in kwargs}
        passed = [(name, "by keyword" if name in by_keyword else "by position") for name, _ in statics]
        paths = usable(params.arg_names, len(avals))
        if paths and paths[0].startswith(_PMAP_ARGUMENTS) and self._identities.is_of_jax(fun):
            paths = tuple([path.removeprefix("flat_") for path in paths])
        if any(map(is_in_module, paths)):
            roots = [pair for i, pair in enumerate(zip(names, args, strict=True)) if i not in static]
            by_name = sorted(set(kwargs).difference(ji.static_argnames))
            paths = in_modules(paths, [*roots, *((name, kwargs[name]) for name in by_name)])
        traced = Traced(
            paths,
            avals,
            variant=self._variant(layers, code),
            code=self._numbers.of(code if code is not None else layers[-1]),
            function=self._numbers.of(called),
            options=_options(ji),
            option_ids=_ids_of_options(ji),
            tree=tuple(nodes(params.in_tree, signature, positional, paths, self._numbers)),
            tree_token=_hash_of(params.in_tree),
            keywords=tuple(sorted(kwargs)),
            statics=self._named([*statics, *left_out]),
            passed=(*passed, *((name, "by default") for name, _ in left_out)),
            captured=self._captured(layers),
            n_static_parameters=count_static(ji),
            operation="jax.vjp" if jax_functions.is_pullback(fun) else "",
        )
        if packed.is_packed(fun) and count == packed.COUNT:
            return packed.unpacked(fun, traced, args[-1], layers, self._numbers)
        return traced

    def with_options(self, traced: Traced, ji: Any) -> Traced:
        """The half for a function that was jitted with these options; cheap when they are the ones it knows.

        Functions that JAX never serves from C++ come by on every call.
        """
        ids = _ids_of_options(ji)
        if ids == traced.option_ids:
            return traced
        return replace(traced, options=_options(ji), option_ids=ids)

    def _body(self, fun: Any, params: Any) -> Traced:
        """The same for the body of an operation outside of jit; only the code of that function is known."""
        folders = self._identities.jax_folders
        code = jax_functions.body_of(fun, lambda filename: is_users(filename, folders))
        operation = jax_functions.operation_of(fun, frame_of_jax(), folders)
        avals = tuple(params.in_avals)
        return Traced(
            usable(None, len(avals)),
            avals,
            "eager",
            variant=f"body of {operation}",
            code=self._numbers.of(code) if code is not None else 0,
            results=tuple(params.params["jaxpr"].out_avals),
            statics=self._named(jax_functions.settings_of(fun)),
            operation=operation,
        )

    def number_of(self, fun: Any) -> int:
        """Number of a function object that was jitted."""
        return self._numbers.of(fun)

    def derived(self, closed_jaxpr: Any, function: int = 0) -> Traced:
        """The same for a program that JAX made from a traced one (grad, vmap).

        Which transformation made it JAX does not say, so programs of other operations or ranks are not compared.

        Args:
            closed_jaxpr: The program.
            function: Number of the function object that it was derived from.
        """
        avals, results = tuple(getattr(closed_jaxpr, "in_avals", ())), tuple(getattr(closed_jaxpr, "out_avals", ()))
        jaxpr = getattr(closed_jaxpr, "jaxpr", closed_jaxpr)
        names = usable(getattr(getattr(jaxpr, "debug_info", None), "arg_names", None), len(avals))
        operations = tuple([str(one.primitive) for one in getattr(jaxpr, "eqns", ())[:_MAX_EQUATIONS]])
        ranks = tuple([len(getattr(aval, "shape", ())) for aval in (*avals, *results)])
        variant = f"derived {hash((len(avals), ranks, operations)):x}"
        return Traced(names, avals, "derived", variant, function=function, results=results)

    def operation(self, closed_jaxpr: Any) -> Traced:
        """The same for an operation of JAX's own, of which nothing but the program matters."""
        avals, results = tuple(getattr(closed_jaxpr, "in_avals", ())), tuple(getattr(closed_jaxpr, "out_avals", ()))
        jaxpr = getattr(closed_jaxpr, "jaxpr", closed_jaxpr)
        # What distinguishes operations of equal arguments and results.
        equations = getattr(jaxpr, "eqns", ())[:_MAX_SHOWN]
        what = tuple([(str(one.primitive), self._settings(one.params)) for one in equations])
        context = ((DISABLE_JIT, "True"),) if jax_functions.is_jit_disabled(frame_of_jax()) else ()
        variant = f"operation {hash(what):x}"
        return Traced(usable(None, len(avals)), avals, variant=variant, results=results, context=context)

    def _settings(self, params: Any) -> tuple[Any, ...]:
        """Parameters of an operation; of what is no plain value only the number, for it may be an object of the job."""
        return tuple(
            [(name, value if is_plain(value) else self._numbers.of(value)) for name, value in sorted(params.items())]
        )

    def abstract(self, avals: Sequence[Any], fun: Any) -> Traced:
        """The same for `pmap` until 0.9, whose path tells no names."""
        # Its `WrappedFun` is made anew for each call; the user's function inside stays.
        called = self._identities.layers(fun)[-1]
        code = code_of(called)
        return Traced(
            usable(None, len(avals)),
            tuple(avals),
            variant="pmap",
            code=self._numbers.of(code if code is not None else called),
            function=self._numbers.of(called),
        )

    def lowered(
        self, traced: Traced, shardings: Sequence[Any], layouts: Sequence[Any] | None, contents: Contents
    ) -> Signature:
        """The whole signature, as that of a call; who compiles ahead of time is only known at the compile.

        Args:
            traced: The first half.
            shardings: One for each argument, those of hoisted constants first.
            layouts: The same; None for default ones.
            contents: What is in the program.
        """
        results = traced.results
        avals = (*traced.avals, *results)
        return Signature(
            origin=traced.origin,
            variant=traced.variant,
            code=traced.code,
            function=traced.function,
            options=traced.options,
            paths=(*traced.paths, *[f"{RESULT}[{i}]" for i in range(len(results))]),
            shapes=_shapes(avals),
            dtypes=tuple([self._dtype(getattr(aval, "dtype", None)) for aval in avals]),
            weak_types=tuple([bool(getattr(aval, "weak_type", False)) for aval in avals]),
            placements=self._placed(shardings, layouts, len(traced.avals)) + (UNCOMMITTED,) * len(results),
            tree=traced.tree,
            tree_token=traced.tree_token,
            keywords=traced.keywords,
            statics=traced.statics,
            passed=traced.passed,
            captured=traced.captured,
            context=self._context_of(traced),
            constants=_large(contents.constants),
            operations=contents.operations,
            repeated=contents.repeated,
            n_static_parameters=traced.n_static_parameters,
            operation=traced.operation,
        )

    def _context_of(self, traced: Traced) -> Context:
        """What holds now of JAX's configuration."""
        found = self._context.read()
        if traced.context:
            return tuple(sorted({**dict(found), **dict(traced.context)}.items()))
        # That `vmap` named an axis is a part of the transformation.
        return tuple(one for one in found if one[0] != AXES) if traced.origin == "derived" else found

    def forget(self) -> None:
        """Let go of what JAX gave."""
        self._context.forget()
        self._dtypes.clear()
        self._placements.clear()

    def _variant(self, layers: list[Any], code: types.CodeType | None) -> str:
        """How libraries and decorators wrapped the function; a rebuilt wrapper of the same code is the same."""
        codes = [layer.__code__ for layer in layers if isinstance(layer, types.FunctionType)]
        # JAX's grad and vmap wear the same outermost wrapper; what they do is in its closure.
        inner = [self._identities.wrapped_by_jax(layer) for layer in layers]
        return ".".join(str(self._numbers.of(one)) for one in (*codes, *inner) if one is not None and one is not code)

    def _named(self, found: list[tuple[str, Any]]) -> Named:
        return tuple((name, describe(value, self._numbers)) for name, value in found)

    def _captured(self, layers: list[Any]) -> Named:
        """Variables of the user's closure and arguments of partials around it."""
        found: list[tuple[str, Any]] = []
        for layer in layers:
            if hasattr(layer, "func") and hasattr(layer, "keywords"):
                names = _parameters(layers[-1])
                found += [(names[i] if i < len(names) else f"args[{i}]", v) for i, v in enumerate(layer.args)]
                found += list(layer.keywords.items())
        inner = layers[-1]
        code, cells = code_of(inner), getattr(inner, "__closure__", None) or ()
        for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
            try:
                found.append((name, cell.cell_contents))
            except ValueError:
                continue  # not assigned yet
        return self._named(found[:_MAX_CAPTURED])

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


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a program, inner functions included.

    Attributes:
        constants: Arrays that are baked in.
        operations: How many operations it has; of a very large one, those that were counted.
        repeated: The inner jitted function that is in it most often, and how often.
    """

    constants: tuple[Any, ...] = ()
    operations: int = 0
    repeated: tuple[str, int] = ("", 0)


def contents_of(closed_jaxpr: Any, jax_folders: tuple[str, ...]) -> Contents:
    """Look into a program before it is lowered.

    Args:
        closed_jaxpr: The program.
        jax_folders: Where JAX lives, whose own functions do not count as repeated.
    """
    constants: dict[int, Any] = {id(one): one for one in getattr(closed_jaxpr, "consts", ())}
    calls: dict[str, int] = {}
    are_users: dict[str, bool] = {}
    queue, visited = [getattr(closed_jaxpr, "jaxpr", closed_jaxpr)], 0
    while queue and visited < _MAX_VISITED:
        for equation in getattr(queue.pop(), "eqns", ()):
            visited += 1
            if visited >= _MAX_VISITED:
                break
            params = equation.params
            for value in params.values():
                if type(value) in _PLAIN:
                    continue
                for one in value if type(value) is tuple else (value,):
                    constants.update((id(const), const) for const in getattr(one, "consts", ()))
                    inner = getattr(one, "jaxpr", one)
                    if hasattr(inner, "eqns"):
                        queue.append(inner)
            name = params.get("name")
            if type(name) is str:
                source = _source_of(params.get("jaxpr"))
                if source not in are_users:
                    are_users[source] = is_users(source, jax_folders) is True if source else False
                if are_users[source]:
                    calls[name] = calls.get(name, 0) + 1
    repeated = max(calls.items(), key=lambda one: one[1], default=("", 0))
    return Contents(tuple(constants.values()), visited, repeated)


def is_plain(value: Any) -> bool:
    """Whether comparing and hashing it runs no code of the job."""
    if isinstance(value, tuple):
        return all(map(is_plain, tuple.__iter__(value)))
    return type(value) in _PLAIN


def _source_of(closed_jaxpr: Any) -> str:
    """The file that defines the function of an inner program, or nothing."""
    jaxpr = getattr(closed_jaxpr, "jaxpr", closed_jaxpr)
    source = getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None)
    return source.partition(" at ")[2].rpartition(":")[0] if type(source) is str else ""


def _large(constants: Any) -> tuple[Constant, ...]:
    found = []
    for one in constants or ():
        # JAX's own wrapper of a NumPy array has no `nbytes` until 0.9.1.
        size = getattr(one, "size", 0) * getattr(getattr(one, "dtype", None), "itemsize", 0)
        if isinstance(size, int) and size >= LARGE_CONSTANT:
            found.append(Constant(tuple(one.shape), str(one.dtype), size))
    return tuple(sorted(found, key=lambda one: -one.bytes)[:_MAX_CONSTANTS])


def _options(ji: Any) -> tuple[tuple[str, int], ...]:
    """The options of `jax.jit` that are set, each with a hash."""
    found: dict[str, int] = {}
    for name in _OPTIONS:
        value = getattr(ji, name, None)
        if value is not None and value is not False and not (type(value) is tuple and not value):
            # JAX keeps some of them in two fields: shardings, and names of arguments beside their numbers.
            shown = _FIELD_ENDS.sub("", name).replace("argnames", "argnums")
            found[shown] = _hash_of((found.get(shown, 0), value))
    return tuple(found.items())


@functools.cache
def _reader_of_options(kind: Any) -> attrgetter[tuple[Any, ...]]:
    # JAX's `PjitInfo`; which options it has depends on the version.
    return attrgetter(*[name for name in _OPTIONS if hasattr(kind, name)])


def _ids_of_options(ji: Any) -> tuple[int, ...]:
    kind: Any = type(ji)
    return tuple(map(id, _reader_of_options(kind)(ji)))


def _hash_of(value: Any) -> int:
    """JAX hashes the very same when it looks up its caches; a class of the user may still refuse."""
    try:
        return hash(value)
    except Exception:
        return 0


def _parameters(function: Any) -> tuple[str, ...]:
    """Names of a plain function's positional parameters."""
    code = function.__code__ if isinstance(function, types.FunctionType) else None
    return code.co_varnames[: code.co_argcount] if code is not None else ()
