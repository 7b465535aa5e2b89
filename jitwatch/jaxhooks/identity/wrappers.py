"""The registry of all jitted functions of the process, held weakly: which functions were jitted, and their cache sizes.

`_cpp_pjit` makes each jitted function, under every name of `jit` and whenever that was imported, so instrumenting this
one function registers them all. The caller gets JAX's own object, except for functions that donate. Functions that were
jitted before the installation are known from their next call that misses the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from jitwatch import guard
from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.identity.call_site import frame_of_jax, is_users
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.identity.jax_functions import jitted_at
from jitwatch.jaxhooks.observer import Observer, Replaced
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.copies import reader
from jitwatch.model.function import Function
from jitwatch.model.signature import Value

#: Jitted objects of one function whose cache sizes are read in the job's thread.
_MAX_ASKED = 20
#: Functions known by source; the start-up of a large job makes thousands.
_MAX_SOURCES = 10_000
#: Functions whose caches are read; above this, freed ones are removed, and then new ones are not registered.
_MAX_LABELS = 2_000
#: Parts of JAX's cache key besides the function: jitted objects that agree in them share one cache.
KEY_FIELDS = (
    "donate_argnums",
    "donate_argnames",
    "device",
    "backend",
    "in_shardings_treedef",
    "in_shardings_leaves",
    "out_shardings_treedef",
    "out_shardings_leaves",
    "in_layouts_treedef",
    "in_layouts_leaves",
    "out_layouts_treedef",
    "out_layouts_leaves",
    "compiler_options_kvs",
)


class Wrappers:
    """The registry; `identities` names functions.

    Attributes:
        on_wrapped: Receives each function of the job that is passed to `jax.jit`, and names of mutable defaults.
        on_seen: Receives each function at its first call.
        on_created: Returns what the caller of `jax.jit` gets, from JAX's object, what was jitted, the options and the
            function.
    """

    def __init__(self, identities: Identities) -> None:
        self.identities = identities
        self.on_wrapped: Callable[[Function, tuple[str, ...]], None] | None = None
        self.on_seen: Callable[[Function], None] | None = None
        self.on_created: Callable[[Any, Any, Any, Function | None], Any] | None = None
        #: Jitted objects by the label of their function.
        self._by_label: dict[str, WeakIdMap[None]] = {}
        #: Jitted objects whose function only a call shows.
        self._unresolved: WeakIdMap[None] = WeakIdMap()
        #: What was passed to `jax.jit` since the installation, and whether it was called.
        self._created: WeakIdMap[bool] = WeakIdMap()
        #: What was jitted before, with JAX's options, as far as calls showed it.
        self._older: WeakIdMap[tuple[Any, Function]] = WeakIdMap()
        #: Functions by JAX's source text in jaxprs (`name at file:line`).
        self._sources: dict[str, Function] = {}
        self._holders: dict[str, tuple[str, str]] = {}
        self._create: Callable[..., Any] | None = None

    def install(self, patcher: Patcher) -> None:
        """Start registering what is jitted; does nothing the second time.

        Raises UnsupportedJaxError if the private hook is missing.
        """
        if self._create is not None:
            return
        reason = compat.CREATE.missing()
        if reason is not None:
            raise UnsupportedJaxError(reason)
        creates = Observer(lambda fun, options, *_, **__: (fun, options), self._created_by_jax, component="cache")
        self._create = patcher.instrument(compat.CREATE.get(), creates)
        if compat.PMAP_CREATE.missing() is None:
            creates = Observer(lambda fun, *_, **options: (fun, options), self._created_by_jax, component="cache")
            patcher.instrument(compat.PMAP_CREATE.get(), creates)

    def called(self, fun: Any, jit_info: Any, function: Function) -> None:
        """Register a function whose call missed JAX's cache, if it was jitted before the installation.

        The jitted object itself is not known then, and searching for it with `gc.get_objects()` is not safe while other
        threads run: a tuple that they are building must not be referenced (SystemError in their code). Its function and
        options are enough to read its cache.
        """
        if function.is_internal:
            return
        if self._created.get(fun) is False:
            self._created.set(fun, True)
            self._see(function)
        elif self._created.get(fun) is None and self._older.get(fun) is None:
            # Without the signature, whose default values may refer to the function and keep it alive.
            self._older.set(fun, (jit_info._replace(fun_signature=None), function))
            self._see(function)

    def resolved(self, fun: Any, function: Function) -> None:
        """Register the jitted objects of `fun` under the function that a call showed."""
        for jitted, _ in self._unresolved.items():
            if getattr(jitted, "_fun", None) is fun:
                self._unresolved.remove(jitted)
                self._register(jitted, function)
                self._wrap(function, ())

    def entries(self) -> dict[str, int]:
        """Return the cache entries by function label; shared caches count once."""
        found = {label: _entries(one for one, _ in jitted.items()) for label, jitted in list(self._by_label.items())}
        for fun, (jit_info, function) in self._older.items():
            found[function.label] = found.get(function.label, 0) + _entries(self._twin(fun, jit_info))
        return found

    def entries_of(self, function: Function) -> int | None:
        """Return the cache entries of one function, or None if it has too many jitted objects to read in a call."""
        if function.is_internal:
            return None
        known = self._by_label.get(function.label)
        jitted = [one for one, _ in known.items()] if known is not None else []
        older = []
        if len(self._older):
            older = [(fun, jit_info) for fun, (jit_info, one) in self._older.items() if one.label == function.label]
        if not 0 < len(jitted) + len(older) <= _MAX_ASKED:
            return None
        return _entries([*jitted, *(twin for fun, jit_info in older for twin in self._twin(fun, jit_info))])

    def remember_statics(self, function: Function, statics: Iterable[tuple[str, Value]]) -> None:
        """Store which static argument keeps arrays alive: an entry of the cache holds each of its values."""
        for name, value in statics:
            if value.holds_arrays and len(self._holders) < _MAX_LABELS:
                self._holders[function.label] = (name, value.type)

    def holders(self) -> dict[str, tuple[str, str]]:
        """Return name and class of the static argument that keeps arrays alive, by function label."""
        return dict(self._holders)

    def remember_source(self, source: Any, function: Function) -> None:
        """Store a function by JAX's source text for it; without a source file the text is ambiguous."""
        if isinstance(source, str) and " at " in source and len(self._sources) < _MAX_SOURCES:
            self._sources[source] = function

    def by_source(self, source: Any) -> Function | None:
        """Return the function of JAX's source text, or None."""
        return self._sources.get(source) if isinstance(source, str) else None

    def forget(self) -> None:
        """Drop everything; no object of the job is referenced afterwards, not even weakly."""
        self._by_label = {}
        self._sources = {}
        self._holders = {}
        self.on_wrapped = self.on_seen = self.on_created = None
        for known in (self._unresolved, self._created, self._older):
            known.clear()

    def __len__(self) -> int:
        return sum(len(jitted) for jitted in list(self._by_label.values())) + len(self._older)

    def _twin(self, fun: Any, jit_info: Any) -> list[Any]:
        """Make a second jitted object for the same function and options, which shares the first one's cache."""
        try:
            return [self._create(fun, jit_info)] if self._create is not None else []
        except Exception:
            guard.failed("cache")
            return []

    def _register(self, jitted: Any, function: Function | None) -> None:
        if function is None:
            self._unresolved.set(jitted, None)
            return
        jitted_of = self._by_label.get(function.label)
        if jitted_of is None:
            if len(self._by_label) >= _MAX_LABELS:
                self._by_label = {label: alive for label, alive in self._by_label.items() if len(alive)}
            if len(self._by_label) >= _MAX_LABELS:
                return
            jitted_of = self._by_label.setdefault(function.label, WeakIdMap())
        jitted_of.set(jitted, None)

    def _see(self, function: Function) -> None:
        if self.on_seen is not None:
            self.on_seen(function)

    def _wrap(self, function: Function, mutable_defaults: tuple[str, ...]) -> None:
        if self.on_wrapped is not None and not function.is_internal:
            self.on_wrapped(function, mutable_defaults)

    def _created_by_jax(self, state: tuple[Any, Any], jitted: Any) -> Replaced | None:
        """Register a jitted object that JAX has made; return what the caller of `jax.jit` gets.

        The options are a `PjitInfo`, or a dict for pmap's own path.
        """
        fun, options = state
        function = self.identities.of(fun)
        if function is not None and function.is_internal:
            frame = jitted_at(frame_of_jax(), self.identities.jax_folders)
            function = self.identities.adopt(fun, frame) if frame is not None else function
        self._created.set(fun, False)
        self._register(jitted, function)
        if function is not None:
            mutable: tuple[str, ...] = ()
            if not function.is_internal and not isinstance(options, dict):
                self.remember_source(getattr(options, "fun_sourceinfo", None), function)
                mutable = self._mutable_defaults(function, getattr(options, "fun_signature", None))
            self._wrap(function, mutable)
        returned = self.on_created(jitted, fun, options, function) if self.on_created is not None else None
        return None if returned is None or returned is jitted else Replaced(returned)

    def _mutable_defaults(self, function: Function, signature: Any) -> tuple[str, ...]:
        """Return the parameters of a user function whose default value has no hash: a list, a dict, an array."""
        names = tuple(
            name
            for name, parameter in getattr(signature, "parameters", {}).items()
            if parameter.default is not parameter.empty and type(parameter.default).__hash__ is None
        )
        file = (function.location or "").rpartition(":")[0]
        return names if names and is_users(file, self.identities.jax_folders) else ()


def _entries(jitted: Iterable[Any]) -> int:
    total = 0
    seen: set[tuple[Any, ...]] = set()
    for one in jitted:
        try:
            key = _cache_key(one)
            if key not in seen:
                seen.add(key)
                size = one._cache_size
                total += size() if callable(size) else size  # the function of pmap (until 0.9) has a plain number
        except Exception:
            guard.failed("cache")
    return total


def _cache_key(jitted: Any) -> tuple[Any, ...]:
    info = getattr(jitted, "_jit_info", None)
    if info is None:
        return (id(jitted),)
    kind: Any = type(info)
    return (id(jitted._fun), *_reader_of_key(kind)(info))


@functools.cache
def _reader_of_key(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads these parts from JAX's `PjitInfo`, as far as it has them."""
    return reader(tuple([name for name in KEY_FIELDS if hasattr(kind, name)]))
