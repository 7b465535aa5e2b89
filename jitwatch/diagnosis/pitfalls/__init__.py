"""The rules that recognise pitfalls: one class a pitfall, one file a kind of pitfall, one line in `RULES`."""

from __future__ import annotations

from jitwatch.diagnosis.pitfalls import arguments, functions, process, statics
from jitwatch.diagnosis.pitfalls.base import Pitfall, Rule
from jitwatch.diagnosis.pitfalls.donation import DONATION_RULES

#: If several rules apply, the advice of the first is given: the most specific ones come first.
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

__all__ = ["RULES", "Pitfall", "Rule"]
