"""Puts values for a board's variables into its queries, as Grafana's Prometheus data source does (11 and newer).

For tests and pictures: what they ask Prometheus is then what Grafana would ask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_SPECIAL = re.compile(r"[$^*{}\[\]'+?.()|]")
_LABEL_VALUES = re.compile(r"^label_values\((?P<selector>.*), *(?P<label>\w+)\)$", re.DOTALL)


class UnknownVariableError(KeyError):
    """A query names a variable that its board does not have."""


def substitute(
    query: str,
    chosen: Mapping[str, Sequence[str]],
    board: Mapping[str, Any],
    *,
    rate_interval: str = "1m",
    interval_s: int = 60,
    time_range: str = "1h",
) -> str:
    """Put values in the place of variables.

    Args:
        query: PromQL or `label_values(…)` with variables.
        chosen: Values of variables; one that is missing is at 'All'.
        board: The board's JSON, which says what 'All' stands for.
        rate_interval: What `$__rate_interval` is.
        interval_s: The step, which is `$__interval`.
        time_range: What `$__range` is.

    Raises:
        UnknownVariableError: The board has no such variable.
    """
    all_values = {
        variable["name"]: variable["allValue"]
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    }

    def value_of(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name == "__rate_interval":
            return rate_interval
        if name == "__interval":
            return f"{interval_s}s"
        if name == "__interval_ms":
            return str(1000 * interval_s)
        if name == "__range":
            return time_range
        if name not in all_values:
            raise UnknownVariableError(name)
        values = chosen.get(name)
        if not values:
            return str(all_values[name])
        escaped = [_escape(value) for value in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return _VARIABLE.sub(value_of, query)


def _escape(value: str) -> str:
    """A value as part of a regular expression, within a string of PromQL."""
    escaped = value.replace("\\", "\\\\\\\\").replace('"', '\\\\\\"')
    return _SPECIAL.sub(lambda found: "\\\\" + found[0], escaped)


def label_values(query: str) -> tuple[str, str]:
    """Selector and label of a variable's query `label_values(selector, label)`."""
    found = _LABEL_VALUES.match(query)
    if found is None:
        raise ValueError(f"not of the form label_values(selector, label): {query}")
    return found["selector"], found["label"]


def panels_of(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All panels of a board, those in closed rows too, without the rows."""
    found: list[dict[str, Any]] = []
    for panel in board["panels"]:
        found += panel["panels"] if panel["type"] == "row" else [panel]
    return found
