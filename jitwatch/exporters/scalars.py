"""The state as a few numbers for experiment trackers: W&B, TensorBoard, MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "jitwatch/"
#: Copied from the totals.
_TOTALS = (
    "compiles", "recompiles", "failures", "compile_seconds", "lost_seconds", "storms_active", "steady_violations",
    "pitfalls", "donation_violations",
)  # fmt: skip


def scalars_of(now: Mapping[str, Any], memory: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name, such as `jitwatch/recompiles`, from the current figures and memory; no unknown ones."""
    wall_s = now["uptime_seconds"]
    found: dict[str, float | None] = {name: now["totals"][name] for name in _TOTALS}
    if wall_s > 0:
        found["lost_ratio"] = now["totals"]["lost_seconds"] / wall_s
        found["busy_ratio"] = now["busy_seconds"] / wall_s
    found["mean_step_seconds"] = now["mean_step_seconds"]
    devices = [row for row in memory.get("devices", ()) if row["stats_supported"]]
    found["device_memory_in_use_bytes"] = sum(row["in_use_bytes"] for row in devices) if devices else None
    # The fullest device, which runs out first.
    found["device_memory_in_use_ratio"] = max(
        (row["in_use_ratio"] for row in devices if row["in_use_ratio"] is not None), default=None
    )
    found["live_array_bytes"] = (memory.get("live_arrays") or {}).get("bytes")
    found["host_resident_bytes"] = (memory.get("host") or {}).get("resident_bytes")
    return {f"{PREFIX}{name}": float(value) for name, value in found.items() if value is not None}
