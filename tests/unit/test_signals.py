"""A new signal is a probe, an event and its reducer: everything else follows from them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict
from urllib.request import urlopen

import pytest

import jitwatch
from jitwatch import agent_parts
from jitwatch.model.events import Event
from jitwatch.model.events.base import EVENT_TYPES
from jitwatch.probes import PROBES, Probe
from jitwatch.report import sources
from jitwatch.report.document import document
from jitwatch.report.read import read_logs
from jitwatch.state import signals
from jitwatch.state.metrics import Metric
from tests.checkout import ROOT


class CogRow(TypedDict):
    """A cog, with its number of teeth."""

    name: str
    teeth: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GearShifted(Event):
    """The gear box shifted.

    Attributes:
        gear: Into which gear.
        took_s: How long the shift took.
        cogs: The cogs that turned.
    """

    kind: ClassVar[str] = "toy.shifted"

    gear: str
    took_s: float
    cogs: tuple[CogRow, ...] = ()


class Gears:
    """Counts shifts by gear."""

    name = "gears"
    events: ClassVar[tuple[type[Event], ...]] = (GearShifted,)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="toy_shifts", kind="counter", help="Shifts by gear.", labels=("gear",)),
    )

    def __init__(self) -> None:
        self._shifts: dict[str, int] = {}
        self._seconds = 0.0
        self._cogs: list[Any] = []

    def reduce(self, event: GearShifted, series: signals.Series) -> None:
        """Count a shift."""
        self._shifts[event.gear] = self._shifts.get(event.gear, 0) + 1
        self._seconds += event.took_s
        self._cogs += event.cogs
        series.add("toy_shifts", labels=(event.gear,))

    def row(self) -> dict[str, Any]:
        """Shifts by gear, and the seconds of all of them."""
        return {"shifts": dict(self._shifts), "seconds": self._seconds, "cogs": self._cogs}


class GearProbe(Probe):
    """Sees two shifts when it starts."""

    name: ClassVar[str] = "gears"
    needs_jax: ClassVar[bool] = False

    def start(self) -> None:
        """Emit both."""
        for gear in ("first", "second"):
            self.context.emit(GearShifted(gear=gear, took_s=0.25, cogs=({"name": gear, "teeth": 20},)))


@pytest.fixture
def toy(monkeypatch):
    """The signal, for one test."""
    monkeypatch.setattr(agent_parts, "PROBES", (*PROBES, GearProbe))
    monkeypatch.setitem(EVENT_TYPES, GearShifted.kind, GearShifted)
    signals.SIGNALS.append(Gears)
    yield
    signals.SIGNALS.remove(Gears)


# Only the tests below know it.
EVENT_TYPES.pop(GearShifted.kind)


def test_new_signal_is_everywhere_without_another_edit(toy, tmp_path):
    """In `/metrics`, in the state, in the event log and in the report's JSON."""
    cogs = [{"name": "first", "teeth": 20}, {"name": "second", "teeth": 20}]
    expected = {"shifts": {"first": 1, "second": 1}, "seconds": 0.5, "cogs": cogs}
    with jitwatch.install(port=0, event_log=tmp_path / "log.jsonl", sample_interval_s=3600) as watch:
        with urlopen(f"{watch.url}/metrics") as answer:
            metrics = answer.read().decode()
        state = jitwatch.snapshot()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    report = document(*read_logs(sources.find([str(tmp_path / "log.jsonl")])))

    assert 'jitwatch_toy_shifts_total{gear="first"} 1.0' in metrics
    assert expected == state["gears"]
    shifts = [record for record in records if record["event"] == "toy.shifted"]
    assert [("first", 0.25), ("second", 0.25)] == [(one["gear"], one["took_s"]) for one in shifts]
    assert expected == report["gears"]
    assert {} == report["log"]["unknown_events"]


def test_new_signal_is_in_the_generated_docs(toy):
    """Its event with the fields and their units, and its metric."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = generate.pages()

    assert "`jitwatch_toy_shifts_total`" in pages["metrics.md"]
    assert "### `toy.shifted`" in pages["events.md"]
    assert "| `took_s` | number | s | How long the shift took. |" in pages["events.md"]
    assert "| `cogs` | list of objects `{name, teeth}` | – | The cogs that turned. |" in pages["events.md"]
