"""The types of value that an option can have: how one is parsed, described in a message and annotated in Python."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionType:
    """A type of option value.

    Attributes:
        parse: Converts the text of a variable or flag, or an argument of `install()`. Raises ValueError, TypeError or
            OverflowError if the value is invalid.
        expected: Valid values in words, as in 'expected a path'.
        annotation: Type of the argument of `install()`.
        metavar: Placeholder of the value in a command's help; empty for a switch without a value.
        choices: The only valid values, if they can be listed.
    """

    parse: Callable[[Any], Any]
    expected: str
    annotation: str
    metavar: str
    choices: tuple[str, ...] = ()


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text: str = value.strip() if isinstance(value, str) else ""
    if not text:
        raise ValueError
    return text


def _path(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise ValueError
    return os.path.expanduser(value)


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
    names = tuple(name.strip() for name in value if name.strip())
    if not names:
        raise ValueError
    return names


def _host_names(value: Any) -> tuple[str, ...]:
    names = _names(value)
    if any(re.search(r"[\s/@]", name) for name in names):
        raise ValueError
    # A port is not part of a name: the port of a request is not compared.
    return tuple(re.sub(r"^([^:]*):[0-9]*$", r"\1", name) for name in names)


def whole_number(lowest: int, highest: int, *, expected: str, metavar: str) -> OptionType:
    """A whole number in a range, both ends included."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise TypeError
        if not lowest <= (number := int(value)) <= highest:
            raise ValueError
        return number

    return OptionType(parse=parse, expected=expected, annotation="int", metavar=metavar)


def seconds(lowest: float, highest: float) -> OptionType:
    """A duration in a range, both ends included."""

    def parse(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or not lowest <= number <= highest:
            raise ValueError
        return number

    expected = f"a number of seconds from {lowest:g} to {highest:g}"
    return OptionType(parse=parse, expected=expected, annotation="float", metavar="SECONDS")


def choice(*allowed: str) -> OptionType:
    """One of a few words, in any case."""

    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError
        return text

    return OptionType(
        parse=parse,
        expected=" or ".join(map(repr, allowed)),
        annotation="str",
        metavar=f"{{{','.join(allowed)}}}",
        choices=allowed,
    )


def names(expected: str, *, parse: Callable[[Any], tuple[str, ...]] = _names) -> OptionType:
    """A list of names: a text with commas, or a list or tuple."""
    return OptionType(parse=parse, expected=expected, annotation="str | list[str] | tuple[str, ...]", metavar="NAMES")


TEXT = OptionType(parse=_text, expected="a text that is not empty", annotation="str", metavar="TEXT")
HOST = OptionType(parse=_text, expected=TEXT.expected, annotation="str", metavar="HOST")
#: A name that can be part of a file name: other characters are replaced.
NAME = OptionType(parse=lambda value: safe_name(_text(value)), expected=TEXT.expected, annotation="str", metavar="NAME")
PATH = OptionType(parse=_path, expected="a path", annotation="str | os.PathLike[str]", metavar="PATH")
SWITCH = OptionType(
    parse=_switch, expected="yes or no (1, true, yes, on / 0, false, no, off)", annotation="bool", metavar=""
)
PORT = whole_number(0, 65535, expected="a port number from 0 to 65535", metavar="PORT")
COUNT = whole_number(1, 1_000_000, expected="a whole number from 1 to 1000000", metavar="N")
HOST_NAMES = names(
    "host names without http:// and path, or patterns such as '*.example.org', separated by commas", parse=_host_names
)
