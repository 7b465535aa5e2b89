"""The tour of `jitwatch demo --misbehave`: runs an example of each pitfall and prints what the agent reports."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import Any

import jitwatch
from jitwatch.render import formats, summary

_INDENT = "    "
#: Other output to expect from an example.
_NOTES = {"double_donation": "(XLA prints its own error message, which is expected.)"}
#: Where on the page a pitfall is shown besides the advice.
_ON_PAGE = {
    "static_arg_churn": "'Functions', column 'Recompiles': click warmed_up for each change, before → after",
    "shape_churn": "'Functions': click token_loss for the sizes of its argument",
    "eager_churn": "'Functions': the row <eager>@pitfalls.py",
    "compile_during_steady": "'Compiles over time': the mark above the bars",
    "use_after_donate": "'Donation violations': where the array was used, and which call donated it",
    "growing_cache": "'Functions', column 'Cache entries'",
}


def run(watch: jitwatch.Watch, *, check: Callable[[], None]) -> None:
    """Run the example of each pitfall, and print its description, what the agent reports, and where to see it.

    Args:
        watch: The agent.
        check: Called before each example; an exception from it ends the tour.
    """
    from jitwatch.demo.pitfalls import EXAMPLES

    page = f"{watch.url}/ shows them as they happen, and what to change under 'Advice'." if watch.url else ""
    print(f"{_wrapped(f'An example of each known pitfall follows. {page}')}\n")
    for number, example in enumerate(EXAMPLES, 1):
        check()
        name = example.__name__
        description = (example.__doc__ or "").partition("\n")[0]
        print(_wrapped(f"{number:2d}. {name}: {description}"), flush=True)
        if name in _NOTES:
            print(f"{_INDENT}{_NOTES[name]}", flush=True)
        example()
        print(_paragraph(_report_of(watch.snapshot(), name)))
        if name in _ON_PAGE and watch.url:
            print(_wrapped(f"{_INDENT}On the page: {_ON_PAGE[name]}"))
        print(flush=True)


def _report_of(state: dict[str, Any], name: str) -> str:
    """What the agent reports about a pitfall whose example just ran."""
    found = [one for one in state["pitfalls"] if one["pitfall"] == name]
    if not found:
        return summary.caches(state) or "not reported yet"
    last = found[-1]
    call_site = formats.file_line(last["call_site"] or last["location"])
    return formats.sentences(f"{call_site}: {last['message']}", last["advice"])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, formats.columns(sys.stdout), subsequent_indent=_INDENT, break_long_words=False)


def _paragraph(text: str) -> str:
    return textwrap.fill(
        text,
        formats.columns(sys.stdout),
        initial_indent=f"{_INDENT}→ ",
        subsequent_indent=f"{_INDENT}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
