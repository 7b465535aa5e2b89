"""`jitwatch diff A B`: what differs between two programs, two compiles of a function, or the programs of two runs."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from jitwatch.cli.options import add_command, print_error, write
from jitwatch.errors import ConfigError
from jitwatch.render import formats

if TYPE_CHECKING:
    from jitwatch.report.program_diff import ProgramDiff, Side

_DESCRIPTION = """Show what differs between two programs: operations, constants, types of arguments and results,
donation, shardings, and the first operation that differs, with its source line. Does not need JAX. Names of values and
source lines are not compared. install(hlo_dir=…) keeps the program of every compile."""
_EPILOG = """A and B are one of
  PROGRAM.mlir     a file with StableHLO text: lowered.as_text(), or a file of the option hlo_dir
  LOG:FUNCTION     the last compile of a function in an event log; LOG:FUNCTION#3 is its third compile
  LOG              a run: an event log, or a folder of the logs of all processes

examples:
  jitwatch diff old.mlir new.mlir                              two programs
  jitwatch diff r1.jsonl:train_step#1 r1.jsonl:train_step#2    two compiles of a function
  jitwatch diff r1.jsonl:train_step r2.jsonl:train_step        the last compile of a function in two runs
  jitwatch diff old/ new/                                      the programs of all functions of two runs

exit codes:
  0  success, whether there is a difference or not
  1  with --exit-code: there is a difference, or the logs do not show whether there is one
  2  a file cannot be read, or an option is invalid"""
_EXIT_DIFFERENT, _EXIT_INVALID = 1, 2
_NUMBER = re.compile(r"#([1-9]\d{0,8})\Z")
_BYTECODE = "ML\ufffdR"


def add_to(parsers: Any) -> None:
    """Register the command."""
    text = "show what differs between two programs, compiles or runs"
    parser = add_command(parsers, "diff", _diff, text, _DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("before", metavar="A", help="a program, a compile or a run; see below")
    parser.add_argument("now", metavar="B", help="what to compare it with")
    parser.add_argument("--json", action="store_true", help="print the differences as a JSON object")
    parser.add_argument("--html", metavar="FILE", help="write the differences to this file as an HTML page as well")
    parser.add_argument(
        "--hlo-dir",
        metavar="DIR",
        action="append",
        default=[],
        help="folder with the programs of LOG:FUNCTION, if it was moved; may be repeated",
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if they differ")


def _diff(options: argparse.Namespace) -> int:
    # Lazy, as all imports of this command: the other commands do not need them.
    import json

    from jitwatch.report import program_diff_text

    try:
        diff = _compared(options)
        if options.html is not None:
            write(program_diff_text.page(diff), options.html, "the page")
        if options.json:
            text = json.dumps(diff.document, indent=2, allow_nan=False) + "\n"
        else:
            text = program_diff_text.render(diff, width=formats.columns(sys.stdout))
        write(text, None, "the differences")
    except ConfigError as error:
        print_error(str(error))
        return _EXIT_INVALID
    return _EXIT_DIFFERENT if options.exit_code and diff.document["is_equal"] is not True else 0


def _compared(options: argparse.Namespace) -> ProgramDiff:
    from jitwatch.report import program_diff

    sides = [_side(name, options.hlo_dir) for name in (options.before, options.now)]
    programs = [side for side in sides if side is not None]
    if not programs:
        return _runs(options.before, options.now, options.hlo_dir)
    if len(programs) == 1:
        run = options.before if sides[0] is None else options.now
        raise ConfigError(
            f"{programs[0].name!r} is one program, but {run!r} is a run. Compare two programs ({run}:FUNCTION#1 is "
            "a compile of the run), or two runs"
        )
    return program_diff.of_programs(*programs)


def _side(name: str, folders: list[str]) -> Side | None:
    """The program that an argument names; None for a run."""
    from jitwatch.report import programs, sources
    from jitwatch.report.program_diff import Side

    if os.path.isdir(name):
        return None
    if os.path.lexists(name):
        return None if _is_log(name) else Side(name, _program(name), name)
    log, function = _split(name)
    nth = int(found[1]) if (found := _NUMBER.search(function)) else None
    function = _NUMBER.sub("", function)
    if not function:
        raise ConfigError(f"{name!r}: name a function after the colon, such as {log}:train_step or {log}:train_step#3")
    compile_ = programs.find_compile(sources.find([log]), log, function, nth)
    text, where = programs.text_of(compile_, folders)
    if text is None:
        return Side(compile_.name, compile=compile_, missing=where)
    _check(text, where)
    return Side(compile_.name, text, where, compile_)


def _split(name: str) -> tuple[str, str]:
    """Split `LOG:FUNCTION`; both parts may have further colons."""
    place = name.find(":", 1)
    while place > 0:
        if os.path.lexists(name[:place]):
            return name[:place], name[place + 1 :]
        place = name.find(":", place + 1)
    path, colon, _ = name.partition(":")
    what = "not a file, and neither is " + repr(path) if colon else "not a file"
    raise ConfigError(
        f"{name!r} is {what}. Name a file with StableHLO text, an event log, a folder of logs, or a compile as "
        "LOG:FUNCTION#3"
    )


def _is_log(path: str) -> bool:
    """Whether a file is an event log: by its name, or its first character."""
    from jitwatch.report.lines import opened
    from jitwatch.report.sources import Source

    if re.search(r"\.jsonl(\.\d+)?(\.gz)?\Z", path):
        return True
    try:
        with opened(Source(path, path, 0)) as file:
            return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n\x00").startswith(b'{"')
    except OSError:
        return False  # reading it as a program raises the error


def _program(path: str) -> str:
    from jitwatch.report import programs

    text = programs.read_text(path)
    _check(text, path)
    return text


def _check(text: str, path: str) -> None:
    """Raise ConfigError unless a text is a StableHLO program."""
    start = text[:2_000].lstrip("\ufeff \t\r\n")
    if not start:
        raise ConfigError(f"{path!r} is empty; write lowered.as_text() to it")
    if start.startswith("HloModule"):
        raise ConfigError(
            f"{path!r} has the HLO text of a compiled program; jitwatch diff compares lowered programs. Write "
            "lowered.as_text() to a file, or use hlo_dir"
        )
    if start.startswith(_BYTECODE):
        raise ConfigError(f"{path!r} is MLIR bytecode; write lowered.as_text() to a file")
    if not re.search(
        r"^\s*(?:module\b|\"builtin\.module\"|func\.func\b|\"func\.func\"|#\w+ = |(?:%[^=]*= )?\"?\w+\.\w+)",
        text[:200_000],
        re.MULTILINE,
    ):
        raise ConfigError(f"{path!r} has no StableHLO text; write lowered.as_text() to it, or use hlo_dir")


def _runs(before: str, now: str, folders: list[str]) -> ProgramDiff:
    from jitwatch.report import compare, document, program_diff, programs, sources
    from jitwatch.report.read import read_logs

    found = [sources.find([path]) for path in (before, now)]
    old, new = (document.document(*read_logs(one)) for one in found)
    pairs = compare.common_functions(new, old)
    compiles = [programs.last_compiles(one, path) for one, path in zip(found, (before, now), strict=True)]
    return program_diff.of_runs((before, now), compare.compare(new, old)["programs"], pairs, compiles, folders)
