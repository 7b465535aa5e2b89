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
            "Entries in the jit caches of a function, in the process that has most; the ten largest. One for each "
            "signature is normal. A line that climbs without end, above "
            f"{THRESHOLDS.cache_entries_warn}, is memory that is never freed: see JitwatchCacheGrowth.",
            (f"topk(10, max by (function) ({select('jit_cache_entries', OF_USER)}) > 0)", "{{function}}"),
            steps=ENTRIES,
        ),
        series(
            "Jit caches and functions of a process",
            "Entries of JAX's global caches and the number of different functions that were jitted, in the process "
            "that has most. Functions that climb mean code that is made anew: lambdas or closures in a loop.",
            (f"max({select('jit_global_cache_entries')})", "global cache entries"),
            (f"max({select('tracked_functions')})", "functions"),
        ),
        series(
            "Functions jitted again",
            "How often code was passed to `jax.jit`, by function. After the start there should be no bars: bars are a "
            "`jax.jit` inside of a loop or of a function that is called often.",
            (f"topk(10, {rise('jit_wrappers_total', 'function')}) > 0", "{{function}}"),
            as_bars=True,
            width=9,
            no_value="nothing was jitted in this time range",
        ),
        series(
            "Persistent compilation cache",
            "Compiles that JAX's persistent cache answered, and those that it did not know. Only misses after a "
            "restart mean that the cache's folder is not shared, or that something in the key changes with each run.",
            (f"sum(increase({select('persistent_cache_hits_total')}{RATE}))", "hits"),
            (f"sum(increase({select('persistent_cache_misses_total')}{RATE}))", "misses"),
            as_bars=True,
            width=9,
        ),
        stat(
            "Persistent cache hit rate",
            "Share of compiles in this time range that the persistent cache answered. Low after the first run of a "
            "program: check `jax_compilation_cache_dir`.",
            f"{_HITS} / ({_HITS} + {_MISSES} > 0)",
            unit=SHARE,
            no_value="not in use",
            decimals=0,
        ),
        stat(
            "Saved by the cache",
            "Compile seconds that hits of the persistent cache saved since the start, as JAX estimates.",
            f"sum({select('persistent_cache_saved_seconds_total')})",
            unit=SECONDS,
        ),
    ),
)
