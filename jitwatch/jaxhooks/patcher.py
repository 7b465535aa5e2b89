"""Changes JAX and restores it: in reverse order, and only what is still ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.compat import Hook
from jitwatch.jaxhooks.instrument import instrument, stand_in
from jitwatch.jaxhooks.observer import Observer


class Patcher:
    """The changes made outside of jitwatch, with how to undo each."""

    def __init__(self) -> None:
        self._undo: list[tuple[str, Callable[[], bool]]] = []
        self._absent: list[str] = []

    def observe(self, hook: Hook, observer: Observer, *, inline: bool = False) -> None:
        """Let an observer see the calls of an optional hook; a missing one is reported by `take_absent`."""
        if self.has(hook):
            if hook.is_python:
                self.instrument(hook.get(), observer, inline=inline)
            else:
                owner, name = hook.resolve(), hook.attribute
                self.replace(owner, name, stand_in(getattr(owner, name), observer, name))

    def has(self, hook: Hook) -> bool:
        """Whether an optional hook exists; a missing one is reported by `take_absent`."""
        reason = hook.absent()
        if reason is not None:
            self._absent.append(reason)
        return reason is None

    def take_absent(self) -> list[str]:
        """Return what is not seen because a hook is missing, and why; only what was found since the last call."""
        found, self._absent = self._absent, []
        return found

    def instrument(self, function: Any, observer: Observer, *, inline: bool = False) -> Callable[..., Any]:
        """Let an observer see the calls of a Python function of JAX; return a copy that is not instrumented."""
        found = instrument(function, observer, inline=inline)
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
        self._undo.append((name, found.undo))
        return found.original

    def replace(self, owner: Any, attribute: str, replacement: Any, *, is_shared: bool = False) -> None:
        """Set `owner.attribute`; `restore` sets the original again unless other code has replaced ours.

        It is set in the module that the replacement has as `__module__`, too: pickle looks objects up there. What other
        code replaces routinely (`sys.excepthook`) is shared, and its replacement is not reported.
        """
        original = getattr(owner, attribute)
        home = sys.modules.get(getattr(replacement, "__module__", None) or "")
        owners = [owner]
        if home is not None and home is not owner and getattr(home, attribute, None) is original:
            owners.append(home)
        for one in owners:
            self._set(one, attribute, replacement, original, is_shared=is_shared)

    def _set(self, owner: Any, attribute: str, replacement: Any, original: Any, *, is_shared: bool) -> None:
        def undo() -> bool:
            if getattr(owner, attribute, None) is not replacement:
                return is_shared
            setattr(owner, attribute, original)
            return True

        setattr(owner, attribute, replacement)
        self._undo.append((f"{getattr(owner, '__name__', owner)}.{attribute}", undo))

    def on_restore(self, name: str, action: Callable[[], object]) -> None:
        """Run `action` on restore, after all later changes were undone."""

        def undo() -> bool:
            action()
            return True

        self._undo.append((name, undo))

    def restore(self) -> list[str]:
        """Undo all changes; return the names that other code has replaced since, which are left as they are."""
        left: list[str] = []
        while self._undo:
            name, undo = self._undo.pop()
            try:
                if not undo():
                    left.append(name)
            except Exception:
                guard.failed("restore")
        return left
