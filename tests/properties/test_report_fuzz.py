"""The report survives any line: no traceback, strict JSON, nothing that steers, and what was left out is said.

`FUZZ_EXAMPLES=20000 pytest tests/unit/test_report_fuzz.py` looks for longer.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitwatch.cli.report import _judge, _rendered
from jitwatch.errors import ConfigError
from jitwatch.model.events.base import EVENT_TYPES
from jitwatch.report import compare, conditions, document, sources
from jitwatch.report.decode import COMMON, decode, decoder_of
from jitwatch.report.read import read_logs
from tests.unit.hostile import HOSTILE, harm_in
from tests.unit.logs import (
    ADD,
    HOT_LINES,
    LOSS,
    TOKENS,
    compiled,
    compiler,
    compiling,
    diverged,
    ended,
    exhausted,
    failed,
    installed,
    leaking,
    lines,
    measured_buffers,
    misfit,
    missed,
    moved,
    pitfall,
    pressed,
    profiled,
    recompiled,
    sampled,
    storm_ended,
    storm_started,
    uninstalled,
    unsteady,
    unusable_probe,
    used_after,
)
from tests.unit.test_report_html import Page

#: The fields that are read, by event.
EVENTS = {
    kind: decoder_of(event).kinds for kind, event in EVENT_TYPES.items() if event.__module__.startswith("jitwatch.")
}
#: One of each, as the agent writes them.
EVERYTHING = (
    installed(), compiled(
        persistent_cache="miss",
        persistent_cache_reason="unknown",
        persistent_cache_explanation="It is not known.",
        persistent_cache_written=True,
    ), compiled(ADD),
    compiled(LOSS), recompiled(), recompiled(function=LOSS, line=7, trace_hot_lines=HOT_LINES), failed(), profiled(),
    compiling(),
    pitfall(), storm_started(), storm_ended(), unsteady(), used_after(), exhausted(), leaking(), pressed(), sampled(),
    misfit(), measured_buffers(), exhausted(allocation_bytes=2**31, peak_buffers=measured_buffers().peak_buffers),
    unusable_probe(), ended(pitfalls=({"pitfall": "shape_churn", "function": "train.step", "lost_s": 1.0},)),
    moved(), compiler(), diverged(), missed(program="0123456789ab", is_counted=True), uninstalled(),
)  # fmt: skip
LINES = lines(*EVERYTHING)
RECORDS = [json.loads(line) for line in LINES]
BY_EVENT = {record["event"]: record for record in RECORDS}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "30"))
LONGER = settings(
    max_examples=EXAMPLES,
    deadline=timedelta(seconds=60),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
CONDITIONS = (
    "recompiles > 0", "lost_seconds >= 0.1", "lost_ratio > 0", "busy_ratio != 0", "missing_events > 5",
    "train.*:recompiles > 0", "train.step:lost_ratio >= 0", "*:cache_entries > 0", "more_recompiles > 0",
    "more_lost_seconds > 0",
)  # fmt: skip


def strict(text: str) -> Any:
    """Read JSON as a parser that knows no NaN, no lone surrogate and no number past a float."""

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(text, parse_constant=refuse)
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    return found


def document_of(path: Path) -> dict[str, Any] | None:
    """The document of a log, or None where it is said to be none."""
    with contextlib.suppress(ConfigError):
        return document.document(*read_logs(sources.find([str(path)])))
    with pytest.raises(ConfigError) as caught:
        read_logs(sources.find([str(path)]))
    assert [] == harm_in(str(caught.value))
    return None


def check(now: Path, before: Path | None = None) -> dict[str, Any] | None:
    """Make all outputs of a log and look at them; the document, or None where the file is said to be no log."""
    one, other = document_of(now), document_of(before) if before is not None else None
    if one is None:
        return None
    comparison = compare.compare(one, other) if other is not None else None
    text, page = (_rendered(form, one, comparison, 100) for form in ("text", "html"))
    assert [] == harm_in(text) + harm_in(page)
    Page(page)
    found = _rendered("json", one, comparison, 100)
    assert [] == harm_in(found)
    strict(found)
    log = one["log"]
    left_out = log["unreadable"] + log["incomplete"] + log["misfits"]
    assert bool(left_out) == bool(log["problems"])
    for problem in log["problems"][:3]:
        assert f"{problem['log']}:{problem['line']}: " in text.replace("\n    ", " ")
    wanted = [conditions.parse(text, is_compared=other is not None) for text in CONDITIONS[: None if other else -2]]
    _judge(wanted, one, comparison)
    return one


def checked(content: bytes, name: str = "a.jsonl", before: bytes | None = None) -> dict[str, Any] | None:
    """The same for what is in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path, old = Path(folder, name), Path(folder, "before", "b.jsonl")
        path.write_bytes(content)
        if before is not None:
            old.parent.mkdir()
            old.write_bytes(before)
        return check(path, old if before is not None else None)


