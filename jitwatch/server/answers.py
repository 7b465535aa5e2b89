"""What the endpoint answers with: the exposition, the events and the increments of the live page."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

from jitwatch._version import __version__
from jitwatch.server.live import Live
from jitwatch.server.routes import Routes
from jitwatch.state.store import Store


class Exposition(Protocol):
    """Renders metrics for Prometheus."""

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, for an `Accept` header."""

    def content_type(self, accept: str) -> str:
        """That content type alone."""


class Answers:
    """Answers from a store.

    Args:
        store: What is answered from; also takes the times that answers cost.
        live: Follows the store for pages.
        refresh: Brings the store up to date.
        make_exposition: Makes what renders `/metrics`, at the first scrape.
    """

    def __init__(
        self, store: Store, live: Live, refresh: Callable[[], None], make_exposition: Callable[[], Exposition]
    ) -> None:
        self._store = store
        self._live = live
        self._refresh = refresh
        self._make_exposition = make_exposition

    @cached_property
    def exposition(self) -> Exposition:
        """Renders `/metrics`."""
        return self._make_exposition()

    def routes(self, state: Callable[[frozenset[str] | None], dict[str, Any]]) -> Routes:
        """The handler of the endpoint; `state` gives what `/api/v1/state` answers."""
        return Routes(
            metrics=self.metrics,
            metrics_type=self.metrics_type,
            state=state,
            events=self.events,
            live=self.page,
            version=__version__,
        )

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, for an `Accept` header."""
        started = time.perf_counter()
        self._refresh()
        rendered = self.exposition.render(accept)
        self._store.add("agent_overhead_seconds", time.perf_counter() - started, ("scrape",))
        return rendered

    def metrics_type(self, accept: str) -> str:
        """That content type alone."""
        return self.exposition.content_type(accept)

    def events(self, since: int, function: str | None, limit: int | None) -> dict[str, Any]:
        """The events with a number above `since`: of one function, and the newest only, if so wanted."""
        records, last = self._store.records(since, limit, function)
        return {"events": records, "last_seq": last}

    def page(self, revision: int, seq: int, since: float) -> dict[str, Any]:
        """What a page has not seen."""
        started = time.perf_counter()
        found = self._live.answer(revision, seq, since)
        self._store.add("agent_overhead_seconds", time.perf_counter() - started, ("page",))
        return found
