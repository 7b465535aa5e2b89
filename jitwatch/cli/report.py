"""`jitwatch report LOG…`: summarizes the event logs of a run as text, JSON or HTML, and checks conditions for CI."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jitwatch.cli.options import add_command, print_error, write
from jitwatch.errors import ConfigError
from jitwatch.render import formats

if TYPE_CHECKING:
    from jitwatch.report.compare import RunComparison
    from jitwatch.report.conditions import Condition
    from jitwatch.report.document import Document

_DESCRIPTION = """Summarize the event logs of a run: which functions recompiled and why, how much time was lost, what to
change, and other problems. Needs only the logs: no JAX, no accelerator and no running job."""
_EPILOG = """examples:
  jitwatch report jitwatch-r1.jsonl                        one process, with its rotated files
  jitwatch report logs/ --format html --output r1.html     all logs of a folder, as an HTML page
  jitwatch report new/ --against old/                      compare with an earlier run
  jitwatch report logs/ --fail-on 'recompiles > 0' --fail-on 'train.step:compiles > 2'

exit codes:
  0  success
  1  a --fail-on condition is met
  2  a log cannot be read, an option is invalid, or a condition names a function that is not in the logs"""
_EXIT_FAILED, _EXIT_INVALID = 1, 2
#: Seconds of reading after which the progress bar appears.
_BAR_AFTER_S = 1.0
_REDRAW_S = 0.2
_MB = 1e6


def add_to(parsers: Any) -> None:
    """Register the command."""
    text = "summarize the event logs of a run, or compare two runs"
    parser = add_command(
        parsers, "report", lambda options: _report(options, parser), text, _DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "logs",
        metavar="LOG",
        nargs="+",
        help="an event log (.jsonl, also .gz) with its rotated files, or a folder with the logs of all processes",
    )
    parser.add_argument(
        "--format", choices=("text", "json", "html"), default="text", help="output format (default: text)"
    )
    parser.add_argument(
        "--against", metavar="LOG", nargs="+", action="extend", help="event logs of an earlier run to compare with"
    )
    parser.add_argument(
        "--fail-on",
        metavar="EXPR",
        action="append",
        default=[],
        help="exit with 1 if this condition is met, such as 'recompiles > 0', 'lost_ratio >= 0.05' or, for the "
        "functions that match a name or pattern, 'train.*:recompiles > 2'; may be repeated",
    )
    parser.add_argument("--output", metavar="FILE", help="write to this file instead of standard output")


def _report(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    # Lazy, as all imports of this command: the other commands do not need them.
    from jitwatch.report import compare, conditions

    try:
        wanted = [conditions.parse(text, is_compared=bool(options.against)) for text in options.fail_on]
    except conditions.ExpressionError as error:
        parser.error(f"argument --fail-on: {error}")
    try:
        document = _read(options.logs)
        before = _read(options.against) if options.against else None
        comparison = compare.compare(document, before) if before is not None else None
        width = formats.columns(sys.stdout) if options.output is None else formats.WIDTH
        write(_rendered(options.format, document, comparison, width), options.output, "the report")
    except ConfigError as error:
        print_error(str(error))
        return _EXIT_INVALID
    return _judge(wanted, document, comparison)


def _read(paths: list[str]) -> Document:
    from jitwatch.report import document, sources
    from jitwatch.report.read import read_logs

    found = sources.find(paths)
    bar = _ProgressBar(sum(source.size for source in found))
    try:
        fold, tally = read_logs(found, on_progress=bar)
    finally:
        bar.end()
    return document.document(fold, tally)


def _rendered(form: str, document: Document, comparison: RunComparison | None, width: int) -> str:
    import json

    from jitwatch.report import html, terminal

    if form == "html":
        return html.render(document, comparison)
    if form == "text":
        return terminal.render(document, comparison, width=width)
    whole = document if comparison is None else {**document, "comparison": comparison}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _judge(wanted: list[Condition], document: Document, comparison: RunComparison | None) -> int:
    """Print which conditions are met, and which match no function of the logs; return the exit code."""
    from jitwatch.render import names
    from jitwatch.report import conditions

    code = 0
    for condition in wanted:
        findings = condition.findings(document, comparison)
        if findings:
            code = code or _EXIT_FAILED
            print_error(f"condition {condition.text!r} is met: {', '.join(findings)}")
        elif condition.function is not None and not conditions.matching(condition.function, document):
            code = _EXIT_INVALID
            reason = names.unknown(condition.function, document["functions"], "in these logs")
            print_error(f"--fail-on {condition.text!r} matches no function. {reason}")
    return code


class _ProgressBar:
    """Shows on one line of a terminal how many bytes were read, if reading takes long."""

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next = clock() + _BAR_AFTER_S
        self._is_shown = False

    def __call__(self, done: int) -> None:
        if not self._is_terminal or self._clock() < self._next:
            return
        self._next = self._clock() + _REDRAW_S
        self._is_shown = True
        share = min(1.0, done / self._total) if self._total else 0.0
        bar = "#" * round(30 * share)
        print(f"\r[{bar:<30}] {done / _MB:,.0f} of {self._total / _MB:,.0f} MB", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._is_shown:
            print(f"\r{'':<72}\r", end="", file=sys.stderr, flush=True)