def with_token(record: dict[str, Any], path: tuple[Any, ...], token: str) -> bytes:
    """The line of a record in which the value at a path is this raw text."""
    copy = json.loads(json.dumps(record))
    *way, last = path
    inner: Any = copy
    for step in way:
        inner = inner[step]
    inner[last] = "@@"
    return json.dumps(copy).replace('"@@"', token).encode() + b"\n"


def paths_in(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where all values of a record are, inner ones as well."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, one in items for path in [(*before, key), *paths_in(one, (*before, key))]]


@pytest.mark.parametrize("event", sorted(BY_EVENT))
def test_report_survives_any_value_of_any_field(event):
    """Each field of each event in turn holds each odd value, between sound lines, which all count."""
    record = BY_EVENT[event]
    names = [path for path in paths_in(record) if path != ("event",)]
    content = [with_token(record, path, token) for path in names for token in TOKENS]
    found = checked(b"".join([*LINES, *content, *LINES]), before=b"".join(content))

    assert found is not None
    assert found["log"]["misfits"] > 0
    assert found["totals"]["compiles"] >= 2 * 4 if event != "jit.compiled" else True
    assert max(len(row["function"]) for row in found["functions"]) <= 1_000


def test_report_names_the_field_and_line_of_an_invalid_value():
    """With what it is and what was expected; the rest of the line counts."""
    bad = [
        with_token(BY_EVENT["jit.recompiled"], ("compile_s",), "NaN"),
        with_token(BY_EVENT["jit.recompiled"], ("seq",), "9" * 4_300),
        with_token(BY_EVENT["donation.violation"], ("timestamp",), '"9999-12-31T23:59:59.999999Z"'),
        with_token(BY_EVENT["jit.recompiled"], ("causes",), '["shape", 7]'),
        with_token(BY_EVENT["memory.oom"], ("devices",), '[{"device": true, "in_use_bytes": -1}, 5]'),
        with_token(BY_EVENT["jit.pitfall"], ("message",), '{"a": 1}'),
    ]
    found = checked(b"".join([LINES[0], *bad]))

    assert found is not None
    assert (8, 1) == (found["log"]["misfits"], found["log"]["incomplete"])
    assert [
        (2, "compile_s is nan, expected seconds from 0 to 1e+10; no compile_s"),
        (3, "seq is inf, expected a whole number from 1 to 9.0072e+15"),
        (
            4,
            "timestamp is '9999-12-31T23:59:59.999999Z', expected a time in UTC from 1970 to 2199, as "
            "2025-03-01T12:00:00.000Z",
        ),
        (5, "causes: 7 in the list, expected a text"),
        (
            6,
            "devices: device is true, expected a text; devices: in_use_bytes is -1, expected a whole number from 0 to "
            "9.0072e+15; devices: 5 in the list, expected an object",
        ),
        (7, "message is an object, expected a text"),
    ] == [(one["line"], one["reason"]) for one in found["log"]["problems"]]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.integers(-(10**320), 10**320)
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(HOSTILE).map(lambda text: text[:2_000])
    | st.sampled_from([value for record in RECORDS for value in record.values()]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(sorted({name for kinds in EVENTS.values() for name in kinds} | {"path", "device"}))
            | st.text(max_size=5),
            inner,
            max_size=6,
        )
    ),
    max_leaves=10,
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """The line of a record of any kind, some of its fields sound, some odd, some not there, some twice."""
    base = draw(st.sampled_from(RECORDS))
    names = sorted({*base, *EVENTS[base["event"]], *COMMON})
    odd = draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=5), JSON_VALUES, max_size=5))
    gone = draw(st.sets(st.sampled_from(names), max_size=3)) if draw(st.booleans()) else set()
    whole = {name: value for name, value in {**base, **odd}.items() if name not in gone}
    line = json.dumps(whole)
    if draw(st.booleans()) and len(line) > 2:
        name = draw(st.sampled_from(names))
        line = f"{line[:-1]}, {json.dumps(name)}: {json.dumps(draw(JSON_VALUES))}}}"
    return line.encode() + b"\n"


@LONGER
@given(st.lists(records(), max_size=12), st.lists(records(), max_size=4))
def test_report_survives_random_records(now, before):
    """Of any kind, with any values, in any order, also against another run."""
    checked(b"".join([LINES[1], *now]), before=b"".join([LINES[4], *before]))


