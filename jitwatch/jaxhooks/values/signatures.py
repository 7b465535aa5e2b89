"""Reads signatures from what JAX computed for a trace and a lowering; nothing is traced again.

Two steps, since two hooks know the two halves: `traced()` when a function was traced (its arguments are known), and
`lowered()` when the program is lowered (the placement of each argument is decided). What is kept in between holds
abstract values, names and plain text, never an argument.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.identity import jax_functions
from jitwatch.jaxhooks.identity.call_site import frame_of_jax, is_users
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.identity.unwrapping import closure_of, code_of
from jitwatch.jaxhooks.identity.wrappers import KEY_FIELDS
from jitwatch.jaxhooks.values.arguments import (
    count_static,
    defaults_of_static,
    names_of_positions,
    nodes,
    positions,
    static_arguments,
    usable,
)
from jitwatch.jaxhooks.values.contents import Contents, is_plain
from jitwatch.jaxhooks.values.description import Numbers, describe
from jitwatch.jaxhooks.values.paths import is_module_path, parameters, unpacked, with_module_paths
from jitwatch.jaxhooks.values.texts import UNCOMMITTED, placement_of
from jitwatch.jaxhooks.values.trace_context import AXES, DISABLE_JIT, Context, TraceContext
from jitwatch.model.copies import reader, replaced
from jitwatch.model.signature import Constant, Placement, Signature, Value

#: Size from which on a constant of a program is reported, in bytes.
LARGE_CONSTANT = 1 << 20
_MAX_CONSTANTS = 20
_MAX_STATICS = 64
_MAX_CAPTURED = 32
_MAX_EQUATIONS = 1_000
_MAX_SHOWN = 10
_OPTIONS = (*KEY_FIELDS, "static_argnums", "static_argnames", "keep_unused", "inline")


_FIELD_ENDS = re.compile("_(treedef|leaves|kvs)$")
#: Start of pmap's argument names from 0.10 on; before, its arguments have no names.
_PMAP_ARGUMENTS = "flat_args["
#: Path of the results of a derived program.
RESULT = "result"


@dataclass(frozen=True, slots=True)
class Traced:
    """What a trace gives for a signature, before the placement of the arguments is decided.

    Attributes:
        signature: All of it that the trace gives.
        avals: Avals of the arguments.
        results: Avals of the results, for programs that may differ in nothing else.
        option_ids: Identities of the options of `jax.jit`.
        context: JAX's configuration where it differs from what JAX has set while it compiles.
    """

    signature: Signature
    avals: tuple[Any, ...]
    results: tuple[Any, ...] = ()
    option_ids: tuple[int, ...] = ()
    context: Context = ()


class SignatureReader:
    """Makes signatures; its numbers of objects are valid for one agent."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._numbers = Numbers()
        self._context = TraceContext()
        self._placements: dict[Placement, Placement] = {}
        self._dtypes = _Texts()

    def traced(self, fun: Any, ji: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: Any) -> Traced:
        """Return the half of a signature that a trace gives, from JAX's options (`PjitInfo`) and result (`PjitParams`).

        Leaves of the arguments may be tracers; only static ones are read.
        """
        if jax_functions.is_operation(fun):
            return self._body(fun, params)
        code: types.CodeType | None
        if self._identities.plain(fun) is not None:
            called, layers, code, variant = fun, [fun], fun.__code__, ""
        else:
            called = self._identities.callee(fun, args, ji.static_argnums)
            layers = self._identities.layers(called)
            code = code_of(layers[-1])
            variant = self._variant(layers, code)
        static = positions(ji.static_argnums, len(args))
        names = names_of_positions(ji.fun_signature, len(args))
        roots = [pair for i, pair in enumerate(zip(names, args, strict=True)) if i not in static]
        avals = tuple(params.in_avals)
        statics: list[tuple[str, Any]] = []
        left_out: list[tuple[str, Any]] = []
        passed: list[tuple[str, str]] = []
        if ji.static_argnums or ji.static_argnames:
            statics = static_arguments(ji, args, kwargs)[:_MAX_STATICS]
            left_out = defaults_of_static(ji, [name for name, _ in statics])[:_MAX_STATICS]
            by_keyword = {name for name in ji.static_argnames if name in kwargs}
            passed = [(name, "by keyword" if name in by_keyword else "by position") for name, _ in statics]
        paths = usable(params.arg_names, len(avals))
        if paths and paths[0].startswith(_PMAP_ARGUMENTS) and self._identities.is_of_jax(fun):
            paths = tuple([path.removeprefix("flat_") for path in paths])
        if is_module_path("".join(paths)) and any(map(is_module_path, paths)):
            by_name = sorted(set(kwargs).difference(ji.static_argnames))
            paths = with_module_paths(paths, [*roots, *((name, kwargs[name]) for name in by_name)])
        tree = nodes(params.in_tree, ji.fun_signature, [name for name, _ in roots], paths, self._numbers)
        signature = Signature(
            paths=paths,
            variant=variant,
            code=self._numbers.of(code if code is not None else layers[-1]),
            function=self._numbers.of(called),
            options=_options(ji),
            tree=tuple(tree),
            tree_token=_hash_of(params.in_tree),
            keywords=tuple(sorted(kwargs)),
            statics=self._named([*statics, *left_out]),
            passed=(*passed, *[(name, "by default") for name, _ in left_out]),
            captured=self._captured(layers),
            n_static_parameters=count_static(ji),
            operation="jax.vjp" if jax_functions.is_pullback(fun) else "",
        )
        signature = unpacked(fun, args, signature, layers, self._numbers)
        return Traced(signature, avals, option_ids=_ids_of_options(ji))

    def with_options(self, traced: Traced, ji: Any) -> Traced:
        """Return the trace for a function that was jitted with these options; cheap if the options are the same.

        Called at every call of functions that the C++ fast path never serves.
        """
        ids = _ids_of_options(ji)
        if ids == traced.option_ids:
            return traced
        return replace(traced, signature=replace(traced.signature, options=_options(ji)), option_ids=ids)

    def _body(self, fun: Any, params: Any) -> Traced:
        """Return the trace of an operation's body outside of jit; only the code of that function is known."""
        folders = self._identities.jax_folders
        code = jax_functions.body_of(fun, lambda filename: is_users(filename, folders))
        operation = jax_functions.operation_of(fun, frame_of_jax(), folders)
        avals = tuple(params.in_avals)
        signature = Signature(
            origin="eager",
            variant=f"body of {operation}",
            code=self._numbers.of(code) if code is not None else 0,
            paths=usable(None, len(avals)),
            statics=self._named(jax_functions.settings_of(fun)),
            operation=operation,
        )
        return Traced(signature, avals, tuple(params.params["jaxpr"].out_avals))

    def number_of(self, fun: Any) -> int:
        """Return the number of a function object that was jitted."""
        return self._numbers.of(fun)

    def derived(self, closed_jaxpr: Any, function: int = 0) -> Traced:
        """Return the trace of a program that JAX derived (by grad, vmap) from the function object with this number.

        JAX does not name the transformation, so programs with other operations or ranks are not compared.
        """
        avals, results, equations = _read(closed_jaxpr)
        names = usable(getattr(compat.debug_info_of(closed_jaxpr), "arg_names", None), len(avals))
        operations = tuple([str(one.primitive) for one in equations[:_MAX_EQUATIONS]])
        ranks = tuple([len(getattr(aval, "shape", ())) for aval in (*avals, *results)])
        variant = f"derived {hash((len(avals), ranks, operations)):x}"
        return Traced(Signature(origin="derived", variant=variant, function=function, paths=names), avals, results)

    def operation(self, closed_jaxpr: Any) -> Traced:
        """Return the trace of an operation of JAX's own, of which only the program matters."""
        avals, results, equations = _read(closed_jaxpr)
        # Distinguishes operations with equal arguments and results.
        what = tuple([(str(one.primitive), self._settings(one.params)) for one in equations[:_MAX_SHOWN]])
        context = ((DISABLE_JIT, "True"),) if jax_functions.is_jit_disabled(frame_of_jax()) else ()
        signature = Signature(variant=f"operation {hash(what):x}", paths=usable(None, len(avals)))
        return Traced(signature, avals, results, context=context)

    def _settings(self, params: Any) -> tuple[Any, ...]:
        """Return the parameters of an operation; a number for values that are not plain, which may be the job's."""
        return tuple(
            [(name, value if is_plain(value) else self._numbers.of(value)) for name, value in sorted(params.items())]
        )

    def abstract(self, avals: Sequence[Any], fun: Any) -> Traced:
        """Return the trace for `pmap` until 0.9, whose path has no argument names."""
        # Its `WrappedFun` is made anew for each call; the user's function inside stays the same.
        called = self._identities.layers(fun)[-1]
        code = code_of(called)
        signature = Signature(
            variant="pmap",
            code=self._numbers.of(code if code is not None else called),
            function=self._numbers.of(called),
            paths=usable(None, len(avals)),
        )
        return Traced(signature, tuple(avals))

    def lowered(
        self, traced: Traced, shardings: Sequence[Any], layouts: Sequence[Any] | None, contents: Contents
    ) -> Signature:
        """Return the whole signature, with the origin of a call; ahead-of-time compiles are known later.

        Shardings and layouts are one per argument, those of hoisted constants first; no layouts are the default.
        """
        signature, results = traced.signature, traced.results
        avals = (*traced.avals, *results)
        paths = signature.paths
        return replaced(
            signature,
            paths=(*paths, *[f"{RESULT}[{i}]" for i in range(len(results))]) if results else paths,
            shapes=_shapes(avals),
            dtypes=tuple(map(self._dtypes.__getitem__, _column(avals, "dtype", None))),
            weak_types=tuple(map(bool, _column(avals, "weak_type", False))),
            placements=self._placed(shardings, layouts, len(traced.avals)) + (UNCOMMITTED,) * len(results),
            context=self._context_of(traced),
            constants=_large(contents.constants),
            operations=contents.operations,
            repeated=contents.repeated,
        )

    def _context_of(self, traced: Traced) -> Context:
        found = self._context.read()
        if traced.context:
            return tuple(sorted({**dict(found), **dict(traced.context)}.items()))
        # An axis name of `vmap` is a part of the transformation.
        return tuple(one for one in found if one[0] != AXES) if traced.signature.origin == "derived" else found

    def _variant(self, layers: list[Any], code: types.CodeType | None) -> str:
        """Return how libraries and decorators wrapped the function; a rebuilt wrapper with the same code is equal."""
        codes = [layer.__code__ for layer in layers if isinstance(layer, types.FunctionType)]
        # JAX's grad and vmap have the same outermost wrapper; the transformation is in its closure.
        inner = [self._identities.wrapped_by_jax(layer) for layer in layers]
        return ".".join(str(self._numbers.of(one)) for one in (*codes, *inner) if one is not None and one is not code)

    def _named(self, found: list[tuple[str, Any]]) -> tuple[tuple[str, Value], ...]:
        return tuple((name, describe(value, self._numbers)) for name, value in found)

    def _captured(self, layers: list[Any]) -> tuple[tuple[str, Value], ...]:
        """Return the variables of the user's closure and the arguments of partials around it."""
        found: list[tuple[str, Any]] = []
        for layer in layers:
            if hasattr(layer, "func") and hasattr(layer, "keywords"):
                found += zip(parameters(layers[-1], len(layer.args)), layer.args, strict=True)
                found += list(layer.keywords.items())
        return self._named([*found, *closure_of(layers[-1])][:_MAX_CAPTURED])

    def _placed(self, shardings: Sequence[Any], layouts: Sequence[Any] | None, count: int) -> tuple[Placement, ...]:
        shardings = list(shardings)[-count:] if count else []
        layouts = list(layouts)[-count:] if count and layouts is not None else [None] * count
        first = shardings[0] if shardings else None
        if all(one is first for one in shardings) and all(one is None for one in layouts):
            # The usual case: all are uncommitted.
            return (self._interned(placement_of(first, None)),) * count
        known: dict[int, Placement] = {}
        found = []
        for sharding, layout in zip(shardings, layouts, strict=False):
            placement = known.get(id(sharding)) if layout is None else None
            if placement is None:
                placement = self._interned(placement_of(sharding, layout))
                if layout is None:
                    known[id(sharding)] = placement
            found.append(placement)
        return tuple(found) if len(found) == count else (UNCOMMITTED,) * count

    def _interned(self, placement: Placement) -> Placement:
        if len(self._placements) > 1_000:
            self._placements.clear()
        return self._placements.setdefault(placement, placement)


