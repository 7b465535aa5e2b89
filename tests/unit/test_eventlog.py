"""The event log: what is in a line, where it goes, and what happens when the disk does not play along."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import structlog

from jitwatch import guard
from jitwatch.errors import ConfigError
from jitwatch.exporters.eventlog import EventLog, resolve_path
from jitwatch.exporters.eventlog.rotation import RotatingFile
from tests.eventlogs import (
    THREAD,
    Clock,
    Drops,
    log_threads,
    open_files,
    parse,
    record,
    seqs,
)
from tests.waiting import wait_until

OpenLog = Callable[..., EventLog]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    wait_until(lambda: not log_threads(), what="the end of the thread of the log")


@pytest.fixture
def open_log() -> Iterator[OpenLog]:
    """Open logs, started unless asked otherwise, and close them after the test."""
    logs: list[EventLog] = []

    def open_one(path: Path | str, *, is_started: bool = True, **options: Any) -> EventLog:
        log = EventLog(str(path), **options)
        logs.append(log)
        if is_started:
            log.start()
        return log

    yield open_one
    for log in logs:
        log.close()


class TestResolvePath:
    def test_file_is_taken_as_it_is(self, tmp_path: Path) -> None:
        """A target that is no folder is the file itself, which may be continued."""
        assert (str(tmp_path / "a.log"), False) == resolve_path(str(tmp_path / "a.log"), run="r", rank=None)

    def test_folder_that_exists_gets_the_name_of_the_run(self, tmp_path: Path) -> None:
        """In a folder the file is named after the run, and no other process's file is used."""
        assert (str(tmp_path / "jitwatch-r.1.jsonl"), True) == resolve_path(str(tmp_path), run="r.1", rank=None)

    def test_folder_that_is_missing_is_known_by_its_separator(self, tmp_path: Path) -> None:
        """A path that ends with a separator is a folder, also before it exists."""
        assert (f"{tmp_path}/new/jitwatch-r.jsonl", True) == resolve_path(f"{tmp_path}/new/", run="r", rank=None)

    @pytest.mark.parametrize(
        ("target", "expected"),
        [("a.jsonl", "a.p3.jsonl"), ("events", "events.p3"), ("logs.d/", "logs.d/jitwatch-r.p3.jsonl")],
    )
    def test_rank_goes_before_the_suffix(self, target: str, expected: str) -> None:
        """Processes of one job never share a file."""
        assert expected == resolve_path(target, run="r", rank=3)[0]

    def test_folder_on_a_disk_that_hangs_counts_as_a_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for the answer longer than for the file."""
        release = threading.Event()
        monkeypatch.setattr(os.path, "isdir", lambda _: release.wait(30))
        try:
            assert ("/net/logs", False) == resolve_path("/net/logs", run="r", rank=None, timeout_s=0.05)
        finally:
            release.set()
        wait_until(
            lambda: "jitwatch-files" not in [one.name for one in threading.enumerate()],
            what="the end of the thread that writes",
        )


class TestLines:
    def test_records_keep_their_order_and_their_keys(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A line has the keys of the record, in their order, and nothing else."""
        path = tmp_path / "deep" / "er" / "e.jsonl"
        log = open_log(path)
        records = [record(seq, self="µ", record=[1, 2.5, None, True, {"event": "x"}], logger=1) for seq in range(50)]
        for one in records:
            log.write(one)
        log.close()
        assert records == parse(path)
        assert [list(one) for one in records] == [list(one) for one in parse(path)]
        assert str(path) == log.path

    def test_other_values_become_the_name_of_their_type(self, tmp_path: Path, open_log: OpenLog) -> None:
        """What JSON does not know is its type; an array is its dtype and shape, never its contents."""
        loop: list[Any] = []
        loop.append(loop)
        values = {
            "path": Path("/a"),
            "set": {1},
            "bytes": b"secret",
            "long": type("x" * 5000, (), {})(),
            "array": np.full((2, 3), 7.0, np.float32),
            "objects": np.array([{"secret": 1}], object),
            "traced": jax.make_jaxpr(lambda x: x)(np.zeros((3,), np.float32)).jaxpr.invars[0].aval,
            "key": jax.random.key(0),
            "on_device": jax.numpy.ones((2, 0)),
            "dtype": np.dtype("float32"),
            "scalar": np.float32(0.5),
            "count": np.int64(4),
            "enum": Enum("Colour", "RED").RED,  # type: ignore[attr-defined]
            "int_enum": IntEnum("Number", "ONE").ONE,  # type: ignore[attr-defined]
            "huge": 10**5000,
            "loop": loop,
            "nested": {1: {None: (OrderedDict(b=Path("/b")),)}, b"k": True, 0.5: 1, np.int64(3): 2},
        }
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        log.write(record(1, **values), urgent=True)
        line = parse(path)[0]
        assert "<" + "x" * 198 + "…" == line.pop("long")
        assert "[" * 16 + '"<list>"' + "]" * 16 == json.dumps(line.pop("loop"))
        expected = {
            "path": f"<{type(Path()).__name__}>",
            "set": "<set>",
            "bytes": "<bytes>",
            "array": "float32[2,3]",
            "objects": "object[1]",
            "traced": "float32[3]",
            "key": "key<fry>[]",
            "on_device": "float32[2,0]",
            "dtype": f"<{type(np.dtype('float32')).__name__}>",
            "scalar": 0.5,
            "count": 4,
            "enum": "<Colour>",
            "int_enum": 1,
            "huge": "<int of 16610 bits>",
            "nested": {"1": {"None": [{"b": "<PosixPath>"}]}, "<bytes>": True, "0.5": 1, "int64[]": 2},
        }
        assert record(1, **expected) == line

    def test_code_of_the_user_is_never_run(self, tmp_path: Path, open_log: OpenLog) -> None:
        """No method of a user's class is called, not even an inherited one that it overrides."""
        called: list[str] = []

        def spy(name: str) -> Any:
            def method(*_args: Any, **_kwargs: Any) -> Any:
                called.append(name)
                raise RuntimeError("the user's")

            return method

        names = ("str", "repr", "format", "getattr", "getattribute", "iter", "len", "int", "index", "float", "bool")
        methods = {f"__{name}__": spy(name) for name in (*names, "hash", "eq", "getitem", "array", "structlog")}
        methods |= {name: spy(name) for name in ("items", "keys", "bit_length", "is_integer")}
        traps = {name: property(spy(name)) for name in ("__class__", "shape", "dtype")}
        meta = type("Meta", (type,), {"__name__": property(spy("name")), "__module__": property(spy("module"))})
        bases: dict[str, tuple[tuple[type, ...], tuple[Any, ...], Any]] = {
            "object": ((), (), "<Own>"),
            "str": ((str,), ("text",), "text"),
            "int": ((int,), (3,), 3),
            "float": ((float,), (0.5,), 0.5),
            "list": ((list,), ([1, 2],), [1, 2]),
            "tuple": ((tuple,), ((1, 2),), [1, 2]),
            "dict": ((dict,), ({"a": 1},), {"a": 1}),
            "array": ((np.ndarray,), ((2,),), "<Own>"),
        }
        values = {key: meta("Own", base, methods | traps)(*args) for key, (base, args, _) in bases.items()}
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        called.clear()  # a few bases call them when they are made
        log.write(record(1, **values))
        log.write({**record(2), "run": values["object"], "text": "x" * 70_000}, urgent=True)
        assert [] == called
        expected = [record(1, **{key: shown for key, (_, _, shown) in bases.items()})]
        assert [*expected, {**record(2), "run": "<Own>", "truncated": True}] == parse(path)

    def test_numbers_that_are_not_finite_become_null(self, tmp_path: Path, open_log: OpenLog) -> None:
        """Each line is strict JSON, which has no NaN and no Infinity."""
        path = tmp_path / "e.jsonl"
        nan, inf = float("nan"), float("inf")
        open_log(path).write(record(1, a=nan, b=[inf, {"c": -inf}], d=np.float32("nan")), urgent=True)
        assert [record(1, a=None, b=[None, {"c": None}], d=None)] == parse(path)

    def test_lone_surrogates_are_replaced(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A file name that is not UTF-8 breaks neither the write nor the text around it."""
        path = tmp_path / "e.jsonl"
        open_log(path).write(record(1, **{"na\udcffme": "ä\ud800x\U0001f600", "b": "1\n2\r3"}), urgent=True)
        assert [record(1, **{"na\ufffdme": "ä\ufffdx\U0001f600", "b": "1\n2\r3"})] == parse(path)

    @pytest.mark.parametrize(
        "more",
        [
            {"text": "x" * 70_000},
            {"text": "ä" * 40_000},
            {"many": list(range(1_000_000))},
            {"keys": dict.fromkeys(range(50_000))},
            {"run": "r" * 70_000},
        ],
        ids=["text", "bytes", "list", "dict", "common"],
    )
    def test_long_line_is_replaced_by_its_common_fields(
        self, tmp_path: Path, open_log: OpenLog, more: dict[str, Any]
    ) -> None:
        """A line over 64 KiB is replaced by a short one that says so."""
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        log.write({**record(1), **more})
        log.write(record(2), urgent=True)
        first, second = parse(path)
        run = more.get("run", "r")
        assert {**record(1), "run": run if len(run) == 1 else "r" * 199 + "…", "truncated": True} == first
        assert record(2) == second

    def test_work_for_a_long_line_is_bounded(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A value of 10^18 elements is left as soon as the line is sure to be too long."""
        many: list[Any] = [0] * 1_000_000
        for _ in range(2):
            many = [many] * 1_000_000
        path = tmp_path / "e.jsonl"
        open_log(path).write(record(1, many=many), urgent=True)
        assert [record(1, truncated=True)] == parse(path)

    def test_line_just_below_the_limit_is_whole(self, tmp_path: Path, open_log: OpenLog) -> None:
        """The limit is for the line, newline included."""
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        room = 2**16 - len(json.dumps(record(1, text=""))) - 1
        log.write(record(1, text="x" * room))
        log.write(record(2, text="x" * (room + 1)), urgent=True)
        assert [2**16, False] == [len(path.read_bytes().split(b"\n")[0]) + 1, "truncated" in parse(path)[0]]
        assert parse(path)[1]["truncated"]

    def test_configuration_of_the_user_is_neither_used_nor_changed(self, tmp_path: Path, open_log: OpenLog) -> None:
        """The user's structlog and logging settings, and their context variables, stay theirs."""
        path = tmp_path / "e.jsonl"
        root = logging.getLogger()

        def refuse(*_args: Any) -> Any:
            raise AssertionError("the user's chain was used")

        class Refused(dict[str, Any]):
            __init__ = refuse

        structlog.configure(processors=[structlog.contextvars.merge_contextvars, refuse], context_class=Refused)
        try:
            config, handlers, level = structlog.get_config(), list(root.handlers), root.level
            with structlog.contextvars.bound_contextvars(secret="s"):
                open_log(path).write(record(1), urgent=True)
                assert {"secret": "s"} == structlog.contextvars.get_contextvars()
            assert config == structlog.get_config()
            assert (handlers, level) == (root.handlers, root.level)
        finally:
            structlog.reset_defaults()
        assert [record(1)] == parse(path)


class TestQueue:
    def test_record_is_written_within_a_second(self, tmp_path: Path, open_log: OpenLog) -> None:
        """Nobody has to close or flush for a record to reach the file."""
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        for seq in range(3):
            log.write(record(seq))
            wait_until(lambda: seqs(path)[-1:] == [seq], what="the line", timeout_s=1.0)  # noqa: B023 - called at once

    def test_urgent_record_is_there_on_return(self, tmp_path: Path, open_log: OpenLog) -> None:
        """An urgent record, and all before it, are in the file when `write` returns."""
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        for seq in range(100):
            log.write(record(seq), urgent=seq == 99)
        assert list(range(100)) == seqs(path)

    def test_urgent_record_and_close_are_bounded_when_the_thread_hangs(self, open_log: OpenLog) -> None:
        """A thread that hangs holds up an urgent record for half a second, and `close` for its timeout."""
        release, hanging = threading.Event(), threading.Event()
        counts: list[int] = []

        def hang(_reason: str, count: int) -> None:
            counts.append(count)
            hanging.set()
            release.wait(30)

        log = open_log("/dev/full", on_drop=hang)
        start = time.monotonic()
        log.write(record(1), urgent=True)
        assert hanging.wait(2)
        for seq in range(599):
            log.write(record(seq))
        log.write(record(2), urgent=True)
        waited_s = time.monotonic() - start
        log.close(timeout_s=0.2)
        closed_s = time.monotonic() - start - waited_s
        release.set()
        wait_until(lambda: not log_threads(), what="the end of the thread of the log")
        assert (True, True) == (waited_s < 4, closed_s < 4)
        assert [1, 600] == counts  # given up at once, not batch after batch

    def test_urgent_record_before_start_does_not_wait(self, tmp_path: Path, open_log: OpenLog) -> None:
        """Without a thread there is nothing to wait for; the record is written when the thread comes."""
        path = tmp_path / "e.jsonl"
        log = open_log(path, is_started=False)

        def wait_of(seq: int) -> float:
            start = time.monotonic()
            log.write(record(seq), urgent=True)
            return time.monotonic() - start

        assert min(wait_of(seq) for seq in (1, 2, 3)) < 0.4
        log.start()
        log.start()
        assert 1 == len(log_threads())
        wait_until(lambda: seqs(path) == [1, 2, 3], what="three lines")

    def test_full_queue_drops_and_counts(self, tmp_path: Path, open_log: OpenLog) -> None:
        """Records that find no room are dropped; those that did are written."""
        path = tmp_path / "e.jsonl"
        drops = Drops()
        log = open_log(path, is_started=False, queue_size=3, on_drop=drops)
        for seq in range(8):
            log.write(record(seq))
        assert {"queue_full": 5} == drops.counts
        log.close()
        assert [0, 1, 2] == seqs(path)

    def test_urgent_record_takes_the_place_of_the_oldest_other(self, tmp_path: Path, open_log: OpenLog) -> None:
        """In a full queue urgent records push ordinary ones out, oldest first, and each loss is counted."""
        path = tmp_path / "e.jsonl"
        drops = Drops()
        log = open_log(path, is_started=False, queue_size=4, on_drop=drops)
        for seq in range(6):  # 0, 2 and 3 find room beside an urgent 1; 4 and 5 do not
            log.write(record(seq), urgent=seq == 1)
        assert {"queue_full": 2} == drops.counts
        log.write(record(6), urgent=True)
        log.write(record(7), urgent=True)
        assert {"queue_full": 4} == drops.counts
        log.write(record(8))
        assert {"queue_full": 5} == drops.counts
        log.close()
        assert [1, 3, 6, 7] == seqs(path)

    def test_queue_full_of_urgent_records_stays_bounded(self, tmp_path: Path, open_log: OpenLog) -> None:
        """When nothing else waits, an urgent record without room is dropped and counted too."""
        path = tmp_path / "e.jsonl"
        drops = Drops()
        log = open_log(path, is_started=False, queue_size=3, on_drop=drops)
        for seq in range(10):
            log.write(record(seq), urgent=seq >= 3)
        assert {"queue_full": 7} == drops.counts
        log.start()
        wait_until(lambda: seqs(path) == [3, 4, 5], what="three lines")
        for seq in range(10, 13):  # there is room again
            log.write(record(seq))
        log.close()
        assert ([3, 4, 5, 10, 11, 12], {"queue_full": 7}) == (seqs(path), drops.counts)

    def test_urgent_records_survive_a_flood(self, tmp_path: Path, open_log: OpenLog) -> None:
        """While other threads keep the queue full, no urgent record is lost, and what is lost is counted."""
        path = tmp_path / "e.jsonl"
        drops = Drops()
        lock = threading.Lock()

        def count(reason: str, number: int) -> None:
            with lock:
                drops(reason, number)

        log = open_log(path, queue_size=8, on_drop=count)

        def work(number: int) -> None:
            for seq in range(1000):
                log.write(record(seq, thread=number), urgent=seq % 100 == 99)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        log.close()
        lines = parse(path)
        assert 4000 == len(lines) + drops.counts.get("queue_full", 0)
        urgent = sorted((line["thread"], line["seq"]) for line in lines if line["seq"] % 100 == 99)
        assert [(number, seq) for number in range(4) for seq in range(99, 1000, 100)] == urgent

    def test_many_threads_write_whole_lines(self, tmp_path: Path, open_log: OpenLog) -> None:
        """Eight threads lose nothing, and each keeps its own order."""
        path = tmp_path / "e.jsonl"
        log = open_log(path, max_bytes=40_000, backups=50)

        def work(number: int) -> None:
            for seq in range(200):
                log.write(record(seq, thread=number), urgent=seq % 50 == 0)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        log.close()
        backups = sorted(tmp_path.glob("e.jsonl.*"), key=lambda file: -int(file.suffix[1:]))
        assert len(backups) > 2
        files = [*backups, path]
        lines = [line for file in files for line in parse(file)]
        assert {number: list(range(200)) for number in range(8)} == {
            number: [line["seq"] for line in lines if line["thread"] == number] for number in range(8)
        }

    def test_error_of_on_drop_does_not_reach_the_caller(
        self, tmp_path: Path, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A callback that fails is logged once and otherwise ignored."""
        monkeypatch.setattr(guard, "reraise", False)
        monkeypatch.setattr(guard, "_seen", set())

        def fail(_reason: str, _count: int) -> None:
            raise RuntimeError("no counter")

        path = tmp_path / "e.jsonl"
        log = open_log(path, is_started=False, queue_size=1, on_drop=fail)
        for seq in range(3):
            log.write(record(seq))
        log.close()
        assert [0] == seqs(path)
        assert 1 == len(caplog.records)

    def test_record_that_cannot_be_read_is_the_only_loss(
        self, tmp_path: Path, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A record whose own methods fail does not reach the caller as an exception."""
        monkeypatch.setattr(guard, "reraise", False)

        class BadRecord(Mapping[str, Any]):
            def __getitem__(self, key: str) -> Any:
                raise RuntimeError(key)

            def __iter__(self) -> Iterator[str]:
                raise RuntimeError("no keys")

            def __len__(self) -> int:
                return 1

        path = tmp_path / "e.jsonl"
        log = open_log(path)
        log.write(BadRecord())
        log.write(record(2), urgent=True)
        assert [2] == seqs(path)


class TestClose:
    def test_close_leaves_no_thread_and_no_file(self, tmp_path: Path, open_log: OpenLog) -> None:
        """After `close` nothing of the log is left in the process; more calls do nothing."""
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        assert ([THREAD], [True]) == ([t.name for t in log_threads()], [t.daemon for t in log_threads()])
        assert [str(path)] == open_files(path)
        log.write(record(1))
        for _ in range(2):
            log.close()
            log.write(record(2), urgent=True)
            log.start()
        assert ([], []) == (log_threads(), open_files(path))
        assert [1] == seqs(path)

    def test_close_without_a_start_writes_what_is_queued(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A log that was never started loses nothing when it is closed."""
        path = tmp_path / "e.jsonl"
        log = open_log(path, is_started=False)
        for seq in range(600):
            log.write(record(seq))
        log.close()
        log.close()
        assert list(range(600)) == seqs(path)
        assert [] == open_files(path)


class TestRotation:
    def test_rotation_keeps_the_newest_backups(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A full file moves to `.1`, that to `.2`, and the oldest goes; no file is over the size."""
        path = tmp_path / "e.jsonl"
        log = open_log(path, max_bytes=1000, backups=2)
        for seq in range(100):
            log.write(record(seq), urgent=seq % 7 == 0)
        log.write(record(100), urgent=True)
        assert [str(path)] == open_files(path)
        log.close()
        files = [tmp_path / name for name in ("e.jsonl.2", "e.jsonl.1", "e.jsonl")]
        assert sorted(files) == sorted(tmp_path.iterdir())
        kept = [seq for file in files for seq in seqs(file)]
        assert list(range(kept[0], 101)) == kept
        assert all(file.stat().st_size <= 1000 for file in files)
        assert files[0].stat().st_size > 800

    @pytest.mark.parametrize("options", [{"max_bytes": 0}, {"max_bytes": 100, "backups": 0}])
    def test_zero_means_no_rotation(self, tmp_path: Path, open_log: OpenLog, options: dict[str, int]) -> None:
        """Without a size or without backups the file just grows; nothing is deleted."""
        path = tmp_path / "e.jsonl"
        log = open_log(path, **options)
        for seq in range(30):
            log.write(record(seq))
        log.close()
        assert list(range(30)) == seqs(path)
        assert [path] == list(tmp_path.iterdir())

    def test_rotation_that_fails_goes_on_in_the_same_file(
        self, tmp_path: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A backup name that cannot be used costs no record, and is said once."""
        path = tmp_path / "e.jsonl"
        (tmp_path / "e.jsonl.1").mkdir()
        drops = Drops()
        log = open_log(path, max_bytes=500, backups=1, on_drop=drops)
        for seq in range(50):
            log.write(record(seq), urgent=True)
        log.close()
        assert list(range(50)) == seqs(path)
        assert {} == drops.counts
        assert 1 == len([one for one in caplog.records if one.name == "jitwatch"])
        assert "cannot be rotated" in caplog.text

    def test_backups_move_only_up_to_the_first_gap(self, tmp_path: Path) -> None:
        """A backup behind a gap is not pushed out."""
        path = tmp_path / "e"
        for number in (1, 3):
            (tmp_path / f"e.{number}").write_text(f"{number}\n")
        file = RotatingFile(str(path), max_bytes=4, backups=3)
        assert (2, None) == file.append([b"aaa\n", b"bbb\n"])
        file.close()
        expected = {"e": "bbb\n", "e.1": "aaa\n", "e.2": "1\n", "e.3": "3\n"}
        assert expected == {one.name: one.read_text() for one in tmp_path.iterdir()}

    def test_rotation_without_a_free_descriptor_goes_on_in_the_same_file(self, tmp_path: Path) -> None:
        """When the new file cannot be opened, the old one gets its name back and takes the lines."""
        path = tmp_path / "e"
        file = RotatingFile(str(path), max_bytes=8, backups=2)
        assert (1, None) == file.append([b"aaaaaa\n"])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            result = file.append([b"bbbbbb\n"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (1, None) == result
        assert file.rotation_error is not None
        assert {"e": "aaaaaa\nbbbbbb\n"} == {one.name: one.read_text() for one in tmp_path.iterdir()}
        assert (2, None) == file.append([b"cccccc\n", b"dddddd\n"])
        file.close()
        assert file.rotation_error is None
        assert {"e", "e.1", "e.2"} == {one.name for one in tmp_path.iterdir()}

    def test_line_longer_than_the_file_has_it_for_itself(self, tmp_path: Path) -> None:
        """An empty file is not rotated, however long the line."""
        path = tmp_path / "e"
        file = RotatingFile(str(path), max_bytes=4, backups=3)
        assert (2, None) == file.append([b"aaaaaa\n", b"b\n"])
        file.close()
        assert {"e": "b\n", "e.1": "aaaaaa\n"} == {one.name: one.read_text() for one in tmp_path.iterdir()}

    def test_pipe_is_never_rotated(self, tmp_path: Path) -> None:
        """What is no regular file keeps its name."""
        path = tmp_path / "e"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        file = RotatingFile(str(path), max_bytes=4, backups=3)
        assert (2, None) == file.append([b"aaaaaa\n", b"b\n"])
        file.close()
        assert b"aaaaaa\nb\n" == os.read(reader, 100)
        os.close(reader)
        assert [path] == list(tmp_path.iterdir())

    def test_file_moved_by_others_is_followed(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A rotation from outside, or a deleted file, gets a new file instead of a log nobody sees."""
        path = tmp_path / "e.jsonl"
        log = open_log(path)
        log.write(record(1), urgent=True)
        path.rename(tmp_path / "moved")
        log.write(record(2), urgent=True)
        path.rename(tmp_path / "moved_too")
        path.touch()
        log.write(record(3), urgent=True)
        assert ([1], [2], [3]) == (seqs(tmp_path / "moved"), seqs(tmp_path / "moved_too"), seqs(path))


class TestTrouble:
    def test_full_disk_drops_counts_and_warns_once(self, open_log: OpenLog, caplog: pytest.LogCaptureFixture) -> None:
        """On a full disk each record is counted, and one warning is logged for all of them."""
        drops, clock = Drops(), Clock()
        log = open_log("/dev/full", on_drop=drops, clock=clock, max_bytes=1)
        for seq in range(5):
            log.write(record(seq), urgent=True)
            clock.now += 2
        assert [] == open_files(Path("/dev/full"))
        log.close()
        assert {"write_failed": 5} == drops.counts
        assert ["WARNING"] == [one.levelname for one in caplog.records if one.name == "jitwatch"]
        assert "No space left on device" in caplog.text
        assert stat.S_ISCHR(os.stat("/dev/full").st_mode)

    def test_handler_that_fails_does_not_end_the_thread(
        self, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A log handler of the user's that raises costs nothing but the warning."""
        monkeypatch.setattr(guard, "reraise", False)

        def fail(_record: logging.LogRecord) -> bool:
            raise RuntimeError("no log")

        logger = logging.getLogger("jitwatch")
        logger.addFilter(fail)
        try:
            drops = Drops()
            log = open_log("/dev/full", on_drop=drops)
            log.write(record(1), urgent=True)
            log.write(record(2), urgent=True)
            wait_until(lambda: drops.counts == {"write_failed": 2}, what="two dropped lines")
            assert 1 == len(log_threads())
        finally:
            logger.removeFilter(fail)

    def test_vanished_folder_drops_until_it_is_back(
        self, tmp_path: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A folder that vanishes is not made again; once it is back, the log goes on within seconds."""
        folder = tmp_path / "logs"
        path = folder / "e.jsonl"
        drops, clock = Drops(), Clock()
        log = open_log(path, on_drop=drops, clock=clock)
        log.write(record(1), urgent=True)
        shutil.rmtree(folder)
        log.write(record(2), urgent=True)
        assert not folder.exists()
        folder.mkdir()
        log.write(record(3), urgent=True)
        assert not path.exists()
        clock.now += 5
        log.write(record(4), urgent=True)
        assert [4] == seqs(path)
        assert {"write_failed": 2} == drops.counts
        assert 1 == len(caplog.records)
        shutil.rmtree(folder)
        log.write(record(5), urgent=True)
        wait_until(lambda: len(caplog.records) == 2, what="two warnings")

    def test_line_torn_by_a_crash_is_ended_first(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A file whose last line is half written goes on with a line of its own."""
        path = tmp_path / "e.jsonl"
        path.write_bytes(b'{"seq": 1}\n{"seq"')
        open_log(path).write(record(3), urgent=True)
        first, torn, last = path.read_text().splitlines()
        assert ('{"seq": 1}', '{"seq"', 3) == (first, torn, json.loads(last)["seq"])

    def test_whole_file_is_continued_without_an_empty_line(self, tmp_path: Path, open_log: OpenLog) -> None:
        """A file that ends as it should is appended to as it is."""
        path = tmp_path / "e.jsonl"
        for seq in range(3):
            log = open_log(path)
            log.write(record(seq))
            log.close()
        assert [0, 1, 2] == seqs(path)

    @pytest.mark.parametrize("make", [Path.touch, os.mkfifo], ids=["below_a_file", "fifo_without_reader"])
    def test_path_that_cannot_be_written_says_what_to_do(self, tmp_path: Path, make: Callable[[Path], None]) -> None:
        """Opening fails at once, with the option to change, and without hanging."""
        make(tmp_path / "it")
        path = tmp_path / "it" if make is os.mkfifo else tmp_path / "it" / "e.jsonl"
        with pytest.raises(ConfigError, match=r"cannot be written .*; name a file or folder"):
            EventLog(str(path))

    def test_folder_and_impossible_name_are_refused(self, tmp_path: Path) -> None:
        """A folder is no file, and a NUL is no name."""
        for path in (str(tmp_path), f"{tmp_path}/a\0b"):
            with pytest.raises(ConfigError, match="event_log"):
                EventLog(path)
        assert [] == list(tmp_path.iterdir())
