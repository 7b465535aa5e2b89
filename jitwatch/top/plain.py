"""A picture as plain text, and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jitwatch.top.frame import Frame
from jitwatch.top.health import verdicts_of
from jitwatch.top.layout import lay_out
from jitwatch.top.lines import plain
from jitwatch.top.tracking import Process

#: Version of the JSON; a name is only ever dropped with a new one.
SCHEMA = 1


def as_text(frame: Frame, columns: int, rows: int) -> str:
    """The picture without styles, a line break at the end, no blanks at the end of a line."""
    return "".join(f"{plain(line)}\n" for line in lay_out(frame, columns, rows))


def as_json(processes: Sequence[Process]) -> str:
    """All figures as one JSON object.

    `{"schema": 1, "time": T, "processes": […]}`, T in Unix seconds, with for each process:

    - `url`; `status`: `live`, `silent` (answered before and does not now), `ended` (nothing listens there any
      more) or `new` (never answered); `quiet_seconds` since its last answer; `problem` in words, or empty.
    - `health`: a list of `{"level": …, "sentence": …}`, the worst first, the level one of `bad`, `warn`,
      `gone`, `busy`, `good`.
    - `figures`: null where it never answered, else the fields of `figures.Figures`: `run`, `process_index`, `pid`,
      `version`, `start_time` (Unix seconds), `uptime_seconds`, `step`, `step_seconds`, `compiling_ratio`, `compiles`,
      `recompiles`, `failures`, `lost_seconds`, `lost_ratio`, `storms_active`, `steady_violations`,
      `donation_violations`, `out_of_memory`, `is_steady`, `memory` (`device`, `in_use_bytes`, `limit_bytes`,
      `is_estimate`; null where nothing is known), `host_resident_bytes`, `pressure` and `leaks` (names), and the lists

      - `in_progress`: `function`, `phase`, `for_seconds`, `is_again`,
      - `functions`: `function`, `location`, `compiles`, `recompiles`, `failures`, `seconds`, `lost_seconds`,
        `lost_ratio`, `cache_entries`, `causes` (number by cause), `is_in_storm`, the costliest first,
      - `newest_recompiles`: `function`, `call_site`, `causes`, `paths`, `recompiles`, `lost_seconds`, `reason`,
        `advice`, `pitfall`, `seconds_ago`, the newest first,
      - `pitfalls`: `pitfall`, `function`, `location`, `call_site`, `message`, `advice`, `lost_seconds`, `timestamp`.

    Ratios are of the process's wall clock. Texts are cleaned of control characters.
    """
    found = {"schema": SCHEMA, "time": time.time(), "processes": [_process(one) for one in processes]}
    return json.dumps(found, indent=2, allow_nan=False)


def _process(one: Process) -> dict[str, Any]:
    return {
        "url": one.url,
        "status": one.status,
        "quiet_seconds": one.quiet_s,
        "problem": one.problem,
        "health": [asdict(verdict) for verdict in verdicts_of(one)],
        "figures": _figures(one),
    }


def _figures(one: Process) -> dict[str, Any] | None:
    if one.figures is None:
        return None
    found = asdict(one.figures)
    del found["health"]
    for row in found["functions"]:
        # Those of a single process cannot differ.
        del row["compiles_spread"], row["recompiles_spread"]
    for row in found["newest_recompiles"]:
        row["seconds_ago"] = row.pop("seen_s_ago")
    found["functions"] = sorted(found["functions"], key=lambda row: (-row["lost_seconds"], -row["seconds"]))
    return found
