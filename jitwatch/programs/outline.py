"""The outline of a program: its types, constants and numbers of operations, small enough for an index file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

from jitwatch.model.cleaning import clean, cleaned
from jitwatch.programs.locations import Locations
from jitwatch.programs.tally import Tally
from jitwatch.programs.text import STRING, Entry, digest, entries, without_locations

#: Bounds of an outline in memory.
_MAX_KINDS, _MAX_CONSTANTS, _MAX_ARGUMENTS, _MAX_MESHES = 500, 4_096, 20_000, 8
#: Bounds of a row.
_ROW_KINDS, _ROW_CONSTANTS, _ROW_CALLS, _ROW_TYPES, _ROW_RUNS = 48, 96, 16, 32, 128
#: Most hashes of the sequence of operations.
_CHECKPOINTS: Final = 32
#: Characters of a type, a sharding, or a name; of the value of a constant that is kept as a text.
_MAX_PART, _MAX_VALUE = 120, 48
#: Characters of the attributes of an argument that are compared.
_MAX_ATTRIBUTES: Final = 10_000
#: Kinds that end a region; they are as many as the regions.
ENDS: Final = frozenset({"return", "stablehlo.return", "sdy.return"})
_MODULES: Final = frozenset({"module", "builtin.module"})
_VERSION: Final = 1

_SPLIT = re.compile(rf"{STRING}|->|[()<>{{}}\[\],]")
_CONSTANT = re.compile(r"dense(?:_resource)?<([^<>]*+)>\s*+:\s*+(.*)")
_TARGET = re.compile(rf"custom_call @([\w$.\-]++|{STRING})|call_target_name = ({STRING})")
_ALIASED = re.compile(r"\btf\.aliasing_output = (\d{1,9})")
_DONOR = re.compile(r"\bjax\.buffer_donor = true")
_SHARDING = re.compile(rf"\b(?:mhlo|sdy)\.sharding = ({STRING}|#sdy\.sharding<[^>]*+>?)")
_RESULT_NAME = re.compile(rf"\bjax\.result_info = ({STRING})")
#: Attributes of an argument or result that have their own fields.
_KNOWN = re.compile(
    rf"\b(?:tf\.aliasing_output = \d++(?: : i\d++)?|jax\.buffer_donor = true|jax\.result_info = {STRING}"
    rf"|(?:mhlo|sdy)\.sharding = (?:{STRING}|#sdy\.sharding<[^>]*+>?))(?:, )?"
)
_MODULE_NAME = re.compile(r'module @([\w$.\-]++)|\bsym_name = "([^"]*+)"')
_PARTITIONS = re.compile(r"\bmhlo\.num_partitions = (\d{1,9})")
_REPLICAS = re.compile(r"\bmhlo\.num_replicas = (\d{1,9})")
_ATTRIBUTES = re.compile(r"attributes \{(.*)\} \{")
_COUNTED = re.compile(r"\bmhlo\.num_(?:partitions|replicas) = \d++(?: : i\d++)?(?:, )?")
_OPERAND = re.compile(r"[%@]\d++")


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument or a result of the program.

    Attributes:
        type: Its type as in the text, `tensor<8x4xf32>`.
        donation: `output 0` if it shares its buffer with this result, `donor` if its buffer may be reused; else empty.
        sharding: Its sharding as in the text.
        other: Its other attributes.
        name: Its name, `state['w']`, if the text has it. The name of a result belongs to the program, that of an
            argument is a location and does not.
    """

    type: str
    donation: str = ""
    sharding: str = ""
    other: str = ""
    name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Outline:
    """What a program consists of.

    Attributes:
        name: Name of the module, `jit_train_step`.
        form: `pretty`, or `generic` for operations written as `"stablehlo.add"(…)`; empty if the text is no program.
        partitions, replicas: Number of partitions and replicas; 1 if the text has none.
        attributes: Other attributes of the module.
        meshes: Definitions of meshes.
        arguments, results: Arguments and results in order; a row has those that fit.
        argument_count, result_count: Number of all.
        argument_hash, result_hash: A hash of all.
        operations: Number of operations by kind, with a hash of them without the names of their operands.
        constants: Number of constants by value and type: `1.000000e-03 : tensor<f32>`, and of large ones by
            hash and type: `#1f2e… : tensor<4096xf32>`.
        custom_calls: Number of custom calls by target.
        total: Number of operations.
        hash: A hash of the sequence of all operations. Equal programs have the same, whatever their values are named.
        checkpoints: The hash after each `stride` operations.
        stride: A power of two.
    """

    name: str
    form: str
    partitions: int
    replicas: int
    attributes: str
    meshes: tuple[str, ...]
    arguments: tuple[Argument, ...]
    argument_count: int
    argument_hash: str
    results: tuple[Argument, ...]
    result_count: int
    result_hash: str
    operations: Tally
    constants: Tally
    custom_calls: Tally
    total: int
    hash: str
    checkpoints: tuple[str, ...]
    stride: int

    def row(self) -> dict[str, Any]:
        """The outline as JSON values of a few kilobytes. Names of arguments are left out."""
        return {
            "version": _VERSION,
            "name": self.name,
            "form": self.form,
            "partitions": self.partitions,
            "replicas": self.replicas,
            "attributes": self.attributes,
            "meshes": list(self.meshes),
            "arguments": _packed(self.arguments, self.argument_count, self.argument_hash, is_result=False),
            "results": _packed(self.results, self.result_count, self.result_hash, is_result=True),
            "operations": self.operations.row(_ROW_KINDS),
            "constants": self.constants.row(_ROW_CONSTANTS),
            "custom_calls": self.custom_calls.row(_ROW_CALLS),
            "total": self.total,
            "hash": self.hash,
            "checkpoints": list(self.checkpoints),
            "stride": self.stride,
        }

    @classmethod
    def of_row(cls, row: Any) -> Outline:
        """The outline of a row; raises `ValueError` if it is invalid or from another version of jitwatch."""
        try:
            # The content of an index file is not trusted.
            row = cleaned(row)
            if row["version"] != _VERSION:
                raise ValueError(f"version {row['version']}")
            return cls(
                name=str(row["name"]),
                form=str(row["form"]),
                partitions=int(row["partitions"]),
                replicas=int(row["replicas"]),
                attributes=str(row["attributes"]),
                meshes=tuple(map(str, row["meshes"])),
                arguments=_unpacked(row["arguments"]),
                argument_count=int(row["arguments"]["count"]),
                argument_hash=str(row["arguments"]["hash"]),
                results=_unpacked(row["results"]),
                result_count=int(row["results"]["count"]),
                result_hash=str(row["results"]["hash"]),
                operations=Tally.of_row(row["operations"]),
                constants=Tally.of_row(row["constants"]),
                custom_calls=Tally.of_row(row["custom_calls"]),
                total=int(row["total"]),
                hash=str(row["hash"]),
                checkpoints=tuple(map(str, row["checkpoints"])),
                stride=max(1, int(row["stride"])),
            )
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
            raise ValueError(f"not the row of an outline: {type(error).__name__}: {error}") from error


