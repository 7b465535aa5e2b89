"""The known mistakes: one rule a class, one file a kind of mistake, one line in `RULES`."""

from __future__ import annotations

from jitwatch.diagnosis.pitfalls.base import Finding, Memory, Rule

RULES: tuple[type[Rule], ...] = ()

__all__ = ["RULES", "Finding", "Memory", "Rule"]
