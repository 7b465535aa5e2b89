"""Sentences about the differences between two programs."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from jitwatch.programs import Change, Difference, Operation
from jitwatch.render import formats

#: Clauses of the sentence.
_MAX_CLAUSES: Final = 3
_TENSOR = re.compile(r"tensor<((?:[\d?]+x)*)(\w[\w<>]*)(, [^<>]*(?:<[^<>]*>)?)?>")
_FLOATS: Final = {"f16": "<e", "f32": "<f", "f64": "<d"}
_DTYPES: Final = {"i1": "bool", "bf16": "bfloat16", "complex<f32>": "complex64", "complex<f64>": "complex128"}
#: Kinds of changes that follow from the others: they are in the sentence only if there is nothing else.
_CONSEQUENCES: Final = frozenset({"operation_types", "order"})


def summary(found: Difference) -> str:
    """The difference in one sentence, such as `The constant 0.001 changed to 0.002.`."""
    if found.is_equal:
        return "The programs are equal."
    causes = [one for one in found.changes if one.kind not in _CONSEQUENCES] or list(found.changes)
    clauses = _clauses(causes)
    shown = clauses[:_MAX_CLAUSES]
    more = len(found.changes) + found.left_out - sum(number for _, number in shown)
    texts = [text for text, _ in shown]
    if more > 0:
        texts.append(f"there {'is' if more == 1 else 'are'} {formats.count(more, 'further difference')}")
    text = ", and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
    return f"{text[0].upper()}{text[1:]}."


def clause(one: Change) -> str:
    """One change: `the constant 0.001 (float16[]) changed to 0.002`."""
    return _WORDS[one.kind](one)


def type_text(kind: str) -> str:
    """A type as JAX writes it: `float32[8,4]` of `tensor<8x4xf32>`; other types as they are."""
    found = _TENSOR.fullmatch(kind)
    if not found:
        return kind
    shape = ",".join(found[1].split("x")[:-1])
    return f"{_dtype(found[2])}[{shape}]"


def constant_text(value: str, kind: str) -> str:
    """The value of a constant: `0.001` of `1.000000e-03`, `-inf` of `0xFF800000`; a large one as its hash."""
    found = _TENSOR.fullmatch(kind)
    dtype = found[2] if found else ""
    try:
        if value.startswith("0x") and len(value) <= 18:
            data = int(value, 16)
            if dtype == "bf16":
                return f"{struct.unpack('<f', struct.pack('<I', data << 16))[0]:g}"
            if form := _FLOATS.get(dtype):
                return f"{struct.unpack(form, data.to_bytes(struct.calcsize(form), 'little'))[0]:g}"
            return value
        if dtype.startswith(("f", "bf")) and not value.startswith(("#", "[", "(")):
            short = f"{float(value):.7g}"
            return short if len(short) < len(value) else value
    except (ValueError, OverflowError, struct.error):
        pass
    return value


def _dtype(name: str) -> str:
    if known := _DTYPES.get(name):
        return known
    if found := re.fullmatch(r"(ui|i|f)(\d+)", name):
        return {"ui": "uint", "i": "int", "f": "float"}[found[1]] + found[2]
    return name


def _clauses(changes: Sequence[Change]) -> list[tuple[str, int]]:
    """The clauses of the sentence, each with the number of changes that it covers."""
    found: list[tuple[str, int]] = []
    groups: dict[tuple[str, bool, bool], list[Change]] = {}
    for one in changes:
        groups.setdefault((one.kind, one.before is None, one.after is None), []).append(one)
    for (kind, _, _), group in groups.items():
        if kind == "operation":
            more = [one for one in group if _number(one.after) > _number(one.before)]
            fewer = [one for one in group if _number(one.after) < _number(one.before)]
            found += [
                (_operations(some, word), len(some)) for some, word in ((more, "added"), (fewer, "removed")) if some
            ]
        elif kind == "operation_types":
            names = formats.listed([_short(one.what) for one in group], 3)
            found.append((f"{names} {'has' if len(group) == 1 else 'have'} different types or attributes", len(group)))
        elif len(group) > 2 and kind in _MANY:
            found.append((_MANY[kind](group), len(group)))
        else:
            found += [(clause(one), 1) for one in group]
    return found


def _operations(changes: Sequence[Change], word: str) -> str:
    numbers = [(abs(_number(one.after) - _number(one.before)), _short(one.what)) for one in changes]
    numbers.sort(reverse=True)
    names = formats.listed([f"{number:,} {name}" for number, name in numbers], 3)
    total = sum(number for number, _ in numbers)
    return f"{names} operation{' was' if total == 1 else 's were'} {word}"


def _short(kind: str) -> str:
    return "private function" if kind == "func.func" else kind.removeprefix("stablehlo.")


def _number(value: str | int | None) -> int:
    return value if isinstance(value, int) else 0


def _typed(one: Change) -> str:
    if one.what == "":
        if one.before == one.after:
            return f"further {one.kind}s differ"
        return f"the number of {one.kind}s changed from {one.before} to {one.after}"
    if one.before is None:
        return f"{one.what} ({type_text(str(one.after))}) was added"
    if one.after is None:
        return f"{one.what} ({type_text(str(one.before))}) was removed"
    return f"{one.what} changed from {type_text(str(one.before))} to {type_text(str(one.after))}"


def _constant(one: Change) -> str:
    dtype = type_text(one.what)
    shown = "" if dtype in {"float32[]", "int32[]"} else f" ({dtype})"
    times = f" ({one.count:,} times)" if one.count > 1 else ""
    values = [None if value is None else constant_text(str(value), one.what) for value in (one.before, one.after)]
    if values[0] == values[1]:
        values = [str(one.before), str(one.after)]
    is_large = any(value is not None and value.startswith("#") for value in values)
    if is_large and None not in values:
        return f"a constant {dtype} has different values{times}"
    named = [f"{dtype}" if value is not None and value.startswith("#") else f"{value}{shown}" for value in values]
    if values[0] is None:
        return f"the constant {named[1]} was added{times}"
    if values[1] is None:
        return f"the constant {named[0]} was removed{times}"
    return f"the constant {named[0]} changed to {values[1]}{times}"


def _donation(one: Change) -> str:
    if one.before is None:
        return f"{one.what} is donated now"
    if one.after is None:
        return f"{one.what} is no longer donated"
    return f"{one.what} is donated to {one.after} instead of {one.before}"


def _sharding(one: Change) -> str:
    if one.before is None or one.after is None:
        text = f"is sharded as {one.after} now" if one.before is None else f"is no longer sharded as {one.before}"
        return f"{one.what} {text}"
    return f"the sharding of {one.what} changed from {one.before} to {one.after}"


def _valued(what: str) -> Callable[[Change], str]:
    def words(one: Change) -> str:
        if not one.before or not one.after:
            return f"{what} {one.after or one.before} was {'added' if one.after else 'removed'}"
        return f"{what} changed from {one.before} to {one.after}"

    return words


def _calls(one: Change) -> str:
    more = _number(one.after) - _number(one.before)
    word = "was" if abs(more) == 1 else "were"
    return f"{formats.count(abs(more), 'custom call')} of {one.what} {word} {'added' if more > 0 else 'removed'}"


def _one_operation(one: Change) -> str:
    return _operations([one], "added" if _number(one.after) > _number(one.before) else "removed")


def _forms(one: Change) -> str:
    return f"only types and constants were compared, since one text is {one.before} and the other {one.after}"


def _many(text: str) -> Callable[[Sequence[Change]], str]:
    def words(group: Sequence[Change]) -> str:
        return text.format(len(group), group[0].what)

    return words


def _many_donated(group: Sequence[Change]) -> str:
    how = "are donated now" if group[0].before is None else "are no longer donated"
    if group[0].before is not None and group[0].after is not None:
        how = "are donated to different results"
    return f"{len(group):,} arguments ({group[0].what.partition(' ')[2]}, …) {how}"


def _many_typed(group: Sequence[Change]) -> str:
    one = group[0]
    how = "were added" if one.before is None else "were removed" if one.after is None else "changed"
    return f"{len(group):,} {one.kind}s {how} ({clause(one)}, …)"


def _many_constants(group: Sequence[Change]) -> str:
    one = group[0]
    how = "were added" if one.before is None else "were removed" if one.after is None else "changed"
    return f"{len(group):,} constants {how} ({clause(one)}, …)"


_WORDS: Final[dict[str, Callable[[Change], str]]] = {
    "form": _forms,
    "name": _valued("the name"),
    "partitions": _valued("the number of partitions"),
    "replicas": _valued("the number of replicas"),
    "attributes": _valued("the module's attributes"),
    "mesh": _valued("the mesh"),
    "argument": _typed,
    "result": _typed,
    "donation": _donation,
    "sharding": _sharding,
    "constant": _constant,
    "custom_call": _calls,
    "operation": _one_operation,
    "operation_types": lambda one: f"{_short(one.what)} operations have different types or attributes",
    "order": lambda _: "the operations are in a different order or have different operands",
}  # fmt: skip
_MANY: Final[dict[str, Callable[[Sequence[Change]], str]]] = {
    "argument": _many_typed,
    "result": _many_typed,
    "constant": _many_constants,
    "donation": _many_donated,
    "sharding": _many("{:,} shardings changed (of {}, …)"),
}


# Details


def changes(found: Difference) -> list[str]:
    """All changes, a sentence each; kinds of operations with different types share one."""
    types = [one for one in found.changes if one.kind == "operation_types"]
    texts = [clause(one) for one in found.changes if one.kind != "operation_types"]
    if types:
        kinds = ", ".join(_short(one.what) for one in types)
        texts.append(f"operations of the same kind have different types or attributes: {kinds}")
    texts = [f"{text[0].upper()}{text[1:]}." for text in texts]
    return texts + ([f"And {found.left_out:,} more."] if found.left_out else [])


def place(one: Operation) -> str:
    """The location of an operation: `train.py:88, line 412 of the text, in main`."""
    parts = [formats.file_line(one.source)] if one.source else []
    parts.append(f"line {one.line:,} of the text")
    parts += [f"in {one.function}"] if one.function else []
    return ", ".join(parts)


def position(found: Difference) -> str:
    """The first operation that differs, and the numbers of operations; empty if the programs are equal."""
    if found.same is None:
        return ""
    if found.before is None and found.after is None:
        return f"At least the first {formats.count(found.same, 'operation')} are equal." if found.same else ""
    first = "The first operation differs" if not found.same else f"Equal up to operation {found.same:,}"
    return f"{first}; {formats.count(found.old_total, 'operation')} before, {found.new_total:,} now."
