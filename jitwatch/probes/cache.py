"""Jit caches: entries by function, how often each function was jitted, the global C++ caches.

Read from JAX's own counters; wrappers of one function that share a cache count once. An entry is not a compile: a call
of a cached program with numpy or committed arrays adds one as well, and `clear_caches()` removes it. A function that
was jitted before the agent was installed is included from its next cache miss on. Cost: nothing on a call, and about 1
µs per jitted function at a scrape.

    jitwatch_jit_cache_entries{function="train.train_step"} 2.0
    jitwatch_jit_wrappers_total{function="train.train_step"} 1.0
    jitwatch_jit_global_cache_entries 34.0
"""

from __future__ import annotations

from jitwatch.jaxhooks import compat
from jitwatch.model.events import FunctionWrapped
from jitwatch.model.function import Function
from jitwatch.probes.probe import Probe

#: Number of jitted functions up to which entries are read at each scrape.
_MAX_AT_SCRAPE = 2_000


class CacheProbe(Probe):
    """Counts wrappers when they are created, and reads cache sizes."""

    name = "cache"

    def start(self) -> None:
        self.context.session.watch_wrappers(self._wrapped, self.context.store.know)

    def refresh(self) -> None:
        if len(self.context.session.wrappers) <= _MAX_AT_SCRAPE:
            self.sample()

    def sample(self) -> None:
        store = self.context.store
        store.set_by_function("jit_cache_entries", self.context.session.wrappers.entries())
        total = compat.global_cache_entries()
        if total is not None:
            store.set("jit_global_cache_entries", total)

    def _wrapped(self, function: Function, mutable_defaults: tuple[str, ...]) -> None:
        if not mutable_defaults:
            # Only counted: nothing is diagnosed or logged, and it happens at every call of `jax.jit`.
            self.context.store.apply(FunctionWrapped(function=function))
            return
        site = self.context.session.call_site()[0]
        self.context.emit(FunctionWrapped(function=function, mutable_defaults=mutable_defaults, call_site=site))
