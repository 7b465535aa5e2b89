"""What is done to JAX's arrays: is one dead, mark it, leave a number in it, read the number again.

Until JAX 0.10 the C++ fast path meets a dead array without running any Python: it raises ValueError on one
device, and on several it hangs or ends the process. `delete()` on an array that was donated frees nothing more,
but sends every later use through `ArrayImpl._check_if_deleted`, as JAX does itself from 0.11 on. That is
marking. The number (a tag, see `ledger`) goes into the slot where an array keeps its copy on the host,
which a dead array does not read again: cheaper than an attribute, and it ends with the array.

Checked on JAX 0.6.2, 0.7.2, 0.8.3, 0.9.0, 0.9.2, 0.10.2 and 0.12.0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation import guards
from jitwatch.jaxhooks.patcher import Patcher

_TAG_SLOT = "_npy_value"
#: The number of an array that was deleted on purpose.
_ON_PURPOSE = 0
#: First version that sends dead arrays through Python by itself.
_CHECKS_ITSELF = (0, 11)


class Arrays:
    """JAX's array class and the few operations on it that donation needs, bound once: they run on every call.

    Args:
        marks: Whether to mark dead arrays, where that is of use.

    Raises:
        UnsupportedJaxError: The class is not as expected.
    """

    def __init__(self, *, marks: bool) -> None:
        kind = compat.array_class()
        setter = getattr(getattr(kind, _TAG_SLOT, None), "fset", None)
        if kind is None or setter is None or not hasattr(kind, "is_deleted") or not hasattr(kind, "delete"):
            raise UnsupportedJaxError("jax's array class is not as expected; donations are not watched")
        self.kind: Any = kind
        self.is_deleted: Callable[[Any], bool] = kind.is_deleted
        self.delete: Callable[[Any], None] = kind.delete
        self.tag: Callable[[Any, int], None] = setter
        self.checks_itself = compat.parse_version(compat.version_of("jax") or "") >= _CHECKS_ITSELF
        self.marks = marks and not self.checks_itself
        #: Whether any array of this process was marked, by this agent or an earlier one.
        self.has_marked = guards.is_guard(kind.__dict__.get("is_ready"))
        registry = getattr(sys.modules["jax._src.tree_util"], "default_registry", None)
        if registry is None:
            raise UnsupportedJaxError("jax._src.tree_util.default_registry does not exist")
        self.flatten: Callable[[Any, Any], tuple[list[Any], Any]] = registry.flatten
        self._key_class = compat.key_class()
        core = sys.modules.get("jax._src.core")
        #: Whether this thread is in nobody's trace.
        self.is_eager: Callable[[], bool] = getattr(core, "trace_state_clean", lambda: True)

    def concrete(self, leaf: Any) -> Any:
        """The array behind a leaf, that of a random key included; None for tracers, numpy and numbers."""
        if type(leaf) is self.kind:
            return leaf
        if self._key_class is not None and type(leaf) is self._key_class:
            return self.concrete(getattr(leaf, "_base_array", None))
        return None

    def tag_of(self, array: Any) -> int | None:
        """The number in a dead array, or None."""
        value = getattr(array, _TAG_SLOT, None)
        return value if type(value) is int else None

    def is_just_taken(self, array: Any) -> bool:
        """Whether a call took it and nobody has left a number in it yet."""
        return self.is_deleted(array) and self.tag_of(array) is None and not self.is_let_go(array)

    def is_on_purpose(self, array: Any) -> bool:
        """Whether a dead array died by `delete()` and not by donation."""
        tag = self.tag_of(array)
        return self.is_let_go(array) if tag is None else tag == _ON_PURPOSE

    def mark(self, array: Any, number: int) -> None:
        """Leave a number in a donated array, and send its later uses through Python."""
        if self.marks:
            self.delete(array)
            self.has_marked = True
        self.tag(array, number)

    def is_let_go(self, array: Any) -> bool:
        """Whether a deleted array without a number has let go of its buffer, so that `delete()` was called on it.

        Until 0.10 donation alone does not do that: the array still knows how large the buffer was. From 0.11 on
        both leave the same behind, and `delete()` is replaced to leave a number.
        """
        if self.checks_itself:
            return False
        try:
            array.on_device_size_in_bytes()
        except Exception:
            return True
        return False

    def install(self, patcher: Patcher) -> None:
        """Where donation and `delete()` leave the same behind, tell them apart from now on."""
        if not self.checks_itself:
            return
        original, is_deleted, tag = self.kind.__dict__["delete"], self.is_deleted, self.tag

        def delete(self: Any) -> None:
            was_alive = not is_deleted(self)
            original(self)
            if was_alive:
                tag(self, _ON_PURPOSE)

        patcher.replace(self.kind, "delete", delete)