def outline_of(text: str) -> Outline:
    """Read the outline of a program's StableHLO text, as `lowered.as_text()` prints it, with or without locations.

    A text that is cut, or no program at all, has the outline of what could be read. Without a program `form` is empty.
    """
    builder = OutlineBuilder(text)
    for entry in entries(text):
        builder.add(entry)
    return builder.outline()


class OutlineBuilder:
    """Makes the outline of a text from its entries.

    Args:
        text: The whole text.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._locations: Locations | None = None
        self._name = self._attributes = self._form = ""
        self._partitions = self._replicas = 1
        self._meshes: list[str] = []
        self._arguments: list[Argument] = []
        self._results: list[Argument] = []
        self._counts = [0, 0]
        self._hashes = [blake2b(digest_size=8), blake2b(digest_size=8)]
        self._head = ""
        self._waits_for_names = False
        self._operations, self._constants = Tally(_MAX_KINDS), Tally(_MAX_CONSTANTS)
        self._custom_calls = Tally(_MAX_KINDS)
        self._total = 0
        self._hash = blake2b(digest_size=8)
        self._checkpoints: list[str] = []
        self._stride = 1

    def add(self, entry: Entry) -> bool:
        """Add the next entry; return whether it belongs to the sequence of operations."""
        kind = entry.kind
        if not kind:
            if self._waits_for_names and entry.form.startswith("^bb0("):
                self._name_arguments(entry)
                return False
            if entry.line.startswith("}) {") and "mhlo.num_" in (line := entry.line[:10_000]):
                # The end of a module in the generic form.
                self._read_counts(line)
                return False
            self._hash.update(entry.form.encode("utf-8", "replace"))
            return True
        if kind in _MODULES:
            self._read_module(entry)
            return False
        if not self._form:
            self._form = "generic" if entry.line.lstrip("%0123456789:= ").startswith('"') else "pretty"
        self._waits_for_names = False
        if kind == "func.func" and (not self._head or (entry.function == "main" and self._head != "main")):
            self._read_head(entry)
            return False
        self._count(kind, entry)
        return True

    def outline(self) -> Outline:
        """The outline of the entries so far."""
        return Outline(
            name=self._name,
            form=self._form,
            partitions=self._partitions,
            replicas=self._replicas,
            attributes=self._attributes,
            meshes=tuple(self._meshes),
            arguments=tuple(self._arguments),
            argument_count=self._counts[0],
            argument_hash=self._hashes[0].hexdigest(),
            results=tuple(self._results),
            result_count=self._counts[1],
            result_hash=self._hashes[1].hexdigest(),
            operations=self._operations,
            constants=self._constants,
            custom_calls=self._custom_calls,
            total=self._total,
            hash=self._hash.hexdigest(),
            checkpoints=tuple(self._checkpoints),
            stride=self._stride,
        )

    def _count(self, kind: str, entry: Entry) -> None:
        form = entry.form
        data = form.encode("utf-8", "replace")
        self._hash.update(data)
        self._total += 1
        if self._total % self._stride == 0:
            if len(self._checkpoints) == _CHECKPOINTS:
                self._checkpoints = self._checkpoints[1::2]
                self._stride *= 2
            if self._total % self._stride == 0:
                self._checkpoints.append(self._hash.hexdigest()[:8])
        if kind == "stablehlo.constant":
            self._constants.add(constant_of(entry.line))
            self._operations.add(kind)
            return
        if kind in ENDS:
            return
        if kind == "stablehlo.custom_call":
            target = _TARGET.search(entry.line)
            self._custom_calls.add(_bounded((target[1] or target[2] or "").strip('"')) if target else "")
        elif kind == "sdy.mesh" and len(self._meshes) < _MAX_MESHES:
            self._meshes.append(_bounded(entry.form.partition(" = ")[2] or entry.form))
        self._operations.add(kind, crc32(loose(form).encode("utf-8", "replace")))

    def _read_module(self, entry: Entry) -> None:
        # The generic form has the name and the attributes of the module in one dictionary; other names follow.
        if self._name or self._form:
            return
        line = entry.line[:10_000]
        if found := _MODULE_NAME.search(line):
            self._name = _bounded(found[1] or found[2] or "")
        self._form = "generic" if line.startswith('"') else "pretty"
        self._read_counts(line)
        if found := _ATTRIBUTES.search(line):
            self._attributes = _bounded(_COUNTED.sub("", found[1]).removesuffix(", "))

    def _read_counts(self, line: str) -> None:
        if found := _PARTITIONS.search(line):
            self._partitions = int(found[1])
        if found := _REPLICAS.search(line):
            self._replicas = int(found[1])

    def _read_head(self, entry: Entry) -> None:
        self._head = entry.function or "?"
        self._arguments, self._results, self._counts = [], [], [0, 0]
        self._hashes = [blake2b(digest_size=8), blake2b(digest_size=8)]
        # The text itself: names of arguments are in locations.
        text = self._text
        start = entry.start + (len(line) - len(line.lstrip()) if (line := text[entry.start : entry.start + 200]) else 0)
        if text.startswith('"', start):
            self._read_generic_head(start, entry.end)
            return
        first = text.find("(", start, entry.end)
        if first < 0:
            return
        last = _closing(text, first, entry.end)
        for low, high in _split(text, first + 1, last):
            self._take(0, text[low:high])
        arrow = text.find("->", last, min(last + 10, entry.end))
        if arrow < 0:
            return
        first = arrow + 2
        while text.startswith(" ", first):
            first += 1
        if text.startswith("(", first):
            for low, high in _split(text, first + 1, _closing(text, first, entry.end)):
                self._take(1, text[low:high])
        else:
            rest = text[first : entry.end].rstrip("{ \r")
            self._take(1, rest.partition(" attributes {")[0])

    def _read_generic_head(self, start: int, end: int) -> None:
        text = self._text
        parts = []
        for name in ("arg_attrs = [", "res_attrs = [", "function_type = "):
            found = text.find(name, start, end)
            parts.append(found + len(name) if found >= 0 else -1)
        arguments, results, types = parts
        if types < 0 or not text.startswith("(", types):
            return
        last = _closing(text, types, end)
        takes = list(_split(text, types + 1, last))
        attributes = list(_split(text, arguments, _closing(text, arguments - 1, end))) if arguments >= 0 else []
        self._take_all(0, takes, attributes)
        first = text.find("->", last, min(last + 10, end)) + 2
        if first < 2:
            return
        while text.startswith(" ", first):
            first += 1
        is_list = text.startswith("(", first)
        gives = (
            list(_split(text, first + 1, _closing(text, first, end))) if is_list else list(_split(text, first, end))[:1]
        )
        attributes = list(_split(text, results, _closing(text, results - 1, end))) if results >= 0 else []
        self._take_all(1, gives, attributes)
        self._waits_for_names = True

    def _take_all(self, which: int, types: list[tuple[int, int]], attributes: list[tuple[int, int]]) -> None:
        for number, (low, high) in enumerate(types):
            known = attributes[number] if number < len(attributes) else (0, 0)
            self._take(which, f"{self._text[low:high].strip()} {self._text[known[0] : known[1]].strip()}")

    def _name_arguments(self, entry: Entry) -> None:
        self._waits_for_names = False
        text = self._text
        first = text.find("(", entry.start, entry.end)
        for number, (low, high) in enumerate(_split(text, first + 1, _closing(text, first, entry.end))):
            if number >= len(self._arguments):
                break
            one = self._arguments[number]
            if name := self._name_in(text[low:high]):
                self._arguments[number] = Argument(one.type, one.donation, one.sharding, one.other, name)

    def _take(self, which: int, part: str) -> None:
        """Add an argument or result, `%arg0: tensor<4xf32> {tf.aliasing_output = 0 : i32} loc("x")`."""
        name = self._name_in(part) if which == 0 and self._counts[0] < _MAX_ARGUMENTS else ""
        one = _argument(without_locations(part.strip()), name)
        self._counts[which] += 1
        parts = (one.type, one.donation, one.sharding, one.other, one.name if which else "")
        self._hashes[which].update("\0".join(parts).encode("utf-8", "replace") + b"\n")
        kept = (self._arguments, self._results)[which]
        if len(kept) < _MAX_ARGUMENTS:
            kept.append(one)

    def _name_in(self, part: str) -> str:
        found = part.rfind("loc(")
        if found < 0 or part.startswith("loc(unknown", found):
            return ""
        if self._locations is None:
            self._locations = Locations(self._text)
        # The outermost location begins the text; inner ones are parts of it.
        first = part.find(" loc(")
        return _bounded(self._locations.name_of(part[first + 1 :] if first >= 0 else part[found:]))


def constant_of(line: str) -> str:
    """The key of a constant in `Outline.constants`: its value or hash, and its type."""
    found = _CONSTANT.search(line)
    if found is None:
        return f"#{digest(line, 0, len(line))} : ?"
    value, kind = found[1], found[2].partition("}>")[0].strip()
    if value.startswith('"') or (len(value) > _MAX_VALUE and not value.startswith("#")):
        value = f"#{digest(value, 0, len(value))}"
    return f"{clean(value)} : {_bounded(kind)}"


def loose(form: str) -> str:
    """The form of a line without its operands and the functions that it names."""
    return _OPERAND.sub("%", form)


def _argument(part: str, name: str) -> Argument:
    """An argument or result without its location."""
    if part.startswith("%"):
        part = part.partition(":")[2].lstrip()
    brace = part.find(" {")
    if brace < 0:
        return Argument(_bounded(part), name=name)
    kind, attributes = part[:brace], part[brace + 2 :].strip().removesuffix("}")
    if len(attributes) > _MAX_ATTRIBUTES:
        return Argument(_bounded(kind.strip()), other=_bounded(attributes), name=name)
    donation = sharding = ""
    if found := _ALIASED.search(attributes):
        donation = f"output {found[1]}"
    elif _DONOR.search(attributes):
        donation = "donor"
    if found := _SHARDING.search(attributes):
        sharding = _bounded(found[1].strip('"'))
    if found := _RESULT_NAME.search(attributes):
        name = _bounded(found[1].strip('"'))
    other = _bounded(_KNOWN.sub("", attributes).strip().removesuffix(","))
    return Argument(_bounded(kind.strip()), donation, sharding, other, name)


def _bounded(text: str) -> str:
    """A printable text that fits into an outline; a longer one ends with its hash."""
    if len(text) <= _MAX_PART:
        return clean(text)
    return f"{clean(text[: _MAX_PART - 17])}…{digest(text, 0, len(text))}"


def _closing(text: str, start: int, end: int) -> int:
    """Where the bracket at `start` closes; `end` if it does not."""
    depth = 0
    for token in _SPLIT.finditer(text, start, end):
        what = token[0]
        if what in "([{<":
            depth += 1
        elif what in ")]}>":
            depth -= 1
            if depth <= 0:
                return token.start()
    return end


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a list between commas."""
    depth, first = 0, start
    for token in _SPLIT.finditer(text, start, end):
        what = token[0]
        if what == ",":
            if depth == 0:
                yield first, token.start()
                first = token.end()
        elif what in "([{<":
            depth += 1
        elif what in ")]}>":
            depth -= 1
    if text[first : min(end, first + 10_000)].strip():
        yield first, end


