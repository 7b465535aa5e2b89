"""Jit caches and the persistent compilation cache of a run."""

from __future__ import annotations

from dashboards.source.common import OF_USER
from dashboards.source.model import Row
from dashboards.source.panels import series, stat
from dashboards.source.queries import RATE, rise, select
from dashboards.source.settings import ENTRIES, SECONDS, SHARE
from jitwatch.model.thresholds import THRESHOLDS

_HITS = f"sum(increase({select('persistent_cache_hits_total')}[$__range]))"
_MISSES = f"sum(increase({select('persistent_cache_misses_total')}[$__range]))"

CACHES = Row(
    title="Caches",
    panels=(
        series(
            "Jit cache entries, by function",
            "Entries in the jit caches of a function, in the process with most; the ten largest. One for each "
            f"signature is normal. If a line keeps growing above {THRESHOLDS.cache_entries_warn}, see the runbook "
            "JitwatchCacheGrowth.",
            (f"topk(10, max by (function) ({select('jit_cache_entries', OF_USER)}) > 0)", "{{function}}"),
            steps=ENTRIES,
        ),
        series(
            "Jit caches and functions of a process",
            "Entries in JAX's global jit caches and distinct jitted functions, in the process with most. If the number "
            "of functions keeps growing, functions are defined in a loop.",
            (f"max({select('jit_global_cache_entries')})", "global cache entries"),
            (f"max({select('tracked_functions')})", "functions"),
        ),
        series(
            "Calls of jax.jit",
            "Calls of `jax.jit` in each interval, by function. After start-up there should be none: bars show a "
            "`jax.jit` in a loop or in a function that is called often.",
            (f"topk(10, {rise('jit_wrappers_total', 'function')}) > 0", "{{function}}"),
            as_bars=True,
            width=9,
            no_value="no call in this time range",
        ),
        series(
            "Persistent compilation cache",
            "Hits and misses of JAX's persistent compilation cache. If there are only misses after a restart, the "
            "cache folder is not shared, or the cache key changes with each run.",
            (f"sum(increase({select('persistent_cache_hits_total')}{RATE}))", "hits"),
            (f"sum(increase({select('persistent_cache_misses_total')}{RATE}))", "misses"),
            as_bars=True,
            width=9,
        ),
        stat(
            "Persistent cache hit rate",
            "Hits as a share of hits and misses in this time range. If it is low after the first run of a program, "
            "check `jax_compilation_cache_dir`.",
            f"{_HITS} / ({_HITS} + {_MISSES} > 0)",
            unit=SHARE,
            no_value="not in use",
            decimals=0,
        ),
        stat(
            "Compile time saved",
            "Compile seconds saved by hits of the persistent cache since the start, as estimated by JAX.",
            f"sum({select('persistent_cache_saved_seconds_total')})",
            unit=SECONDS,
        ),
    ),
)
