"""The conditions of `--fail-on`: a figure of the report, an operator and a limit. Nothing is evaluated as code."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import names
from jitwatch.report.compare import RunComparison
from jitwatch.report.document import Document, Row

#: Names in a condition: about the totals or a function, and about one of them.
_BOTH = (
    "recompiles", "compiles", "failures", "compile_seconds", "lost_seconds", "lost_ratio", "storms", "pitfalls",
    "donation_violations", "steady_violations",
)  # fmt: skip
_OF_TOTALS = (
    *_BOTH, "leaks", "oom", "pressure", "jax_compiles", "jax_compile_seconds", "busy_ratio", "missing_events",
    "persistent_cache_misses",
)  # fmt: skip
_OF_FUNCTION = (*_BOTH, "cache_entries")
#: Names that are available only with `--against`.
_COMPARED = ("more_recompiles", "more_lost_seconds")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_MAX_FUNCTIONS = 5
# A label may have colons (`train.<lambda>@train.py:88`), so the name is what follows the last one.
_EXPRESSION = re.compile(
    r"^\s*(?:(?P<function>\S.*):)?\s*(?P<name>\w+)\s*(?P<op>[<>=!]=|[<>])\s*(?P<limit>[-+.\w]+)\s*$", re.ASCII
)


class ExpressionError(ValueError):
    """An invalid condition; the message lists the valid names."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a run; if it is true, the command fails.

    It is about the totals, or about a function: its label, the end of one, or a pattern.
    """

    text: str
    function: str | None
    name: str
    op: str
    limit: float

    def findings(self, document: Document, comparison: RunComparison | None) -> list[str]:
        """Texts with the values for which the condition is true; all figures of a function not in the log are 0."""
        compare = _OPERATORS[self.op]
        if self.function is None:
            value = _of_totals(self.name, document, comparison)
            return [f"the value is {_shown(value)}"] if compare(value, self.limit) else []
        rows = matching(self.function, document)
        values = [(row["function"], _of_row(row, self.name)) for row in rows] or [(self.function, 0)]
        found = [f"{_shown(value)} in {label}" for label, value in values if compare(value, self.limit)]
        if len(found) > _MAX_FUNCTIONS:
            found[_MAX_FUNCTIONS:] = [f"and in {len(found) - _MAX_FUNCTIONS:,} more functions"]
        return found


def parse(text: str, *, is_compared: bool) -> Condition:
    """Parse `NAME OP NUMBER` or `FUNCTION:NAME OP NUMBER`; raises ExpressionError if it is invalid."""
    found = _EXPRESSION.match(text)
    if found is None:
        raise ExpressionError(
            f"invalid condition {text!r}: expected NAME OP NUMBER with one of {' '.join(_OPERATORS)}, such as "
            f"'recompiles > 0' or 'train.step:recompiles > 2'. {_names(is_compared)}"
        )
    function, name = found["function"], found["name"]
    known = _OF_FUNCTION if function is not None else (*_OF_TOTALS, *_COMPARED)
    if name not in known:
        raise ExpressionError(f"invalid condition {text!r}: unknown name {name!r}. {_names(is_compared)}")
    if function is None and name in _COMPARED and not is_compared:
        raise ExpressionError(f"invalid condition {text!r}: {name} needs another run to compare with (--against)")
    try:
        limit = float(found["limit"])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ExpressionError(f"invalid condition {text!r}: {found['limit']!r} is not a number")
    return Condition(text.strip(), function.strip() if function is not None else None, name, found["op"], limit)


def matching(function: str, document: Document) -> list[Row]:
    """The rows that match a function's name or pattern; JAX's own only by its label."""
    rows = document["functions"]
    if function != JAX_LABEL:
        rows = [row for row in rows if row["function"] != JAX_LABEL]
    return names.matching(function, rows)


def _of_totals(name: str, document: Document, comparison: RunComparison | None) -> float:
    if comparison is not None and name in _COMPARED:
        return comparison["more_recompiles"] if name == "more_recompiles" else comparison["more_lost_seconds"]
    return float(document["totals"]["out_of_memory" if name == "oom" else name])


def _of_row(row: Row, name: str) -> float:
    value = row["seconds" if name == "compile_seconds" else name]
    return float(sum(value.values()) if isinstance(value, dict) else value or 0)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def _names(is_compared: bool) -> str:
    compared = f", {', '.join(_COMPARED)}" if is_compared else f" (with --against also {', '.join(_COMPARED)})"
    return f"Names: {', '.join(_OF_TOTALS)}{compared}; of a function: {', '.join(_OF_FUNCTION)}"
