"""Every jitted function of the process, weakly: who was jitted, how often, how full its caches are.

`_cpp_pjit` makes each of them, whichever name of `jit` the code used and whenever it was imported,
so replacing that one global registers them all. It hands JAX's own object on, but for functions that
donate. Those made before installing are known from their next call that misses the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jitwatch import guard
from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.identity.call_site import frame_of_jax, is_users
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.identity.jax_functions import jitted_at
from jitwatch.jaxhooks.instrument import Observer, Replaced
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function
from jitwatch.model.signature import Value

#: Wrappers of one function that may be asked for their cache size in the job's thread.
_MAX_ASKED = 20
#: Functions known by source; start-up of a big job knows thousands.
_MAX_SOURCES = 10_000
#: Functions whose caches are read; above it the dead are forgotten, and then no more are taken in.
_MAX_LABELS = 2_000
#: Parts of JAX's cache key besides the function: wrappers that agree in them share one cache.
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
    """The registry.

    Args:
        identities: Names the functions.
        on_wrapped: Told of each function that is passed to `jax.jit`, and of its mutable default values.
        on_seen: Called with each function at its first call.
    """

    def __init__(
        self,
        *,
        identities: Identities,
        on_wrapped: Callable[[Function, tuple[str, ...]], None],
        on_seen: Callable[[Function], None],
    ) -> None:
        self._identities = identities
        self._on_wrapped = on_wrapped
        self._on_seen = on_seen
        #: The living jitted objects of each function, by its label.
        self._by_label: dict[str, WeakIdMap[None]] = {}
        #: Those of which only a call can tell the function.
        self._unresolved: WeakIdMap[None] = WeakIdMap()
        #: What was passed to `jax.jit` since we came, and whether it was called.
        self._created: WeakIdMap[bool] = WeakIdMap()
        #: What was jitted before, with JAX's options for it, as far as calls showed it.
        self._older: WeakIdMap[tuple[Any, Function]] = WeakIdMap()
        #: Functions by the text that JAX keeps of them in jaxprs (`name at file:line`).
        self._sources: dict[str, Function] = {}
        self._holders: dict[str, tuple[str, str]] = {}
        self._create: Callable[..., Any] | None = None
        #: Says what to hand out for an object that JAX made, told also its function, options and name.
        self.hand_out: Callable[[Any, Any, Any, Function | None], Any] | None = None

    def install(self, patcher: Patcher) -> None:
        """Register what is jitted from now on; does nothing the second time.

        Raises:
            UnsupportedJaxError: The private hook is missing.
        """
        if self._create is not None:
            return
        reason = compat.CREATE.missing()
        if reason is not None:
            raise UnsupportedJaxError(reason)
        self._create = patcher.instrument(compat.CREATE.get(), _Create(self))
        if compat.PMAP_CREATE.missing() is None:
            patcher.instrument(compat.PMAP_CREATE.get(), _PmapCreate(self))

    def called(self, fun: Any, jit_info: Any, function: Function) -> None:
        """A call of `fun` missed JAX's cache; remember it if it was jitted before we came.

        The jitted object itself is not at hand then, and searching for it with `gc.get_objects()` is
        not safe while other threads run: a tuple they are just building may not be referenced
        (SystemError in their code). Its function and options are enough to read its cache.
        """
        if function.is_internal:
            return
        if self._created.get(fun) is False:
            self._created.set(fun, True)
            self._on_seen(function)
        elif self._created.get(fun) is None and self._older.get(fun) is None:
            # Without the signature: its default values may lead back to the function and keep it alive.
            self._older.set(fun, (jit_info._replace(fun_signature=None), function))
            self._on_seen(function)

    def resolved(self, fun: Any, function: Function) -> None:
        """A call showed which function `fun` is."""
        for jitted, _ in self._unresolved.items():
            if getattr(jitted, "_fun", None) is fun:
                self._unresolved.remove(jitted)
                self._register(jitted, function)
                self._on_wrapped(function, ())

    def entries(self) -> dict[str, int]:
        """Cache entries by function label; caches that several wrappers share count once."""
        found = {label: _entries(one for one, _ in jitted.items()) for label, jitted in list(self._by_label.items())}
        for fun, (jit_info, function) in self._older.items():
            found[function.label] = found.get(function.label, 0) + _entries(self._twin(fun, jit_info))
        return found

    def entries_of(self, function: Function) -> int | None:
        """Cache entries of one function, or None when it has too many wrappers to ask in the job's thread."""
        if function.is_internal:
            return None
        known = self._by_label.get(function.label)
        jitted = [one for one, _ in known.items()] if known is not None else []
        older = [(fun, jit_info) for fun, (jit_info, one) in self._older.items() if one.label == function.label]
        if not 0 < len(jitted) + len(older) <= _MAX_ASKED:
            return None
        return _entries([*jitted, *(twin for fun, jit_info in older for twin in self._twin(fun, jit_info))])

    def remember_statics(self, function: Function, statics: Iterable[tuple[str, Value]]) -> None:
        """Know which static argument keeps arrays alive: an entry of the cache holds each of its values."""
        for name, value in statics:
            if value.holds_arrays and len(self._holders) < _MAX_LABELS:
                self._holders[function.label] = (name, value.type)

    def holders(self) -> dict[str, tuple[str, str]]:
        """Name and class of the static argument that keeps arrays alive, by function label."""
        return dict(self._holders)

    def remember_source(self, source: Any, function: Function) -> None:
        """Know a function by JAX's text for where it comes from; the text of those without source says nothing."""
        if isinstance(source, str) and " at " in source and len(self._sources) < _MAX_SOURCES:
            self._sources[source] = function

    def by_source(self, source: Any) -> Function | None:
        """The function that JAX's text stands for, or None."""
        return self._sources.get(source) if isinstance(source, str) else None

    def forget(self) -> None:
        """Let go of everything; nothing of the job's is referenced afterwards, not even weakly."""
        self._by_label = {}
        self._sources = {}
        self._holders = {}
        self.hand_out = None
        for known in (self._unresolved, self._created, self._older):
            known.clear()

    def __len__(self) -> int:
        return sum(len(jitted) for jitted in list(self._by_label.values())) + len(self._older)

    def _twin(self, fun: Any, jit_info: Any) -> list[Any]:
        """A second jitted object for the same function and options, which shares the first one's cache."""
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
                self._by_label = {label: living for label, living in self._by_label.items() if len(living)}
            if len(self._by_label) >= _MAX_LABELS:
                return
            jitted_of = self._by_label.setdefault(function.label, WeakIdMap())
        jitted_of.set(jitted, None)

    def made(self, fun: Any, options: Any, jitted: Any) -> Any:
        """JAX has made a jitted object; the answer is what to hand out for it.

        Args:
            fun: What was passed to `jax.jit`.
            options: A `PjitInfo`, or a dict for pmap's own path.
            jitted: JAX's object.
        """
        function = self._identities.of(fun)
        if function is not None and function.is_internal:
            frame = jitted_at(frame_of_jax(), self._identities.jax_folders)
            function = self._identities.adopt(fun, frame) if frame is not None else function
        self._created.set(fun, False)
        self._register(jitted, function)
        if function is not None:
            mutable: tuple[str, ...] = ()
            if not function.is_internal and not isinstance(options, dict):
                self.remember_source(getattr(options, "fun_sourceinfo", None), function)
                mutable = self._mutable_defaults(function, getattr(options, "fun_signature", None))
            self._on_wrapped(function, mutable)
        handed_out = self.hand_out(jitted, fun, options, function) if self.hand_out is not None else None
        return jitted if handed_out is None else handed_out

    def _mutable_defaults(self, function: Function, signature: Any) -> tuple[str, ...]:
        """Parameters of the user's function whose default value has no hash: a list, a dict, an array."""
        names = tuple(
            name
            for name, parameter in getattr(signature, "parameters", {}).items()
            if parameter.default is not parameter.empty and type(parameter.default).__hash__ is None
        )
        file = (function.location or "").rpartition(":")[0]
        return names if names and is_users(file, self._identities.jax_folders) else ()


class _Create(Observer):
    component = "cache"

    def __init__(self, wrappers: Wrappers) -> None:
        self._wrappers = wrappers

    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args[:2]

    def ended(self, state: Any, result: Any) -> Replaced | None:
        fun, options = state
        handed_out = self._wrappers.made(fun, options, result)
        return Replaced(handed_out) if handed_out is not None else None


class _PmapCreate(_Create):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args[0], kwargs


def _entries(jitted: Iterable[Any]) -> int:
    total = 0
    seen: set[tuple[Any, ...]] = set()
    for one in jitted:
        try:
            key = _cache_key(one)
            if key not in seen:
                seen.add(key)
                size = one._cache_size
                total += size() if callable(size) else size  # pmap's own function (until 0.9) has a plain number
        except Exception:
            guard.failed("cache")
    return total


def _cache_key(jitted: Any) -> tuple[Any, ...]:
    info = getattr(jitted, "_jit_info", None)
    if info is None:
        return (id(jitted),)
    return (id(jitted._fun), *(getattr(info, name, None) for name in KEY_FIELDS))
