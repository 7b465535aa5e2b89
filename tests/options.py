"""Writes the table of options in the README from their declarations: `python -m tests.options`."""

from __future__ import annotations

import re
from pathlib import Path

import jitwatch
from jitwatch.config import OPTIONS, Option

README = Path(jitwatch.__file__).parent.parent / "README.md"
_TABLE = re.compile(r"(?<=\n### Options\n\n).*?\n\n(\| option .*?\n)(?=\n)", re.DOTALL)
_HEAD = "| option | default | description |\n|---|---|---|\n"


def committed_table() -> str:
    """The table as the README has it."""
    return _found(README.read_text(encoding="utf-8")).group(1)


def table() -> str:
    """The table as the declarations have it."""
    return _HEAD + "".join(f"| {_name(one)} | {_default(one)} | {_text(one)} |\n" for one in OPTIONS.values())


def _found(text: str) -> re.Match[str]:
    found = _TABLE.search(text)
    assert found is not None, "README.md has no section '### Options' with a paragraph and a table"
    return found


def _name(option: Option) -> str:
    return f"`{option.name}`" if option.is_argument else f"`{option.variable}`"


def _default(option: Option) -> str:
    """A value is shown as code, a description of the default is not."""
    is_value = not option.default_text and option.shown_default not in ("none", "yes", "no")
    return f"`{option.shown_default}`" if is_value else option.shown_default


def _text(option: Option) -> str:
    return f"{option.description}. {option.details}".strip()


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    start, end = _found(text).span(1)
    README.write_text(text[:start] + table() + text[end:], encoding="utf-8")
