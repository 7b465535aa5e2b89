"""The HTML of the agent's handle in a notebook: the state in a few lines, without style sheet or script."""

from __future__ import annotations

from html import escape
from typing import Any

from jitwatch.render import formats, summary
from jitwatch.state.schema import FunctionRow

_TOP = 8
_MARK = {"good": "●", "busy": "◐", "warn": "▲", "bad": "■"}


def html_of(state: Any, url: str | None) -> str:
    """Health, totals and the slowest functions as a fragment of HTML.

    Args:
        state: As `snapshot()` returns it; empty if no agent was installed.
        url: Address of the page; None if it is not served.
    """
    if not state:
        return "<p><b>jitwatch</b> is off: no agent runs in this process.</p>"
    health = state.get("health")
    verdict = f"{_MARK.get(health['level'], '')} {health['sentence']} " if health else ""
    link = _link(url) if url else " ended"
    rows = [row for row in state["functions"] if row["compiles"] or row["failures"]]
    table = "".join(map(_row, rows[:_TOP]))
    head = "".join(f"<th>{name}</th>" for name in ("function", "compiles", "recompiles", "seconds", "lost", "causes"))
    more = f"<p>… and {formats.count(len(rows) - _TOP, 'function')} more</p>" if len(rows) > _TOP else ""
    return f"<p><b>jitwatch</b>{link}<br>{escape(verdict)}{escape(summary.one_line(state))}</p>" + (
        f"<table><thead><tr>{head}</tr></thead><tbody>{table}</tbody></table>{more}" if rows else ""
    )


def _link(url: str) -> str:
    """The page's address, as a link if it is HTTP."""
    if not url.startswith(("http://", "https://")):
        return f" {escape(url)}"
    return f' <a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'


def _row(row: FunctionRow) -> str:
    causes = ", ".join(f"{number} {cause}" for cause, number in sorted(row["causes"].items(), key=lambda one: -one[1]))
    lost = formats.seconds(row["lost_seconds"]) if row["lost_seconds"] else "–"
    cells = (row["function"], row["compiles"], row["recompiles"], formats.seconds(row["seconds"]), lost, causes or "–")
    return f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
