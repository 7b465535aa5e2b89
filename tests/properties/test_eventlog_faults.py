"""The event log of a day is bounded."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sys
from pathlib import Path

import pytest

from jitwatch.exporters.eventlog import EventLog, rotation
from tests.eventlogs import Clock, Drops, log_threads, record, seqs
from tests.waiting import wait_until


class Day:
    """An event log, by whose clock a day passes in seconds, on a disk that may be full.

    Args:
        path: The log.
        monkeypatch: Puts the disk in place.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.drops, self.total = Clock(), Drops(), 0
        self.is_full = False
        self._write = os.write
        monkeypatch.setattr(rotation.os, "write", self._write_or_fail)
        self.log = EventLog(
            str(path), max_bytes=200_000, backups=3, queue_size=500, on_drop=self.drops, clock=self.clock
        )
        self.log.start()

    def events(self, count: int, seconds: float) -> None:
        """So many events, evenly in so many seconds; each hundredth is a violation."""
        for _ in range(count):
            self.total += 1
            self.clock.now += seconds / count
            self.log.write(record(self.total, text="x" * 150), urgent=self.total % 100 == 0)

    def _write_or_fail(self, fd: int, data: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, data)


def test_log_of_a_day_at_a_high_rate_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 hours by the log's clock, in each a full disk, and a folder that vanishes or a rotation from outside."""
    folder = tmp_path / "logs"
    path = folder / "e.jsonl"
    day = Day(path, monkeypatch)
    sizes, descriptors, blocks = [], [], []
    for hour in range(24):
        day.events(1000, 1800)
        day.is_full = True
        day.events(200, 600)
        day.is_full = False
        day.events(100, 600)
        if hour % 2:
            path.rename(folder / "moved")
        else:
            shutil.rmtree(folder)
            day.events(100, 60)
            folder.mkdir()
        day.events(200, 540)
        wait_until(lambda: not day.log._backlog._ordinary and not day.log._backlog._urgent, what="an empty queue")
        (folder / "moved").unlink(missing_ok=True)
        sizes.append(sum(one.stat().st_size for one in folder.iterdir()))
        descriptors.append(len(os.listdir("/proc/self/fd")))
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    day.events(1, 60)
    day.log.close()
    wait_until(lambda: not log_threads(), what="the end of the thread of the log")
    assert day.total == seqs(path)[-1]
    assert max(sizes) <= 4 * 200_000
    assert max(descriptors) <= descriptors[0] + 1
    # A few thousand come and go with what pytest keeps of the log's warnings.
    assert max(blocks[12:]) < max(blocks[:12]) + 5_000
    assert {"write_failed"} == set(day.drops.counts) - {"queue_full"}
