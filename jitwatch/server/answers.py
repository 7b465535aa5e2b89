"""The content of the endpoint's responses: exposition, events and the increments of the live page."""

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
        """The content type alone."""


class Answers:
    """Collects the content of responses from a store, and adds the seconds that this takes to the store's overhead.

    Args:
        store: The store.
        live: Follows the store for pages.
        refresh: Refreshes the values in the store.
        make_exposition: Makes the renderer of `/metrics`, at the first scrape.
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
        """The renderer of `/metrics`."""
        return self._make_exposition()

    def routes(self, state: Callable[[frozenset[str] | None], dict[str, Any]]) -> Routes:
        """The handler of the endpoint; `state` returns the content of `/api/v1/state`."""
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
        """The content type alone."""
        return self.exposition.content_type(accept)

    def events(self, since: int, function: str | None, limit: int | None) -> dict[str, Any]:
        """The events with a number above `since`, optionally of one function and the newest ones only."""
        records, last = self._store.records(since, limit, function)
        return {"events": records, "last_seq": last}

    def page(self, revision: int, seq: int, since: float) -> dict[str, Any]:
        """The changes since a page's last answer."""
        started = time.perf_counter()
        found = self._live.answer(revision, seq, since)
        self._store.add("agent_overhead_seconds", time.perf_counter() - started, ("page",))
        return found
