"""What events mean: rules that look at one event after the other and add events of their own.

A rule is told of each event in the thread that caused it, and now and then of the time. It keeps a
bounded memory of its own and touches nothing else; the store counts what it says. What runs them,
`diagnosis.Diagnosis`, is imported when an agent starts: `jitwatch --help` has no use for it.
"""

from __future__ import annotations

from jitwatch.diagnosis.expected import expected
from jitwatch.diagnosis.steady import Steady, steady

__all__ = ["Steady", "expected", "steady"]
