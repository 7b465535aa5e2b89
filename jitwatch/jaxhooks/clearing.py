"""Sees when the job empties JAX's caches: `jax.clear_caches()` and `f.clear_cache()`.

The first is replaced where users find it, in the module `jax`; code that imported the name before is not
seen, but then the function's cache has fewer entries, which the diagnosis notices. The second is an
attribute that JAX sets on the class of all jitted functions, anew whenever it makes one, from the
global `jit_evict_fn`; so that global is replaced, and functions made from then on call ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.patcher import Patcher


def watch_clearing(patcher: Patcher, on_cleared: Callable[[], None]) -> None:
    """Call `on_cleared` after each clearing, in the thread that does it."""
    if compat.CLEAR_ALL.missing() is None:
        owner = compat.CLEAR_ALL.resolve()
        patcher.replace(owner, compat.CLEAR_ALL.attribute, _telling(owner.clear_caches, on_cleared))
    if compat.CLEAR_ONE.missing() is None:
        owner = compat.CLEAR_ONE.resolve()
        original = getattr(owner, compat.CLEAR_ONE.attribute)
        telling = _telling(original, on_cleared)
        patcher.replace(owner, compat.CLEAR_ONE.attribute, telling)
        jitted = compat.jitted_class()
        if jitted is not None and jitted.__dict__.get("clear_cache") is original:
            # The very same replacement: JAX may set it again, and restoring must still know it as ours.
            patcher.replace(jitted, "clear_cache", telling)


def _telling(original: Callable[..., Any], on_cleared: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def clear(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        try:
            on_cleared()
        except Exception:
            guard.failed("compile")
        return result

    return clear
