"""The rules that recognise pitfalls: one class a pitfall, one file a kind of pitfall."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator

from jitwatch.diagnosis.pitfalls.rule import Pitfall, Rule
from jitwatch.model.taxonomy import PITFALLS


def _rules_below(classes: list[type[Rule]]) -> Iterator[type[Rule]]:
    for kind in classes:
        if "name" in kind.__dict__ and kind.__module__.startswith(f"{__name__}."):
            yield kind
        yield from _rules_below(kind.__subclasses__())


def in_order(rules: Iterable[type[Rule]]) -> tuple[type[Rule], ...]:
    """Rules in the order of `PITFALLS`.

    Raises:
        ValueError: The name of a rule is not in `PITFALLS`.
    """
    rules = tuple(rules)
    for rule in rules:
        if rule.name not in PITFALLS:
            raise ValueError(f"{rule.name!r}, the name of the rule {rule.__name__}, is not in PITFALLS")
    return tuple(sorted(rules, key=lambda rule: PITFALLS.index(rule.name)))


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

#: The rules of all files of this folder, in the order of `PITFALLS`.
RULES: tuple[type[Rule], ...] = in_order(_rules_below(Rule.__subclasses__()))

__all__ = ["RULES", "Pitfall", "Rule"]
