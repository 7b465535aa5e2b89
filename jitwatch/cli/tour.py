"""The tour of the demo: every known mistake once, on purpose, what the agent says of it, and where to look."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import Any

import jitwatch
from jitwatch.render import summary, words

_INDENT = "    "
#: What else will be seen when the mistake is made.
_BEFORE = {"double_donation": "(XLA writes an error of its own for it, which is as it should be.)"}
#: Where on the page a mistake is best seen; all of them are in the list of what to change.
_WHERE = {
    "static_arg_churn": "'Functions', column 'Recompiles': click warmed_up for each change, before → after",
    "shape_churn": "'Functions': click token_loss for the sizes that it was given",
    "eager_churn": "'Functions': the line <eager>@mistakes.py",
    "compile_during_steady": "'Compiles over time': the mark above the bars",
    "use_after_donate": "'Donation violations': where it was used, and which call had donated it",
    "growing_cache": "the sentence at the top, and 'Functions', column 'Cache entries'",
}


def misbehave(watch: jitwatch.Watch, *, check: Callable[[], None]) -> None:
    """Commit every mistake, and say of each what it was, what the agent made of it, and where to look.

    Args:
        watch: The agent.
        check: Called before each one; an exception of it ends the tour.
    """
    from jitwatch.demo.mistakes import MISTAKES

    where = f"{watch.url}/ shows them as they come, each with its fix under 'What to change'." if watch.url else ""
    print(f"{_wrapped(f'Now the known mistakes, each once, on purpose. {where}')}\n")
    for number, mistake in enumerate(MISTAKES, 1):
        check()
        name = mistake.__name__
        print(_wrapped(f"{number:2d}. {name}: {(mistake.__doc__ or '').partition(chr(10))[0]}"), flush=True)
        if name in _BEFORE:
            print(f"{_INDENT}{_BEFORE[name]}", flush=True)
        mistake()
        print(_paragraph(_said(watch.snapshot(), name)))
        if name in _WHERE and watch.url:
            print(_wrapped(f"{_INDENT}On the page: {_WHERE[name]}"))
        print(flush=True)


def _said(state: dict[str, Any], name: str) -> str:
    """What the agent says of a mistake that was just made."""
    found = [one for one in state["pitfalls"] if one["pitfall"] == name]
    if not found:
        return summary.caches(state) or "nothing yet"
    last = found[-1]
    place = words.place(last["call_site"] or last["location"])
    return words.sentences(f"{place}: {last['message']}", last["advice"])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, words.columns(sys.stdout), subsequent_indent=_INDENT, break_long_words=False)


def _paragraph(text: str) -> str:
    return textwrap.fill(
        text,
        words.columns(sys.stdout),
        initial_indent=f"{_INDENT}→ ",
        subsequent_indent=f"{_INDENT}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