class _Texts(dict[Any, str]):
    """Texts of dtypes, each made once."""

    def __missing__(self, key: Any) -> str:
        text = self[key] = str(key)
        return text


def _column(avals: tuple[Any, ...], name: str, default: Any) -> list[Any]:
    """Return an attribute of each aval; the default for those without it."""
    try:
        return list(map(attrgetter(name), avals))
    except AttributeError:
        return [getattr(aval, name, default) for aval in avals]


def _shapes(avals: tuple[Any, ...]) -> tuple[tuple[int | str, ...], ...]:
    shapes = tuple(_column(avals, "shape", ()))
    if set(map(type, chain.from_iterable(shapes))) <= {int}:
        return shapes
    return tuple(tuple(size if type(size) is int else str(size) for size in shape) for shape in shapes)


def _read(closed_jaxpr: Any) -> tuple[tuple[Any, ...], tuple[Any, ...], Sequence[Any]]:
    """Return avals of the arguments and results of a program, and its operations."""
    jaxpr = getattr(closed_jaxpr, "jaxpr", closed_jaxpr)
    avals, results = (tuple(getattr(closed_jaxpr, name, ())) for name in ("in_avals", "out_avals"))
    return avals, results, getattr(jaxpr, "eqns", ())


def _large(constants: Any) -> tuple[Constant, ...]:
    found = []
    for one in constants or ():
        # JAX's own wrapper of a NumPy array has no `nbytes` until 0.9.1.
        size = getattr(one, "size", 0) * getattr(getattr(one, "dtype", None), "itemsize", 0)
        if isinstance(size, int) and size >= LARGE_CONSTANT:
            found.append(Constant(tuple(one.shape), str(one.dtype), size))
    return tuple(sorted(found, key=lambda one: -one.bytes)[:_MAX_CONSTANTS])


