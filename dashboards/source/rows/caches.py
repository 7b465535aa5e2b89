"""Jit caches and the persistent compilation cache."""

from __future__ import annotations

from dashboards.source.board import Row
from dashboards.source.common import OF_USER
from dashboards.source.panels import bars, lines
from dashboards.source.queries import rise, select
from dashboards.source.settings import ENTRIES
from jitwatch.model.thresholds import THRESHOLDS

CACHES = Row(
    title="Caches",
    panels=(
        lines(
            "Jit cache entries, by function",
            "Entries in the jit caches of a function, in the process with the most; the ten largest. There is one "
            f"entry for each signature. If a line keeps rising above {THRESHOLDS.cache_entries_warn}, signatures do "
            "not repeat; see the runbook JitwatchCacheGrowth.",
            (f"topk(10, max by (function) ({select('jit_cache_entries', OF_USER)}) > 0)", "{{function}}"),
            of=select("jit_cache_entries", OF_USER),
            none="no function has compiled",
            steps=ENTRIES,
            width=8,
        ),
        bars(
            "Calls of jax.jit",
            "Calls of `jax.jit` in each interval, by the function whose code they get; the ten largest. After start-up "
            "there should be none: bars mean that jax.jit is called in a loop.",
            (f"topk(10, {rise('jit_wrappers_total', 'function')} > 0)", "{{function}}"),
            of=select("jit_wrappers_total"),
            none="no call in this time range",
            width=8,
        ),
        bars(
            "Persistent compilation cache",
            "Hits of JAX's persistent cache in each interval, and misses of the job's functions by reason: "
            "`first_time`, the part of the key that changed (`program`, `xla_flags`, `version`, `topology` …), or why "
            "the program is not written to the cache (`short_compile` …). The page of the process and `jitwatch "
            "report` show what changed. Misses of JAX's own programs have no reason and are left out.",
            (rise("persistent_cache_hits_total", "job"), "hits"),
            (f"{rise('persistent_cache_miss_reasons_total', 'reason')} > 0", "{{reason}}"),
            of=select("persistent_cache_misses_total"),
            none="not in use in this time range",
            width=8,
        ),
    ),
)
