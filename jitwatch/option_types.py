"""The types of value that an option can have: how one is parsed, and described in a message."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jitwatch.system.launchers import safe_name

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True, slots=True)
class OptionType:
    """A type of option value.

    Attributes:
        parse: Converts the text of a variable or flag, or an argument of `install()`. Raises ValueError, TypeError or
            OverflowError if the value is invalid.
        expected: Valid values in words, as in 'expected a path'.
        metavar: Placeholder of the value in a command's help; empty for a switch without a value.
        choices: The only valid values, if they can be listed.
    """

    parse: Callable[[Any], Any]
    expected: str
    metavar: str
    choices: tuple[str, ...] = ()


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or not text.strip():
        raise ValueError
    return text.strip()


def _path(value: Any) -> str:
    path = os.fspath(value)
    if not isinstance(path, str) or not path:
        raise ValueError
    return os.path.expanduser(path)


def _switch(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in TRUE_WORDS | FALSE_WORDS:
        raise ValueError
    return text in TRUE_WORDS


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in value):
        raise TypeError
    found = tuple(name.strip() for name in value if name.strip())
    if not found:
        raise ValueError
    return found


def _host_names(value: Any) -> tuple[str, ...]:
    found = _names(value)
    if any(re.search(r"[\s/@]", name) for name in found):
        raise ValueError
    # A port is not part of a name: the port of a request is not compared.
    return tuple(re.sub(r"^([^:]*):[0-9]*$", r"\1", name) for name in found)


def whole_number(lowest: int, highest: int, *, expected: str, metavar: str) -> OptionType:
    """A whole number in a range, both ends included."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise TypeError
        if not lowest <= (number := int(value)) <= highest:
            raise ValueError
        return number

    return OptionType(parse, expected, metavar)


def seconds(lowest: float, highest: float) -> OptionType:
    """A duration in a range, both ends included."""

    def parse(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or not lowest <= number <= highest:
            raise ValueError
        return number

    return OptionType(parse, f"a number of seconds from {lowest:g} to {highest:g}", "SECONDS")


def choice(*allowed: str) -> OptionType:
    """One of a few words, in any case."""

    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError
        return text

    return OptionType(parse, " or ".join(map(repr, allowed)), f"{{{','.join(allowed)}}}", allowed)


def names(expected: str, *, parse: Callable[[Any], tuple[str, ...]] = _names) -> OptionType:
    """A list of names: a text with commas, or a list or tuple."""
    return OptionType(parse, expected, "NAMES")


TEXT = OptionType(_text, "a non-empty string", "TEXT")
HOST = OptionType(_text, TEXT.expected, "HOST")
#: A name that can be part of a file name: other characters are replaced.
NAME = OptionType(lambda value: safe_name(_text(value)), TEXT.expected, "NAME")
PATH = OptionType(_path, "a path", "PATH")
SWITCH = OptionType(_switch, "yes or no (1, true, yes, on / 0, false, no, off)", "")
PORT = whole_number(0, 65535, expected="a port number from 0 to 65535", metavar="PORT")
COUNT = whole_number(1, 1_000_000, expected="a whole number from 1 to 1000000", metavar="N")
HOST_NAMES = names(
    "host names without http:// and path, or patterns such as '*.example.org', separated by commas", parse=_host_names
)
