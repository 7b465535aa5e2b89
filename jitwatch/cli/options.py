"""What commands share: how one is registered, help texts, messages, and the flags that are options of the agent."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from jitwatch.config import OPTIONS, Option
from jitwatch.errors import ConfigError
from jitwatch.model.cleaning import clean_lines
from jitwatch.option_types import SWITCH
from jitwatch.system import files

_OPTIONS = [option for option in OPTIONS.values() if option.is_flag]
#: Flags without a value.
SWITCHES = frozenset(f"--{option.name}" for option in _OPTIONS if option.type is SWITCH)


class HelpFormatter(argparse.HelpFormatter):
    """Wraps a description to the width of the terminal, and keeps the lines of examples and tables as they are."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            # argparse ignores that the commands are indented by one level more than their heading.
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n  " not in text:
            return super()._fill_text(text, width, indent)
        return "".join(f"{indent}{line}" for line in text.splitlines(keepends=True))


def add_command(
    parsers: Any, name: str, call: Callable[[argparse.Namespace], int], help_text: str, description: str, **options: Any
) -> argparse.ArgumentParser:
    """Register a command with its line in the help of `jitwatch`, and return its parser."""
    parser: argparse.ArgumentParser = parsers.add_parser(
        name, help=help_text, description=description, formatter_class=HelpFormatter, **options
    )
    parser.set_defaults(call=call)
    return parser


def print_error(text: str) -> None:
    """Print a message to stderr: never to stdout, which may be parsed."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"jitwatch: {clean_lines(text)}", file=sys.stderr, flush=True)


def drop_output() -> None:
    """After the reader closed the pipe (`| head`): drop what the interpreter would flush once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write(text: str, path: str | None, what: str) -> None:
    """Write a text to a file, or to stdout; raises ConfigError if the file cannot be written.

    Args:
        text: The text.
        path: The file; None for stdout.
        what: What the text is, for the message: `the report`.
    """
    data = text.encode("utf-8", "replace")
    if path is not None:
        try:
            files.write_named(path, data)
        except OSError as error:
            advice = "name a file in a folder that exists and is writable"
            raise ConfigError(f"{what} cannot be written to {path!r} ({error.strerror}); {advice}") from error
        return
    try:
        sys.stdout.flush()
        # UTF-8 whatever the encoding of stdout, which may lack the arrow.
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:
            sys.stdout.write(text)
        else:
            binary.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option that has one."""
    group = parser.add_argument_group(
        "agent options",
        "Each can also be set by an environment variable, such as JITWATCH_PORT; a flag takes precedence. "
        "docs/options.md lists all options.",
    )
    for option in _OPTIONS:
        flag = f"--{option.name.replace('_', '-')}"
        if option.type is SWITCH:
            group.add_argument(flag, action="store_true", default=None, help=_help(option))
        else:
            group.add_argument(
                flag,
                metavar=option.type.metavar,
                type=_parser(option),
                choices=option.type.choices or None,
                help=_help(option),
            )


def agent_options(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `install()` for the flags that were given."""
    return {one.name: value for one in _OPTIONS if (value := getattr(options, one.name)) is not None}


def _help(option: Option) -> str:
    text = (option.description if option.type is SWITCH else option.summary).replace("`", "").replace("%", "%%")
    return text if text[1].isupper() else text[0].lower() + text[1:]


def _parser(option: Option) -> Callable[[str], Any]:
    """Parses the value of a flag as `install()` does, with a message for the command line."""

    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