def _packed(items: Sequence[Argument], count: int, hashed: str, *, is_result: bool) -> dict[str, Any]:
    """Arguments as different ones and runs of their numbers."""
    kinds: dict[tuple[str, ...], int] = {}
    runs: list[list[int]] = []
    for one in items:
        parts: tuple[str, ...] = (one.type, one.donation, one.sharding, one.other)
        # Each result has a name of its own, such as result[0]: in a long list, only the hash includes them.
        if is_result and len(items) <= _ROW_TYPES:
            parts += (one.name,)
        # Every donated argument has its own number.
        if one.donation.startswith("output ") and len(items) > _ROW_TYPES:
            parts = (one.type, "output", one.sharding, one.other)
        number = kinds.get(parts)
        if number is None:
            if len(kinds) == _ROW_TYPES:
                break
            number = kinds[parts] = len(kinds)
        if runs and runs[-1][1] == number:
            runs[-1][0] += 1
        elif len(runs) == _ROW_RUNS:
            break
        else:
            runs.append([1, number])
    return {"count": count, "hash": hashed, "kinds": [_trimmed(one) for one in kinds], "runs": runs}


def _trimmed(parts: Iterable[str]) -> list[str]:
    found = list(parts)
    while len(found) > 1 and not found[-1]:
        found.pop()
    return found


def _unpacked(row: Any) -> tuple[Argument, ...]:
    kinds = [(list(map(str, one)) + [""] * 5)[:5] for one in row["kinds"]]
    items: list[Argument] = []
    for number, which in row["runs"]:
        one = kinds[which]
        items += [Argument(one[0], one[1], one[2], one[3], one[4])] * min(int(number), _MAX_ARGUMENTS - len(items))
    return tuple(items)
