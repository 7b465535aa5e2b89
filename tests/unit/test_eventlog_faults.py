"""The event log when its thread, its disk or its memory fails: counted, bounded, and it goes on."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jitwatch import guard
from jitwatch.errors import ConfigError
from jitwatch.exporters.eventlog import EventLog, rotation
from jitwatch.exporters.eventlog.backlog import Backlog, Line
from jitwatch.system.launchers import process_id
from tests.eventlogs import Clock, Drops, log_threads, open_files, parse, record, seqs
from tests.waiting import wait_until

OpenLog = Callable[..., EventLog]
LONG_S = 30.0


@pytest.fixture
def open_log() -> Iterator[OpenLog]:
    """Open logs that are started, and close them after the test."""
    logs: list[EventLog] = []

    def open_one(path: Path | str, **options: Any) -> EventLog:
        logs.append(EventLog(str(path), **options))
        logs[-1].start()
        return logs[-1]

    yield open_one
    for log in logs:
        log.close()
    wait_until(lambda: not log_threads(), what="the end of the thread of the log")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Failures are swallowed and counted, as outside of tests."""
    found: list[str] = []
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())
    guard.set_sink(found.append)
    yield found
    guard.set_sink(None)


class Disk:
    """Writes that hang until the disk answers again."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()

    def write(self, fd: int, data: bytes) -> int:
        if not self.answers.is_set():
            self.is_asked.set()
            assert self.answers.wait(LONG_S)
        return self._write(fd, data)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write = os.write
        monkeypatch.setattr(rotation.os, "write", self.write)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that a test can hang."""
    made = Disk()
    made.install(monkeypatch)
    yield made
    made.answers.set()


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


class Fail:
    """Makes a call fail some times, and then lets it do what it does."""

    def __init__(self, original: Callable[..., Any], *errors: BaseException, before: bool = True) -> None:
        self.original = original
        self.errors = list(errors)
        self.before = before

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.before and self.errors:
            raise self.errors.pop(0)
        result = self.original(*args, **options)
        if self.errors:
            raise self.errors.pop(0)
        return result


