"""Every jitted function of the process, weakly: who was jitted, how often, how full its caches are.

`_cpp_pjit` makes each of them, whichever name of `jit` the code used and whenever it was imported,
so replacing that one global registers them all and hands JAX's own object on. Those made before
installing are found once by the garbage collector's list, off the training thread.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.events import Function
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.identity import Identities
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.weak import WeakIdMap

#: Wrappers of one function that may be asked for their cache size in the job's thread.
_MAX_ASKED = 100
#: Parts of JAX's cache key besides the function: wrappers that agree in them share one cache.
_KEY_FIELDS = (
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
        on_wrapped: Told of each function of the user that is passed to `jax.jit`.
    """

    def __init__(self, *, identities: Identities, on_wrapped: Callable[[Function], None]) -> None:
        self._identities = identities
        self._on_wrapped = on_wrapped
        #: The living jitted objects of each function, by its label.
        self._by_label: dict[str, WeakIdMap[None]] = {}
        #: Those of which only a call can tell the function.
        self._unresolved: WeakIdMap[None] = WeakIdMap()

    def install(self, patcher: Patcher) -> None:
        """Register what is jitted from now on."""
        owner = compat.CREATE.resolve()
        patcher.replace(owner, compat.CREATE.attribute, self._wrap(getattr(owner, compat.CREATE.attribute)))
        if compat.has_pmap_path():
            owner = compat.PMAP_CREATE.resolve()
            create = getattr(owner, compat.PMAP_CREATE.attribute)
            patcher.replace(owner, compat.PMAP_CREATE.attribute, self._wrap(create))

    def scan(self) -> list[Function]:
        """Register the jitted functions that exist already, and name them. Walks all objects: not per call."""
        jitted_types = _jitted_types()
        found: dict[str, Function] = {}
        for jitted in [one for one in gc.get_objects() if type(one) in jitted_types]:
            fun = getattr(jitted, "_fun", None)
            if fun is not None:
                function = self._identities.of(fun)
                self._register(jitted, function)
                if function is not None:
                    found[function.label] = function
        return list(found.values())

    def resolved(self, fun: Any, function: Function) -> None:
        """A call showed which function `fun` is."""
        for jitted, _ in self._unresolved.items():
            if getattr(jitted, "_fun", None) is fun:
                self._unresolved.remove(jitted)
                self._register(jitted, function)
                self._on_wrapped(function)

    def entries(self) -> dict[str, int]:
        """Cache entries by function label; caches that several wrappers share count once."""
        return {label: _entries(jitted) for label, jitted in list(self._by_label.items())}

    def entries_of(self, label: str) -> int | None:
        """Cache entries of one function, or None when it has too many wrappers to ask in the job's thread."""
        jitted = self._by_label.get(label)
        return _entries(jitted) if jitted is not None and len(jitted) <= _MAX_ASKED else None

    def __len__(self) -> int:
        return sum(len(jitted) for jitted in list(self._by_label.values()))

    def _register(self, jitted: Any, function: Function | None) -> None:
        if function is None:
            self._unresolved.set(jitted, None)
            return
        self._by_label.setdefault(function.label, WeakIdMap()).set(jitted, None)

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def create(fun: Any, *args: Any, **kwargs: Any) -> Any:
            jitted = original(fun, *args, **kwargs)
            try:
                function = self._identities.of(fun)
                self._register(jitted, function)
                if function is not None:
                    self._on_wrapped(function)
            except Exception:
                guard.failed("cache")
            return jitted

        return create


def _entries(jitted: WeakIdMap[None]) -> int:
    total = 0
    seen: set[tuple[Any, ...]] = set()
    for one, _ in jitted.items():
        try:
            key = _cache_key(one)
            if key not in seen:
                seen.add(key)
                size = one._cache_size
                total += size() if callable(size) else size  # pmap's own function (until 0.9) has a plain number
        except Exception:
            guard.failed("cache")
    return total


def _jitted_types() -> tuple[type, ...]:
    """The C++ types of jitted functions: `PjitFunction`, and until 0.9 `PmapFunction`."""
    module = sys.modules.get("jaxlib._jax")
    found = (getattr(module, "PjitFunction", None), getattr(getattr(module, "pmap_lib", None), "PmapFunction", None))
    return tuple(one for one in found if isinstance(one, type))


def _cache_key(jitted: Any) -> tuple[Any, ...]:
    info = getattr(jitted, "_jit_info", None)
    if info is None:
        return (id(jitted),)
    return (id(jitted._fun), *(getattr(info, name, None) for name in _KEY_FIELDS))
