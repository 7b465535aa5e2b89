"""Reads XLA's text of an out-of-memory error: the size of the failed allocation, and the largest buffers that it lists.

The text on CPUs has the size only. On GPUs, if the buffers of a program were too large, and on TPUs, if the compile
fails, it lists the largest buffers:

    Out of memory while trying to allocate 17179869184 bytes.      Ran out of memory in memory space hbm. Used 20.09G
    …                                                              of 15.48G hbm. Exceeded hbm capacity by 4.61G.
                 total allocation:   32.00GiB                      …
    Peak buffers:                                                    Largest program allocations in hbm:
        Buffer 1:                                                    1. Size: 4.00G
            Size: 16.00GiB                                              Operator: op_name="…" source_file="…" …
            Operator: op_name="…" source_file="…" source_line=12        Shape: bf16[4,8192,8192]{2,1,0:T(8,128)(2,1)}
            XLA Label: fusion                                           Unpadded size: 4.00G
            Shape: f32[65536,65536]                                     Allocation type: HLO temp
        Buffer 2:                                                    2. Size: 3.00G
            Size: 16.00GiB
            Entry Parameter Subshape: f32[65536,65536]

Any text is accepted, and unknown parts are ignored. The time is linear in the length, which is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jitwatch.jaxhooks.memory.programs import MAX_BUFFERS
from jitwatch.model.cleaning import clean
from jitwatch.model.rows import BufferRow

#: Maximum characters, characters of a line, and buffers that are read.
_MAX_TEXT, _MAX_LINE, _MAX_ROWS = 200_000, 2_000, 200
_MAX_OP, _MAX_LABEL = 200, 80
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = r"(\d{1,20}(?:\.\d{1,6})?) ?([KMGTP]?)(?:iB|B)?(?: bytes)?\b"
_FAILED = (
    re.compile(rf"(?i:allocat(?:e|ing)|reserve) {_SIZE}"),
    re.compile(rf"(?i:exceeded) \w{{1,20}} capacity by {_SIZE}"),
)
_TOTAL = re.compile(rf"(?:total allocation: {{0,20}}|\bUsed ){_SIZE}")
_ROW_SIZE = re.compile(rf"(?:\d{{1,4}}\. )?Size: {_SIZE}")
_LIST = re.compile(r"(?:Peak buffers|Largest program allocations in (\w{1,20})):?$")
_QUOTED = re.compile(r'\b(op_name|source_file)="([^"]{0,2000})"')
_LINE = re.compile(r"\bsource_line=(\d{1,9})\b")
_SHAPE = re.compile(r"[a-z]\w{0,20}\[[\d,<=]{0,200}\]")
#: The memory of a TPU that arrays are in; there are lists about others, such as `vmem`.
_MAIN = (None, "hbm")


@dataclass(frozen=True, slots=True)
class OutOfMemoryText:
    """The contents of the text of an error.

    Attributes:
        allocation_bytes: Bytes of the failed allocation, or of the excess; None if the text has neither.
        peak_buffers: The largest buffers that it lists, the largest first.
    """

    allocation_bytes: int | None = None
    peak_buffers: tuple[BufferRow, ...] = ()


def read_text(text: str) -> OutOfMemoryText:
    """Read the text of an out-of-memory error."""
    text = text[:_MAX_TEXT]
    failed = next((found for one in _FAILED if (found := one.search(text)) is not None), None)
    total = _TOTAL.search(text)
    return OutOfMemoryText(_bytes(failed), tuple(_rows(text, _bytes(total))))


def _bytes(found: re.Match[str] | None) -> int | None:
    return int(float(found[1]) * _FACTORS[found[2]]) if found is not None else None


def _rows(text: str, total: int | None) -> list[BufferRow]:
    rows: list[BufferRow] = []
    is_listed = False
    for whole in text.split("\n"):
        line = whole[:_MAX_LINE].strip()
        if begun := _LIST.match(line):
            is_listed = begun[1] in _MAIN
        elif not is_listed:
            continue
        elif size := _ROW_SIZE.match(line):
            if len(rows) >= _MAX_ROWS:
                break
            rows.append({"bytes": _bytes(size) or 0, "shape": "", "op": ""})
        elif rows:
            _read(line, rows[-1])
    rows = [_shown(row, total) for row in rows if row["bytes"]]
    return sorted(rows, key=lambda row: -row["bytes"])[:MAX_BUFFERS]


def _read(line: str, row: BufferRow) -> None:
    """Read a line about a buffer."""
    name, _, value = line.partition(":")
    if name == "Operator":
        quoted = dict(_QUOTED.findall(value))
        row["op"] = quoted.get("op_name") or row["op"]
        number = _LINE.search(value)
        if quoted.get("source_file") and number is not None:
            row["call_site"] = f"{quoted['source_file']}:{number[1]}"
    elif name in ("Shape", "Entry Parameter Subshape"):
        shape = _SHAPE.search(value)
        row["shape"] = shape[0] if shape is not None else row["shape"]
        if name != "Shape":
            row["op"] = row["op"] or "argument"
    elif name.lower() == "xla label":
        row["op"] = row["op"] or value.strip().partition(" ")[0][:_MAX_LABEL]


def _shown(row: BufferRow, total: int | None) -> BufferRow:
    row["op"] = clean(row["op"] or "temporary", _MAX_OP)
    if total and total >= row["bytes"]:
        row["share"] = round(row["bytes"] / total, 4)
    return row