def _options(ji: Any) -> tuple[tuple[str, int], ...]:
    """Return the options of `jax.jit` that are set, each with a hash."""
    found: dict[str, int] = {}
    kind: Any = type(ji)
    names, read = _reader_of_options(kind)
    for shown, value in zip(names, read(ji), strict=True):
        if value is not None and value is not False and not (type(value) is tuple and not value):
            found[shown] = _hash_of((found.get(shown, 0), value))
    return tuple(found.items())


@functools.cache
def _reader_of_options(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """Return the names of the options as they are shown, and what reads them from JAX's object."""
    # The class is JAX's `PjitInfo`, whose options depend on the version.
    names = tuple([name for name in _OPTIONS if hasattr(kind, name)])
    # JAX keeps some options in two fields: shardings, and argument names besides numbers.
    shown = tuple([_FIELD_ENDS.sub("", name).replace("argnames", "argnums") for name in names])
    return shown, reader(names)


def _ids_of_options(ji: Any) -> tuple[int, ...]:
    kind: Any = type(ji)
    return tuple(map(id, _reader_of_options(kind)[1](ji)))


def _hash_of(value: Any) -> int:
    """Return the hash of a value that JAX hashes too for its caches; 0 if a user's class raises."""
    try:
        return hash(value)
    except Exception:
        return 0
