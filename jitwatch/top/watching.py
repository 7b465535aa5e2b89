"""Asks every job again and again, each in a thread of its own, and keeps what is known of it.

A job is asked for one thing at a time, and again only after it has answered: however slow it is, it never has
more than one request of ours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jitwatch.top.fetching import Answer
from jitwatch.top.frame import in_order
from jitwatch.top.tracking import Process, Track

Ask = Callable[[], Answer]


class Watches:
    """All jobs that are watched.

    Args:
        interval_s: Seconds from an answer to the next question.
        clock: Monotonic seconds.
    """

    def __init__(self, interval_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tracks: dict[str, Track] = {}
        self._answers = 0
        self._changed = threading.Condition(self._lock)
        self._is_ended = threading.Event()
        self._may_ask = threading.Event()
        self._may_ask.set()

    def add(self, url: str, ask: Ask) -> None:
        """Watch a job from now on; one that is watched already stays as it is."""
        with self._lock:
            if url in self._tracks:
                return
            self._tracks[url] = Track(url, self._clock())
        # Not waited for at the end: a request may hang.
        threading.Thread(target=self._watch, args=(url, ask), name=f"jitwatch-top-{url}", daemon=True).start()

    def _watch(self, url: str, ask: Ask) -> None:
        while not self._is_ended.is_set():
            if not self._may_ask.wait(0.2):
                continue
            answer = ask()
            with self._lock:
                self._tracks[url].take(answer, self._clock())
                self._answers += 1
                self._changed.notify_all()
            self._is_ended.wait(max(self._interval_s, answer.retry_after_s))

    def urls(self) -> list[str]:
        """Addresses of all of them."""
        with self._lock:
            return list(self._tracks)

    def living(self) -> list[str]:
        """Addresses of those that answer, or may yet."""
        with self._lock:
            now = self._clock()
            return [url for url, track in self._tracks.items() if track.process(now).status in ("new", "live")]

    def processes(self) -> list[Process]:
        """All of them as they are now, in the order of the screen."""
        with self._lock:
            now = self._clock()
            return in_order([track.process(now) for track in self._tracks.values()])

    def answers(self) -> int:
        """How many answers have come; it changes when there is something new to show."""
        with self._lock:
            return self._answers

    def wait_for_all(self, timeout_s: float) -> None:
        """Wait until every job has answered once or failed to, or the time is over."""
        with self._lock:
            self._changed.wait_for(lambda: self._answers >= len(self._tracks), timeout_s)

    def pause(self, is_paused: bool) -> None:
        """Ask nothing until told otherwise."""
        if is_paused:
            self._may_ask.clear()
        else:
            self._may_ask.set()

    def end(self) -> None:
        """Ask nothing any more."""
        self._is_ended.set()
