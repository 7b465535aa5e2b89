"""Text that others made, as it may be shown: nothing in it steers a terminal, breaks a line or turns letters around.

Names, paths, keys, values and messages are cleaned once, where they enter: in `jaxhooks.values.texts.shorten`, in every
event, in a record of a log that is read, in the answer of a job. Quotes, markup and braces stay; each output escapes
those for itself.
"""

from __future__ import annotations

import logging
import unicodedata
from typing import Any, Final

#: Controls; invisible characters and those that change the direction of text; halves of surrogate pairs; private and
#: unassigned ones; separators of lines and paragraphs. What `str.isprintable` refuses, but for blanks.
_STEERING: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Characters kept of one text; a path has 4,096 at the most.
MAX_TEXT: Final = 5_000


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """One line of bounded length: line breaks and tabs become blanks, what else steers becomes `?`.

    Args:
        text: A string of any class; only the methods of `str` itself are called.
        limit: Characters kept; a longer text ends with `…`.
    """
    if type(text) is not str:
        text = str.__str__(text)
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    return text if text.isprintable() else "".join(map(_shown, text))


def clean_lines(text: str) -> str:
    """The same for a text of several lines, of any length, whose line breaks stay."""
    return "\n".join(clean(line, len(line)) for line in text.split("\n"))


def clean_record(record: logging.LogRecord) -> bool:
    """A filter for our logger: what a line says, and the traceback below it, is clean; no record is dropped.

    Errors of ours may quote the job: a path, a key, a message of another error.
    """
    try:
        text = record.getMessage()
        if not text.isprintable():
            record.msg, record.args = clean_lines(text), None
        if record.exc_info and not record.exc_text:
            # Formatters use what is there and format nothing themselves.
            record.exc_text = clean_lines(logging.Formatter().formatException(record.exc_info))
    except Exception:  # noqa: S110 - a filter that raises would do so in whoever logs
        pass
    return True


def _shown(character: str) -> str:
    kind = unicodedata.category(character)
    if kind not in _STEERING:
        return character
    return " " if character.isspace() else "?"


def cleaned(value: Any) -> Any:
    """A fact with all of its texts cleaned, however deep; the same object where nothing has to be changed."""
    if is_clean(value):
        return value
    kind = type(value)
    if kind is tuple or kind is list:
        return kind(map(cleaned, value))
    if kind is dict:
        return {cleaned(key): cleaned(one) for key, one in value.items()}
    return clean(value)


def is_clean(value: Any) -> bool:
    """Whether a fact has no text that would have to be cleaned."""
    kind = type(value)
    if kind is str:
        return value.isprintable() and len(value) <= MAX_TEXT
    if kind is tuple or kind is list:
        return all(map(is_clean, value))
    if kind is dict:
        return all(is_clean(key) and is_clean(one) for key, one in value.items())
    return not issubclass(kind, str)


def clean_fields(fact: object, *names: str) -> None:
    """Clean these fields of a fact that is being made; most are clean, so that nothing is set."""
    for name in names:
        value = getattr(fact, name)
        if not is_clean(value):
            object.__setattr__(fact, name, cleaned(value))
