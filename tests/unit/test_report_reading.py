"""Reading what may be torn, foreign, newer, huge or no log at all."""

from __future__ import annotations

import gzip
import json
import os
import random

import pytest

from jitwatch.errors import ConfigError
from jitwatch.report import lines as lines_of
from jitwatch.report import sentences, sources
from jitwatch.report.read import read_logs
from tests.unit.logs import compiled, ended, installed, lines, pitfall, read, recompiled, written

GOOD = lines(installed(), compiled(), recompiled(), ended())


def log_of(path, content) -> dict:
    return read(written(path, content))["log"]


def test_reading_counts_lines_and_bytes(tmp_path):
    """A whole log leaves nothing to say."""
    document = read(written(tmp_path / "a.jsonl", GOOD))

    assert {"files": 1, "bytes": len(b"".join(GOOD)), "lines": 4, "events": 4} == {
        name: document["log"][name] for name in ("files", "bytes", "lines", "events")
    }
    assert [] == sentences.log(document)


def test_reading_reports_an_incomplete_last_line_once(tmp_path):
    """The job was killed while it wrote; what comes before counts."""
    document = read(written(tmp_path / "a.jsonl", [*GOOD, GOOD[2][:100]]))

    assert (1, 0) == (document["log"]["torn"], document["log"]["unreadable"])
    assert 1 == document["totals"]["recompiles"]
    assert ["Ignored, of 5 lines: 1 incomplete last line (the job was killed or is still writing)."] == sentences.log(
        document
    )


def test_reading_takes_a_last_line_without_a_newline(tmp_path):
    """It is whole."""
    document = read(written(tmp_path / "a.jsonl", [*GOOD[:-1], GOOD[-1].rstrip(b"\n")]))

    assert [] == sentences.log(document)
    assert 100.0 == document["wall_seconds"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "invalid JSON (Expecting value at character 1)"),
        (b"{", "invalid JSON (Expecting property name enclosed in double quotes at character 2)"),
        (b"[1, 2]", "not an event"),
        (b'"event"', "not an event"),
        (b"17", "not an event"),
        (b"null", "not an event"),
        (b'{"no": "event"}', "not an event"),
        (b'{"event": "jit.compiled"} {"event": "jit.compiled"}', "more than one JSON object"),
        (b"\xff\xfe\x00", "invalid JSON (Expecting value at character 1)"),
        (b"\x00" * 300, "invalid JSON (Expecting value at character 1)"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"event":' * 100_000, "nested too deep"),
    ],
    ids=lambda line: repr(line[:24]),
)
def test_reading_counts_lines_that_are_no_events(tmp_path, line, reason):
    """And goes on behind them; which line it was is said."""
    document = read(written(tmp_path / "a.jsonl", [*GOOD[:2], b"\n", line + b"\n", *GOOD[2:]]))

    assert (1, 1) == (document["log"]["unreadable"], document["totals"]["recompiles"])
    assert [
        "Ignored, of 5 lines: 1 line that cannot be read.",
        f"The first: a.jsonl:4: {reason}.",
    ] == sentences.log(document)


def test_reading_skips_empty_lines(tmp_path):
    """They are nothing, and Windows' line ends are no harm."""
    content = [b"\n", b"  \n", *(line.replace(b"\n", b"\r\n") for line in GOOD), b"\r\n"]

    assert {"lines": 4, "unreadable": 0}.items() <= log_of(tmp_path / "a.jsonl", content).items()


@pytest.mark.parametrize("name", ["function", "compile_s"])
def test_reading_counts_events_without_their_fields(tmp_path, name):
    """As the agent writes them when they are too long."""
    record = json.loads(GOOD[2])
    del record[name]
    document = read(written(tmp_path / "a.jsonl", [*GOOD, json.dumps(record).encode() + b"\n"]))

    assert 1 == document["log"]["incomplete"]
    assert 1 == document["totals"]["recompiles"]
    assert [
        "Ignored, of 5 lines: 1 event with missing fields.",
        f"The first: a.jsonl:5: no {name}.",
    ] == sentences.log(document)


def test_reading_names_events_that_it_does_not_know(tmp_path):
    """Twenty names, and how many there were."""
    unknown = [json.dumps({"event": f"jit.invented_{number}"}).encode() + b"\n" for number in range(30)]
    document = read(written(tmp_path / "a.jsonl", [*GOOD, *unknown, b'{"event": 7}\n']))

    assert 31 == sum(document["log"]["unknown_events"].values())
    assert 21 == len(document["log"]["unknown_events"])
    assert [
        "Ignored, of 35 lines: 31 events of unknown kind (jit.invented_0, jit.invented_1, jit.invented_2 and 18 more)."
    ] == sentences.log(document)


def test_reading_counts_a_newer_schema_all_the_same(tmp_path):
    """Names are only ever dropped late, so most is right."""
    newer = [line.replace(b'"schema": 1', b'"schema": 2') for line in GOOD]
    document = read(written(tmp_path / "a.jsonl", newer))

    assert (4, 1) == (document["log"]["newer_schema"], document["totals"]["recompiles"])
    assert ["4 events of a newer jitwatch: install that version to read all fields."] == (sentences.log(document))


