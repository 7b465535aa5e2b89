"""The page at `/`: plain HTML rendered from the state, with nothing to load and no script."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Mapping, Sequence
from string import Template
from typing import Any, Final

#: Rows shown; the rest is in the API. A page that reloads must stay small.
MAX_ROWS: Final = 200
_REFRESH_S: Final = 5
_MISSING: Final = "–"
_COLUMNS: Final = (
    ("compiles", "Compiles"),
    ("recompiles", "Recompiles"),
    ("failures", "Failures"),
    ("seconds", "Seconds"),
    ("cache_entries", "Cache entries"),
)

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="$refresh">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$run · jitwatch</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent);
  padding: .3rem .6rem; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td:first-child { overflow-wrap: anywhere; }
small { opacity: .7; }
tr.hot td { font-weight: 600; }
.scroll { overflow-x: auto; }
</style>
</head>
<body>
<h1>jitwatch $version</h1>
<p>Run <b>$run</b>, up $uptime. $totals</p>
<div class="scroll">
<table>
<caption>Compiled functions, the costliest first; those that recompiled are bold</caption>
<thead><tr><th scope="col">Function</th>$columns</tr></thead>
<tbody>
$rows
</tbody>
</table>
</div>
<p>$more</p>
<p><a href="metrics">Metrics</a> · <a href="api/v1/state">State (JSON)</a> ·
<a href="api/v1/events?since=0">Events (JSON)</a> · <a href="healthz">Health</a></p>
<p><small>This page reloads every $refresh seconds.</small></p>
</body>
</html>
""")


def render_page(state: Mapping[str, Any], *, clock: Callable[[], float] = time.time) -> bytes:
    """Render the state as a self-contained page.

    Args:
        state: As `GET /api/v1/state` shows it; whatever is missing or odd is shown as a dash.
        clock: Unix time in seconds.
    """
    functions = _functions(state)
    rows = "\n".join(_row(function) for function in functions[:MAX_ROWS])
    hidden = len(functions) - MAX_ROWS
    page = _PAGE.substitute(
        refresh=_REFRESH_S,
        version=_text(state.get("version")),
        run=_text(state.get("run")),
        uptime=_uptime(state.get("start_time_seconds"), clock()),
        totals=_totals(state.get("totals")),
        columns="".join(f'<th scope="col" class="n">{title}</th>' for _, title in _COLUMNS),
        rows=rows or f'<tr><td colspan="{len(_COLUMNS) + 1}">No function was compiled yet.</td></tr>',
        more=f"{hidden} more functions are in the state." if hidden > 0 else "",
    )
    return page.encode("utf-8", "replace")


def _functions(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = state.get("functions")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    functions = [function for function in listed if isinstance(function, Mapping)]
    return sorted(functions, key=lambda function: _number(function.get("seconds")), reverse=True)


def _row(function: Mapping[str, Any]) -> str:
    location = function.get("location")
    where = f"<br><small>{_text(location)}</small>" if location else ""
    cells = "".join(f'<td class="n">{_figure(function.get(key))}</td>' for key, _ in _COLUMNS)
    hot = ' class="hot"' if _number(function.get("recompiles")) > 0 else ""
    return f"<tr{hot}><td>{_text(function.get('function'))}{where}</td>{cells}</tr>"


def _totals(totals: object) -> str:
    if not isinstance(totals, Mapping):
        return ""
    shown = [f"{title.lower()} {_figure(totals[key])}" for key, title in _COLUMNS if key in totals]
    return f"In all: {', '.join(shown)}." if shown else ""


def _uptime(started: object, now: float) -> str:
    start = _number(started)
    if start <= 0:
        return _MISSING
    minutes, seconds = divmod(max(0, int(now - start)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join([f"{amount} {unit}" for amount, unit in parts if amount][:2]) or "0 s"


def _number(value: object) -> float:
    """Return a finite number, 0 for anything else."""
    try:
        number = float(value) if isinstance(value, (int, float)) else 0.0
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if math.isfinite(value) else _MISSING
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _text(value: object) -> str:
    """Escape for element content and attributes; only plain values are shown at all."""
    if isinstance(value, (str, int, float)) and value != "":
        return html.escape(str(value), quote=True)
    return _MISSING
