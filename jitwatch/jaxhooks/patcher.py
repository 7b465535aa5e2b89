"""Changes JAX and puts it back: only what is still ours, in reverse order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.compat import Hook
from jitwatch.jaxhooks.instrument import Observer, instrument, stand_in


class Patcher:
    """Undo list of everything that was changed outside of jitwatch."""

    def __init__(self) -> None:
        self._undo: list[tuple[str, Callable[[], bool]]] = []
        self._absent: list[str] = []

    def look(self, hook: Hook, observer: Observer, *, inline: bool = False) -> None:
        """Let an observer look at the calls of a name of JAX that the rest can do without; see `take_absent`."""
        if self.has(hook):
            if hook.is_python:
                self.instrument(hook.get(), observer, inline=inline)
            else:
                self.enclose(hook.resolve(), hook.attribute, observer)

    def has(self, hook: Hook) -> bool:
        """Whether a name of JAX that the rest can do without is there; if not, `take_absent` reports it."""
        reason = hook.absent()
        if reason is not None:
            self._absent.append(reason)
        return reason is None

    def take_absent(self) -> list[str]:
        """What is not seen, and why, since the last call."""
        found, self._absent = self._absent, []
        return found

    def instrument(self, function: Any, observer: Observer, *, inline: bool = False) -> Callable[..., Any]:
        """Let an observer look at the calls of a Python function of JAX; see `instrument.instrument`.

        Returns:
            JAX's function as it was.

        Raises:
            NotInstrumentableError: The function has no code that can be replaced.
        """
        found = instrument(function, observer, inline=inline)
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
        self._undo.append((name, found.undo))
        return found.original

    def enclose(self, owner: Any, attribute: str, observer: Observer) -> None:
        """Let an observer look at the calls of what is not written in Python."""
        self.replace(owner, attribute, stand_in(getattr(owner, attribute), observer, attribute))

    def replace(self, owner: Any, attribute: str, replacement: Any, *, is_shared: bool = False) -> None:
        """Set `owner.attribute`; `restore` sets the original again unless somebody replaced ours.

        Args:
            owner: A module or class.
            attribute: The name in it, and in the module that the replacement names as its own: what is pickled
                by reference has to be found there.
            replacement: The new value.
            is_shared: Others replace it as a matter of course (`sys.excepthook`), which is not worth a word.
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
                guard.failed("restore")
        return left
