"""The known mistakes: one rule a class, one file a kind of mistake, one line in `RULES`."""

from __future__ import annotations

from jitwatch.diagnosis.pitfalls.base import Finding, Memory, Rule
from jitwatch.diagnosis.pitfalls.donation import DONATION_RULES

RULES: tuple[type[Rule], ...] = (*DONATION_RULES,)

__all__ = ["RULES", "Finding", "Memory", "Rule"]
