"""What a lowered program consists of, and how two programs differ; reads StableHLO texts without JAX.

outline_of(text) -> Outline             what the program consists of; `row()` and `Outline.of_row()` for JSON
difference(old, new) -> Difference      what differs between two outlines
compare_texts(old, new) -> Difference   the same, and the first differing operation with its source line
"""

from jitwatch.programs.difference import Change, Difference, Operation, compare_texts, difference
from jitwatch.programs.outline import Argument, Outline, outline_of

__all__ = ["Argument", "Change", "Difference", "Operation", "Outline", "compare_texts", "difference", "outline_of"]