def mutated(content: bytes, dice: random.Random) -> bytes:
    """A log after what may happen to a file."""
    data = bytearray(content)
    for _ in range(dice.randrange(1, 8)):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((1, 2, 10, 300)))
        what = dice.randrange(8)
        if what == 0:
            data[at:end] = dice.randbytes(end - at)
        elif what == 1:
            del data[at:end]
        elif what == 2:
            data[at:at] = dice.choice(TOKENS).encode()
        elif what == 3:
            data[at:at] = dice.choice(
                (b"\x00" * 50, b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"[" * 2_000, b'{"a":' * 500)
            )
        elif what == 4:
            data[at:at] = data[at:end]
        elif what == 5 and (found := data.find(b": ", at)) >= 0:
            stop = min((one for mark in b",}" if (one := data.find(bytes([mark]), found)) > 0), default=len(data))
            data[found + 2 : stop] = dice.choice(TOKENS).encode()
        elif what == 6:
            del data[at:]
        elif end > at:
            data[at] ^= 1 << dice.randrange(8)
    return bytes(data)


@LONGER
@given(st.randoms(use_true_random=False), st.sampled_from(["a.jsonl", "a.jsonl.gz"]))
def test_report_survives_damaged_logs(dice, name):
    """Bytes flipped, cut, doubled, put in; of a compressed log before and after it was compressed."""
    content = mutated(b"".join(LINES), dice)
    if name.endswith(".gz"):
        packed = gzip.compress(content, compresslevel=1, mtime=0)
        content = (
            mutated(packed, dice) if dice.random() < 0.5 else packed + dice.choice((b"", packed, b"\x00" * 9, b"x"))
        )
    checked(content, name, before=b"".join(LINES))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00" * 5_000, b"\n" * 5_000, b"\xef\xbb\xbf", b"\x1f\x8b", b"\x1f\x8b\x08",
        random.Random(1).randbytes(50_000), gzip.compress(b""), gzip.compress(b"".join(LINES))[:40],
        "".join(map(str, LINES)).encode("utf-16"),
    ],
    ids=["nothing", "zeros", "lines", "mark", "magic", "header", "noise", "packed nothing", "packed start", "utf-16"],
)  # fmt: skip
def test_report_survives_what_is_no_log(content):
    """It says so."""
    assert checked(content) is None


def test_report_reads_behind_a_mark_and_zeros():
    """A byte-order mark of an editor, and the zeros that a machine leaves that crashed, are no part of a line."""
    found = checked(b"\xef\xbb\xbf" + b"".join([*LINES[:5], b"\x00" * 3_000 + LINES[5], *LINES[6:]]))

    assert found is not None
    assert (len(LINES), 0) == (found["log"]["events"], found["log"]["unreadable"])


def test_report_takes_the_last_of_two_fields_of_one_name():
    """As every JSON parser does."""
    found = checked(LINES[0] + LINES[1].replace(b'"compile_s": 1.0', b'"compile_s": 1e999, "compile_s": 2.0'))

    assert found is not None
    assert (0, 2.0) == (found["log"]["misfits"], found["totals"]["phases"]["compile"])


def test_every_event_is_decoded_as_it_was_written():
    """Each field that an event writes is read again, but for those that are declared to be for other readers."""
    #: Objects without declared fields.
    unread = {"growth_bytes_per_second", "top", "compiles", "persistent_cache"}
    logged = [event for event in EVERYTHING if event.kind]
    assert set(EVENTS) == {record["event"] for record in RECORDS}
    for event, line in zip(logged, LINES, strict=True):
        misfits = []
        decoded = decode(json.JSONDecoder(parse_int=float).decode(line.decode()), misfits)
        assert [] == misfits
        written, read = event.payload(), decoded.event.payload()
        ignored = {name for name in event.log_only | unread if type(written.get(name)) is not int} | event.log_only
        for payload in (written, read):
            for name in (*ignored, "nth"):
                payload.pop(name, None)
            if "changes" in payload:
                payload["changes"] = [change["path"] for change in payload["changes"]]
        assert json.loads(json.dumps(written)) == json.loads(json.dumps(read)), event.kind


def test_report_divides_by_nothing_that_is_nearly_nothing():
    """A run of 1e-320 seconds, and steps that take no time: shares and steps stay numbers that can be written."""
    end = with_token(BY_EVENT["run.summary"], ("wall_s",), "1e-320")
    end = end.replace(b'"lost_s": 0.0', b'"lost_s": 1e-300').replace(b'"lost_steps": null', b'"lost_steps": 1e15')
    slow = with_token(BY_EVENT["jit.recompiled"], ("compile_s",), "1e10")
    found = checked(b"".join([LINES[0], slow, end]))

    assert b"1e-300" in end
    assert b"1e15" in end
    assert found is not None
    assert 1e10 < found["totals"]["lost_seconds"] < 1.1e10
