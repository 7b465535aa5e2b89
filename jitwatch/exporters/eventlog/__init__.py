"""The event log: one JSON object per line, in a file that rotates by size."""

from __future__ import annotations

from jitwatch.exporters.eventlog.log import EventLog, resolve_path

__all__ = ["EventLog", "resolve_path"]