class TestThread:
    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("structlog"), SystemExit(), KeyboardInterrupt()])
    def test_thread_survives_an_exception_between_batches(
        self, tmp_path: Path, open_log: OpenLog, counted: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """Whatever was raised, and wherever: nothing that waited is lost, and the next record is written at once."""
        log = open_log(tmp_path / "e.jsonl")
        monkeypatch.setattr(log._backlog, "take", Fail(log._backlog.take, error, before=False))
        for seq in range(5):
            log.write(record(seq))
        wait_until(lambda: seqs(tmp_path / "e.jsonl") == [0, 1, 2, 3, 4], what="five lines")
        log.write(record(5), urgent=True)
        assert [*range(6)] == seqs(tmp_path / "e.jsonl")
        assert (["eventlog"], 1) == (counted, len(log_threads()))

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("structlog"), SystemExit()])
    def test_thread_survives_an_exception_in_a_batch(
        self, tmp_path: Path, open_log: OpenLog, counted: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """What could not be written is counted, who waited for it goes on, and the log goes on."""
        drops = Drops()
        log = open_log(tmp_path / "e.jsonl", on_drop=drops)
        assert log._file is not None
        monkeypatch.setattr(log._file, "append", Fail(log._file.append, error))
        waited_s = seconds_of(lambda: log.write(record(1), urgent=True))
        wait_until(lambda: drops.counts == {"write_failed": 1}, what="one dropped line")
        log.write(record(2), urgent=True)
        assert [2] == seqs(tmp_path / "e.jsonl")
        assert (True, ["eventlog"]) == (waited_s < 5, counted)

    def test_half_a_batch_that_was_written_counts_as_written(
        self, tmp_path: Path, open_log: OpenLog, counted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Out of memory after the first of two files: only the rest is lost."""
        drops = Drops()
        path = tmp_path / "e.jsonl"
        log = EventLog(str(path), on_drop=drops, max_bytes=100, backups=5)
        assert log._file is not None
        monkeypatch.setattr(log._file, "_rotate", Fail(log._file._rotate, MemoryError()))
        for seq in range(3):  # of which one fits into a file
            log.write(record(seq))
        log.close()
        assert ([0], {"write_failed": 2}, ["eventlog"]) == (seqs(path), drops.counts, counted)
        wait_until(lambda: not log_threads(), what="the end of the thread of the log")

    def test_exceptions_that_do_not_end_pile_nothing_up(
        self, tmp_path: Path, open_log: OpenLog, counted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The queue is bounded, what is lost is counted, and the end is bounded too."""
        drops = Drops()
        log = open_log(tmp_path / "e.jsonl", queue_size=50, on_drop=drops, pause_s=0.001)

        def fail(_lines: list[Line], _limit: int) -> bool:
            raise MemoryError

        monkeypatch.setattr(log._backlog, "take", fail)
        for seq in range(500):
            log.write(record(seq), urgent=seq % 100 == 0 and seq > 400)
        wait_until(lambda: len(counted) > 5, what="failures that are counted")
        assert log._backlog._queue.qsize() < 120
        assert 1 == len(log_threads())
        assert seconds_of(lambda: log.close(timeout_s=0.3)) < 5
        wait_until(lambda: sum(drops.counts.values()) == 500, what="500 dropped lines")

    def test_close_writes_what_waited_for_a_thread_that_failed(
        self, tmp_path: Path, open_log: OpenLog, counted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also the mark of the end is taken again."""
        log = EventLog(str(tmp_path / "e.jsonl"))
        take = Fail(log._backlog.take, *[MemoryError() for _ in range(3)], before=False)
        monkeypatch.setattr(log._backlog, "take", take)
        for seq in range(3):
            log.write(record(seq))
        log.close(timeout_s=LONG_S)
        assert [0, 1, 2] == seqs(tmp_path / "e.jsonl")
        assert [] == log_threads()

    def test_record_that_cannot_be_rendered_is_counted(
        self, tmp_path: Path, open_log: OpenLog, counted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error of structlog or of json, or no memory for the line."""
        drops = Drops()
        log = open_log(tmp_path / "e.jsonl", on_drop=drops)
        monkeypatch.setattr(log, "_render", Fail(log._render, MemoryError(), RuntimeError("structlog")))
        for seq in range(3):
            log.write(record(seq), urgent=True)
        assert ([2], {"not_rendered": 2}) == (seqs(tmp_path / "e.jsonl"), drops.counts)
        assert ["eventlog", "eventlog"] == counted

    def test_thread_that_cannot_be_started_is_a_config_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It says what to do, and leaves nothing open."""

        def refuse(_self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patches:
            patches.setattr(threading.Thread, "start", refuse)
            with pytest.raises(ConfigError, match=r"thread that writes .* raise the limit of threads \(ulimit -u\)"):
                EventLog(str(tmp_path / "e.jsonl"))
        assert ([], []) == (open_files(tmp_path), list(tmp_path.iterdir()))


class TestHang:
    def test_urgent_records_wait_once(self, tmp_path: Path, open_log: OpenLog, disk: Disk) -> None:
        """Not each of them as long; when it answers all of them are there, and the next one waits again."""
        drops = Drops()
        log = open_log(tmp_path / "e.jsonl", on_drop=drops, urgent_s=0.2)
        log.write(record(0), urgent=True)
        disk.answers.clear()
        first_s = seconds_of(lambda: log.write(record(1), urgent=True))
        rest_s = seconds_of(lambda: [log.write(record(seq), urgent=True) for seq in range(2, 200)])
        # Two hundred waits would be forty seconds.
        assert (True, True) == (first_s < 5, rest_s < 5)
        assert [0] == seqs(tmp_path / "e.jsonl")
        disk.answers.set()
        wait_until(lambda: seqs(tmp_path / "e.jsonl") == [*range(200)], what="200 lines")
        wait_until(lambda: not log._hangs(), what="the disk to answer")
        log.write(record(200), urgent=True)
        assert ([*range(201)], {}) == (seqs(tmp_path / "e.jsonl"), drops.counts)

    def test_what_finds_no_room_while_the_disk_hangs_is_counted_as_that(
        self, tmp_path: Path, open_log: OpenLog, disk: Disk, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And said once, when it answers: a handler may write to the same disk."""
        drops = Drops()
        log = open_log(tmp_path / "e.jsonl", queue_size=10, on_drop=drops, urgent_s=0.2)
        disk.answers.clear()
        log.write(record(0), urgent=True)
        for seq in range(1, 31):
            log.write(record(seq))
        assert ({"disk_hangs": 20}, "") == (drops.counts, caplog.text)
        disk.answers.set()
        wait_until(lambda: seqs(tmp_path / "e.jsonl") == [*range(11)], what="11 lines")
        wait_until(lambda: "did not respond for" in caplog.text, what="the warning")
        disk.answers.clear()
        log.write(record(31), urgent=True)
        disk.answers.set()
        log.write(record(32))
        wait_until(lambda: 32 in seqs(tmp_path / "e.jsonl"), what="line 32")
        log.close()
        assert 1 == caplog.text.count("did not respond for")

    def test_hang_is_known_without_an_urgent_record(
        self, tmp_path: Path, open_log: OpenLog, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A batch that takes too long shows it: then the first urgent record does not wait either."""
        log = open_log(tmp_path / "e.jsonl", urgent_s=LONG_S)
        disk.answers.clear()
        log.write(record(0))
        assert disk.is_asked.wait(LONG_S)
        assert (False, True) == (log._hangs(), log._busy_since is not None)
        monkeypatch.setattr(log, "_busy_since", time.monotonic() - 2 * LONG_S)
        assert seconds_of(lambda: log.write(record(1), urgent=True)) < LONG_S / 2
        disk.answers.set()

    def test_close_gives_a_disk_that_hangs_up(self, tmp_path: Path, open_log: OpenLog, disk: Disk) -> None:
        """The sooner if it is known to hang; the thread is a daemon and ends when the disk answers."""
        drops = Drops()
        log = open_log(tmp_path / "e.jsonl", on_drop=drops, urgent_s=0.2)
        disk.answers.clear()
        log.write(record(0), urgent=True)
        for seq in range(1, 4):
            log.write(record(seq))
        assert seconds_of(lambda: log.close(timeout_s=LONG_S)) < 5
        assert [True] == [thread.daemon for thread in log_threads()]
        disk.answers.set()
        wait_until(lambda: not log_threads(), what="the end of the thread of the log")
        assert {"disk_hangs": 3} == drops.counts
        assert [] == open_files(tmp_path)

    def test_file_that_hangs_when_it_is_opened_does_not_hold_up_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_log: OpenLog
    ) -> None:
        """Records wait in the queue, and urgent ones do not wait for it; all are written when the disk answers."""
        answers, create = threading.Event(), rotation.files.create

        def hang(path: str, **options: Any) -> int:
            assert answers.wait(LONG_S)
            return create(path, **options)

        monkeypatch.setattr(rotation.files, "create", hang)
        try:
            log = open_log(tmp_path / "e.jsonl", open_s=0.3, urgent_s=0.2)
            assert str(tmp_path / "e.jsonl") == log.path
            assert seconds_of(lambda: [log.write(record(seq), urgent=True) for seq in range(100)]) < 5
            assert [] == list(tmp_path.iterdir())
        finally:
            answers.set()
        wait_until(
            lambda: (tmp_path / "e.jsonl").exists() and seqs(tmp_path / "e.jsonl") == [*range(100)], what="100 lines"
        )

    def test_file_that_hangs_and_then_fails_is_tried_again(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        open_log: OpenLog,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Nobody can be told by an exception any more: dropped, counted, and said once."""
        answers, create, clock, drops = threading.Event(), rotation.files.create, Clock(), Drops()
        errors = [OSError(errno.EIO, os.strerror(errno.EIO)) for _ in range(2)]

        def fail(path: str, **options: Any) -> int:
            assert answers.wait(LONG_S)
            if errors:
                raise errors.pop()
            return create(path, **options)

        monkeypatch.setattr(rotation.files, "create", fail)
        log = open_log(tmp_path / "e.jsonl", clock=clock, on_drop=drops, open_s=0.05)
        answers.set()
        wait_until(lambda: log._thread.error is not None, what="the file to be opened")
        log.write(record(0), urgent=True)
        wait_until(lambda: drops.counts == {"write_failed": 1}, what="one dropped line")
        clock.now += 5
        log.write(record(1), urgent=True)
        assert [1] == seqs(tmp_path / "e.jsonl")
        assert ["Input/output error" in caplog.text, 1] == [True, len(caplog.records)]


class TestSecondWriter:
    def test_second_writer_is_reported_once_and_recorded(
        self, tmp_path: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The first one has a log as if it were alone; the second knows where its own is."""
        moves: list[tuple[str, ...]] = []
        path = tmp_path / "e.jsonl"
        own = str(tmp_path / f"e.{process_id()}.jsonl")
        logs = [open_log(path, on_move=lambda *move: moves.append(move)) for _ in range(2)]
        assert [str(path), own] == [log.path for log in logs]
        for seq in range(3):
            for number, log in enumerate(logs):
                log.write(record(seq, number=number), urgent=True)
        wait_until(lambda: moves, what="the move")
        for log in logs:
            log.close()
        assert [(str(path), own, "another process writes to it")] == moves
        assert [[(0, 0), (1, 0), (2, 0)], [(0, 1), (1, 1), (2, 1)]] == [
            [(line["seq"], line["number"]) for line in parse(Path(log.path))] for log in logs
        ]
        assert [
            f"jitwatch: the event log of this process is {own}: {path} is not used, because another process writes to "
            "it"
        ] == [one.getMessage() for one in caplog.records]

    def test_path_with_a_percent_sign_is_shown_as_it_is(
        self, tmp_path: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A path is no format."""
        for _ in range(2):
            open_log(tmp_path / "%s%d.jsonl").write(record(1), urgent=True)
        wait_until(lambda: f"{tmp_path}/%s%d.jsonl is not used" in caplog.text, what="the warning")

    def test_callback_that_fails_does_no_harm(self, tmp_path: Path, open_log: OpenLog, counted: list[str]) -> None:
        """Counted; the records are written."""

        def fail(*_move: str) -> None:
            raise RuntimeError("nobody listens")

        logs = [open_log(tmp_path / "e.jsonl", on_move=fail) for _ in range(2)]
        logs[1].write(record(1), urgent=True)
        wait_until(lambda: counted == ["eventlog"], what="the failure")
        assert [1] == seqs(Path(logs[1].path))


class TestBacklog:
    def test_bytes_are_bounded_as_lines_are(self) -> None:
        """A few long lines fill it as well."""
        backlog = Backlog(1000, max_bytes=100)
        backlog.put(b"x" * 60)
        assert not backlog.is_full()
        backlog.put(b"x" * 60, urgent=True)
        assert backlog.is_full()
        assert backlog.evict()
        assert (False, False) == (backlog.is_full(), backlog.evict())

    def test_bytes_that_were_taken_make_room(self) -> None:
        """Whatever threads that put at once have counted too much or too little."""
        backlog = Backlog(1000, max_bytes=100)
        for _ in range(3):
            backlog.put(b"x" * 60)
        backlog._bytes += 1000
        lines: list[Line] = []
        backlog.take(lines, 10)
        assert (3, 0, False) == (len(lines), backlog._bytes, backlog.is_full())

    def test_recovered_lines_are_taken_once(self) -> None:
        """In their order, and the end after them."""
        backlog = Backlog(1000, max_bytes=1000)
        for number in range(4):
            backlog.put(b"%d" % number, urgent=number % 2 == 0)
        backlog.end()
        first: list[Line] = []
        backlog.take(first, 1)
        backlog._queue.get()  # a ticket that was taken and then forgotten
        backlog.recover()
        backlog.recover()
        rest: list[Line] = []
        assert backlog.take(rest, 100)
        assert [b"0", b"1", b"2", b"3"] == [line for line, _ in first + rest]
