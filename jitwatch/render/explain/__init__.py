"""What recompiled and why, in paragraphs: the answer of `jitwatch.explain()`. Pure: state and records in, text out."""

from __future__ import annotations

from jitwatch.render.explain.answer import Explanation, absent, explain

__all__ = ["Explanation", "absent", "explain"]