def test_reading_survives_fields_of_other_types(tmp_path):
    """Each field of each event in turn is something else: nothing raises, and figures stay finite."""
    content = [*GOOD]
    for line in lines(recompiled(), pitfall()):
        record = json.loads(line)
        for name in record:
            for value in (None, -1, 1e308, float("nan"), True, "text", ["x", {}], {"a": 1}, "x" * 5_000):
                content.append(json.dumps(record | {name: value}).encode() + b"\n")
    document = read(written(tmp_path / "a.jsonl", content))

    assert document["totals"]["lost_seconds"] < 1e4
    assert max(len(row["function"]) for row in document["functions"]) <= 1_000


def test_reading_replaces_bytes_that_are_no_text(tmp_path):
    """The rest of the line counts."""
    document = read(written(tmp_path / "a.jsonl", [line.replace(b"train.step", b"train.\xff\xc3") for line in GOOD]))

    assert {"train.��"} == {row["function"] for row in document["functions"]}


def test_reading_takes_lines_longer_than_a_block(tmp_path, monkeypatch):
    """A line may begin in one block and end in a later one."""
    monkeypatch.setattr(lines_of, "_BLOCK", 1_000)
    long = json.loads(GOOD[1]) | {"thread": "x" * (2**20 - 10_000)}
    document = read(written(tmp_path / "a.jsonl", [json.dumps(long).encode() + b"\n", *GOOD[2:]]))

    assert (0, 2) == (document["log"]["unreadable"], document["totals"]["compiles"])


def test_reading_drops_a_line_without_end(tmp_path, monkeypatch):
    """It is never in memory as a whole; the lines behind it count."""
    monkeypatch.setattr(lines_of, "MAX_LINE", 1_000)
    monkeypatch.setattr(lines_of, "_BLOCK", 100)
    document = read(written(tmp_path / "a.jsonl", [GOOD[0], b"x" * 10_000 + b"\n", *GOOD[1:], b"no\n"]))

    assert (2, 1) == (document["log"]["unreadable"], document["totals"]["recompiles"])
    assert [(2, "longer than 1 MiB"), (6, "invalid JSON (Expecting value at character 1)")] == [
        (one["line"], one["reason"]) for one in document["log"]["problems"]
    ]


def test_reading_takes_compressed_logs(tmp_path):
    """Whatever their names."""
    path = written(tmp_path / "a.jsonl.gz", [gzip.compress(b"".join(GOOD))])

    assert 1 == read(path)["totals"]["recompiles"]
    assert 1 == read(os.rename(path, tmp_path / "b.log") or tmp_path / "b.log")["totals"]["recompiles"]


def test_reading_takes_the_begin_of_a_damaged_compressed_log(tmp_path):
    """And says which one it was."""
    content = b"".join([*GOOD, random.Random(1).randbytes(5_000).hex().encode() + b"\n"])
    path = written(tmp_path / "a.jsonl.gz", [gzip.compress(content)[:-900]])
    document = read(path)

    assert 1 == document["totals"]["recompiles"]
    assert "Damaged or truncated compressed files: a.jsonl.gz." in sentences.log(document)


def test_reading_reports_that_a_log_is_empty(tmp_path):
    """And what may have happened."""
    with pytest.raises(ConfigError, match=r"there are no events in .*a\.jsonl: the file is empty. The job may not"):
        read(written(tmp_path / "a.jsonl", []))


def test_reading_reports_that_a_file_is_not_a_log(tmp_path):
    """And what to name instead."""
    with pytest.raises(
        ConfigError, match=r"none of the 2 lines in .*a\.jsonl is an event .*:1: invalid JSON.*; name the log that"
    ):
        read(written(tmp_path / "a.jsonl", [b"Dear diary,\n", b'{"event": "breakfast"}\n']))


def test_reading_reports_that_a_file_cannot_be_read(tmp_path, monkeypatch):
    """And what to look at."""
    path = written(tmp_path / "a.jsonl", GOOD)

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read \(Permission denied\); check its permissions"):
        read_logs(sources.find([path]))


def test_reading_reports_progress_over_all_files(tmp_path):
    """In bytes on disk, up to the size of all of them."""
    first = written(tmp_path / "a.jsonl", GOOD)
    second = written(tmp_path / "b.jsonl", GOOD)
    found = sources.find([first, second])
    seen: list[int] = []
    read_logs(found, on_progress=seen.append)

    assert sorted(seen) == seen
    assert sum(one.size for one in found) == seen[-1]


def test_reading_keeps_a_bounded_memory(tmp_path, monkeypatch):
    """Functions and call sites past their bounds are added up, and nothing is lost from the totals."""
    from jitwatch.model.function import Function
    from jitwatch.report import aggregate

    monkeypatch.setattr(aggregate, "MAX_FUNCTIONS", 5)
    monkeypatch.setattr(aggregate, "MAX_CALL_SITES", 5)
    content = []
    for number in range(20):
        function = Function(f"train.f{number}", f"f{number}")
        content += lines(recompiled(function=function, line=number, nth=2), run=f"r{number}")
    document = read(written(tmp_path / "a.jsonl", content))

    assert 20 == document["totals"]["recompiles"]
    assert pytest.approx(40.0) == document["totals"]["lost_seconds"]
    assert 6 == len(document["functions"])
    assert 5 == len(document["call_sites"])
    assert 15 == document["log"]["call_sites_untold"]
