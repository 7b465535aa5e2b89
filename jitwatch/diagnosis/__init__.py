"""Diagnosis: rules that find causes, pitfalls, storms, leaks and violations in events, and emit events about them.

A rule gets each event in the thread that caused it. It keeps bounded state of its own and touches nothing else; the
store counts the events that it emits. `diagnosis.Diagnosis`, which runs the rules, is imported when an agent starts:
`jitwatch --help` does not need it.
"""

from __future__ import annotations

from jitwatch.diagnosis.expected import expected
from jitwatch.diagnosis.steady import Steady, steady

__all__ = ["Steady", "expected", "steady"]
