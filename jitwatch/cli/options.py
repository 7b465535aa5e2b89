"""The flags of `run` and `demo` that are options of the agent, from their declarations in `jitwatch.config`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from jitwatch.config import OPTIONS, Option
from jitwatch.option_types import SWITCH

_OPTIONS = [option for option in OPTIONS.values() if option.is_flag]
#: Flags without a value.
SWITCHES = frozenset(f"--{option.name}" for option in _OPTIONS if option.type is SWITCH)


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
