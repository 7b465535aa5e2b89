"""Cleans text from outside: no control characters, no line breaks, no changes of text direction, bounded length.

Names, paths, keys, values and messages are cleaned once, where they enter: in `jaxhooks.values.texts.shorten`, in every
event, in a record that is read from a log, in the answer of a job. Quotes, markup and braces stay; each output escapes
them itself.
"""

from __future__ import annotations

import logging
import unicodedata
from typing import Any, Final

from jitwatch.model.copies import reader

#: Unicode categories that are replaced: controls, invisible characters and those that change the direction of text,
#: surrogates, private and unassigned characters, separators of lines and paragraphs. All that `str.isprintable` refuses
#: except spaces.
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Maximum length of a text in characters; a path has at most 4,096.
MAX_TEXT: Final = 5_000


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return one printable line: line breaks and tabs become spaces, other unprintable characters `?`.

    Args:
        text: A string of any class; only methods of `str` itself are called.
        limit: Maximum length in characters; a longer text is cut and ends with `…`.
    """
    if type(text) is not str:
        text = str.__str__(text)
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    return text if text.isprintable() else "".join(map(_shown, text))


def clean_lines(text: str) -> str:
    """Clean each line of a text, of any length."""
    return "\n".join(clean(line, len(line)) for line in text.split("\n"))


def clean_record(record: logging.LogRecord) -> bool:
    """Filter of the logger `jitwatch`: clean the message of a log record and its traceback, and keep the record.

    Errors of the agent may quote the job: a path, a key, a message of another error.
    """
    try:
        text = record.getMessage()
        if not text.isprintable():
            record.msg, record.args = clean_lines(text), None
        if record.exc_info and not record.exc_text:
            # Formatters use this text instead of formatting the exception.
            record.exc_text = clean_lines(logging.Formatter().formatException(record.exc_info))
    except Exception:  # noqa: S110 - a filter that raises does so in the caller that logs
        pass
    return True


def _shown(character: str) -> str:
    kind = unicodedata.category(character)
    if kind not in _UNPRINTABLE:
        return character
    return " " if character.isspace() else "?"


def cleaned(value: Any) -> Any:
    """Clean all texts of a value, nested ones included; returns the same object if nothing changes."""
    if is_clean(value):
        return value
    kind = type(value)
    if kind is tuple or kind is list:
        return kind(map(cleaned, value))
    if kind is dict:
        return {cleaned(key): cleaned(one) for key, one in value.items()}
    return clean(value)


def is_clean(value: Any) -> bool:
    """Whether all texts of a value are clean."""
    kind = type(value)
    if kind is str:
        return value.isprintable() and len(value) <= MAX_TEXT
    if kind is tuple or kind is list:
        return not value or all(map(is_clean, value))
    if kind is dict:
        return all(is_clean(key) and is_clean(one) for key, one in value.items())
    return not issubclass(kind, str)


def clean_fields(instance: object, *names: str) -> None:
    """Clean these fields of a frozen dataclass that is being created."""
    for name, value in zip(names, reader(names)(instance), strict=True):
        kind = type(value)
        # Most fields are empty, or one short text.
        if value is None or kind is float or kind is int or kind is bool:
            continue
        if kind is str and len(value) <= MAX_TEXT and value.isprintable():
            continue
        if not is_clean(value):
            object.__setattr__(instance, name, cleaned(value))
