"""The known mistakes: one rule a class, one file a kind of mistake, one line in `RULES`."""

from __future__ import annotations

from jitwatch.diagnosis.pitfalls import arguments, functions, process, statics
from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.diagnosis.pitfalls.donation import DONATION_RULES

#: In the order in which their advice is given when several apply: the most exact one first.
RULES: tuple[type[Rule], ...] = (
    statics.IdentityHashedStatic,
    statics.StaticArgChurn,
    statics.TooManyStatics,
    statics.UnhashableStatic,
    functions.ClosureCapture,
    functions.JitInLoop,
    functions.MutableDefault,
    arguments.ShapeChurn,
    arguments.WeakTypeFlip,
    arguments.DtypeFlip,
    arguments.ShardingFlip,
    arguments.TreeFlip,
    arguments.ConfigFlip,
    process.CacheThrash,
    process.EagerChurn,
    process.CapturedConstant,
    process.UnrolledLoop,
    process.CompileDuringSteady,
    *DONATION_RULES,
)

__all__ = ["RULES", "Finding", "Rule"]
