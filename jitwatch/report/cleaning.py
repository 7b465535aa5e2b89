"""Text from a log as a terminal or a browser may see it: without what moves the cursor or turns letters around."""

from __future__ import annotations

from typing import Any

#: Control characters (tab and newline become blanks), and those that change the direction of text.
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_TABLE = dict.fromkeys(_CONTROLS, "�") | dict.fromkeys(map(ord, "\t\n\r"), " ")


def cleaned(value: Any) -> Any:
    """A JSON-able value with all of its texts cleaned, keys as well."""
    if isinstance(value, str):
        # Half of a surrogate pair cannot be written anywhere.
        return value.translate(_TABLE).encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {cleaned(key): cleaned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [cleaned(one) for one in value]
    return value
