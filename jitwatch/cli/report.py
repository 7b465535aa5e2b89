"""`jitwatch report LOG…`: a run told from its event logs, for a person, a script, a ticket or a pipeline."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jitwatch.errors import ConfigError
from jitwatch.model.cleaning import clean_lines
from jitwatch.render import words
from jitwatch.system import files

if TYPE_CHECKING:
    from jitwatch.report.conditions import Condition
    from jitwatch.report.document import Document

_DESCRIPTION = """Sum up the event logs of a run: which functions compiled again and why, what that cost, what to
change, and whatever else went wrong. Needs the logs only: no JAX, no accelerator, no running job."""
_EPILOG = """examples:
  jitwatch report jitwatch-r1.jsonl                        one process, with its rotated parts
  jitwatch report logs/ --format html --output r1.html     all logs of a folder, as a page for a ticket
  jitwatch report new/ --against old/                      what became worse, what better
  jitwatch report logs/ --fail-on 'recompiles > 0' --fail-on 'train.step:compiles > 2'

exit codes: 0; 1 when a --fail-on condition holds; 2 when a log cannot be read, an option is wrong, or a condition
is about a function that is not in the logs"""
_FAILED, _WRONG = 1, 2
#: A log that is read faster needs no progress bar.
_PATIENCE_S = 1.0
_REDRAW_S = 0.2
_MB = 1e6


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "report",
        help="sum up the event logs of a run, compare two runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "logs",
        metavar="LOG",
        nargs="+",
        help="an event log (.jsonl, also .gz) with its rotated parts, or a folder with those of all processes",
    )
    parser.add_argument(
        "--format", choices=("text", "json", "html"), default="text", help="what to write (default: text)"
    )
    parser.add_argument(
        "--against", metavar="LOG", nargs="+", action="extend", help="logs of an earlier run to compare with"
    )
    parser.add_argument(
        "--fail-on",
        metavar="EXPR",
        action="append",
        default=[],
        help="exit with 1 when this holds, as 'recompiles > 0', 'lost_ratio >= 0.05' or, for the functions that a "
        "name or pattern fits, 'train.*:recompiles > 2'; may be given again",
    )
    parser.add_argument("--output", metavar="FILE", help="write to this file instead of the standard output")
    parser.set_defaults(call=lambda options: _report(options, parser))


def _report(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    # Imported here, as all of the command: other commands start without it.
    from jitwatch.report import compare, conditions

    try:
        wanted = [conditions.parse(text, is_compared=bool(options.against)) for text in options.fail_on]
    except conditions.ExpressionError as error:
        parser.error(f"argument --fail-on: {error}")
    try:
        document = _read(options.logs)
        before = _read(options.against) if options.against else None
        comparison = compare.compare(document, before) if before is not None else None
        width = words.columns(sys.stdout) if options.output is None else words.WIDTH
        _write(_rendered(options.format, document, comparison, width), options.output)
    except ConfigError as error:
        _say(str(error))
        return _WRONG
    return _judge(wanted, document, comparison)


def _read(paths: list[str]) -> Document:
    from jitwatch.report import document, sources
    from jitwatch.report.read import read_logs

    found = sources.find(paths)
    bar = _Bar(sum(source.size for source in found))
    try:
        fold, tally = read_logs(found, on_progress=bar)
    finally:
        bar.end()
    return document.document(fold, tally)


def _rendered(form: str, document: Document, comparison: dict[str, Any] | None, width: int) -> str:
    if form == "json":
        import json

        whole = document if comparison is None else {**document, "comparison": comparison}
        return json.dumps(whole, indent=2, allow_nan=False) + "\n"
    if form == "html":
        from jitwatch.report import html

        return html.render(document, comparison)
    from jitwatch.report import text

    return text.render(document, comparison, width=width)


def _write(text: str, path: str | None) -> None:
    data = text.encode("utf-8", "replace")
    if path is not None:
        try:
            files.write_named(path, data)
        except OSError as error:
            raise ConfigError(
                f"the report cannot be written to {path!r} ({error.strerror}); name a file in a folder that exists "
                "and may be written to"
            ) from error
        return
    try:
        sys.stdout.flush()
        # A file or terminal in another encoding would stumble over the first arrow.
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:
            sys.stdout.write(text)
        else:
            binary.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`). The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _judge(wanted: list[Condition], document: Document, comparison: dict[str, Any] | None) -> int:
    """Say which conditions hold, and which say nothing since no function has their name."""
    from jitwatch.render import names
    from jitwatch.report import conditions

    code = 0
    for condition in wanted:
        findings = condition.findings(document, comparison)
        if findings:
            code = code or _FAILED
            _say(f"failed on {condition.text!r}: {', '.join(findings)}")
        elif condition.function is not None and not conditions.matching(condition.function, document):
            code = _WRONG
            told = names.unknown(condition.function, document["functions"], "in these logs")
            _say(f"error: --fail-on {condition.text!r} says nothing. {told}")
    return code


def _say(text: str) -> None:
    print(f"jitwatch: {clean_lines(text)}", file=sys.stderr)


class _Bar:
    """How much is read, on one line of a terminal, once it takes long.

    Args:
        total: Bytes of all files.
        clock: Monotonic seconds.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next = clock() + _PATIENCE_S
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
