"""Replaces attributes and puts them back: only what is still ours, in reverse order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("jitwatch")


class Patcher:
    """Undo list of everything that was changed outside of jitwatch."""

    def __init__(self) -> None:
        self._undo: list[tuple[str, Callable[[], bool]]] = []

    def replace(self, owner: Any, attribute: str, replacement: Any) -> None:
        """Set `owner.attribute`; `restore` sets the original again unless somebody replaced ours."""
        original = getattr(owner, attribute)
        setattr(owner, attribute, replacement)

        def undo() -> bool:
            if getattr(owner, attribute, None) is not replacement:
                return False
            setattr(owner, attribute, original)
            return True

        self._undo.append((f"{getattr(owner, '__name__', owner)}.{attribute}", undo))

    def on_restore(self, name: str, action: Callable[[], object]) -> None:
        """Run `action` when restoring, after what was changed later."""

        def undo() -> bool:
            action()
            return True

        self._undo.append((name, undo))

    def restore(self) -> list[str]:
        """Put everything back. Returns the names that somebody else replaced and that were left alone."""
        left: list[str] = []
        while self._undo:
            name, undo = self._undo.pop()
            try:
                if not undo():
                    left.append(name)
            except Exception:
                left.append(name)
                logger.warning("jitwatch: %s could not be put back", name, exc_info=True)
        return left
