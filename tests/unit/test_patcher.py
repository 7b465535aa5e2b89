"""The undo list: puts back what is still ours, leaves what somebody else made of it."""

from __future__ import annotations

import types

import pytest

from jitwatch import guard
from jitwatch.jaxhooks.patcher import Patcher


def original():
    """What was there before."""


def ours():
    """What we put there."""


def theirs():
    """What somebody put over it."""


@pytest.fixture
def module():
    """A module with two functions."""
    found = types.ModuleType("jaxlike")
    found.jit = original
    found.pmap = original
    return found


def test_restore_puts_the_originals_back(module):
    """The very objects that were there, and nothing is reported."""
    patcher = Patcher()
    patcher.replace(module, "jit", ours)
    patcher.replace(module, "pmap", ours)
    assert (ours, ours) == (module.jit, module.pmap)

    assert [] == patcher.restore()
    assert (original, original) == (module.jit, module.pmap)


def test_restore_leaves_what_somebody_patched_over_ours(module):
    """Their patch still works; its name is reported."""
    patcher = Patcher()
    patcher.replace(module, "jit", ours)
    patcher.replace(module, "pmap", ours)
    module.jit = theirs

    assert ["jaxlike.jit"] == patcher.restore()
    assert (theirs, original) == (module.jit, module.pmap)


def test_restore_leaves_what_somebody_deleted(module):
    """An attribute that is gone is not brought back."""
    patcher = Patcher()
    patcher.replace(module, "jit", ours)
    del module.jit

    assert ["jaxlike.jit"] == patcher.restore()
    assert not hasattr(module, "jit")


def test_restore_goes_backwards(module):
    """What was changed last is put back first, actions among it."""
    order = []
    patcher = Patcher()
    patcher.on_restore("first", lambda: order.append(("first", module.jit)))
    patcher.replace(module, "jit", ours)
    patcher.on_restore("last", lambda: order.append(("last", module.jit)))

    assert [] == patcher.restore()
    assert [("last", ours), ("first", original)] == order


def test_restore_attribute_replaced_twice(module):
    """Two layers of ours come off one after the other."""
    patcher = Patcher()
    patcher.replace(module, "jit", ours)
    patcher.replace(module, "jit", theirs)

    assert [] == patcher.restore()
    assert original is module.jit


def test_restore_method_of_a_class():
    """Classes work like modules, named by their name."""

    class Computation:
        """Has a method."""

        def compile(self):
            return "original"

    before = vars(Computation)["compile"]
    patcher = Patcher()
    patcher.replace(Computation, "compile", lambda self: "ours")
    assert "ours" == Computation().compile()

    assert [] == patcher.restore()
    assert before is vars(Computation)["compile"]


def test_restore_goes_on_when_one_fails(module, monkeypatch):
    """A part that cannot be put back is counted, and is not said to be other code's; the rest is put back."""
    monkeypatch.setattr(guard, "reraise", False)
    counted = []
    monkeypatch.setattr(guard, "_sink", counted.append)

    def broken():
        raise OSError("gone")

    patcher = Patcher()
    patcher.replace(module, "jit", ours)
    patcher.on_restore("listener", broken)
    patcher.replace(module, "pmap", ours)

    assert [] == patcher.restore()
    assert ["restore"] == counted
    assert (original, original) == (module.jit, module.pmap)


def test_restore_twice_does_nothing_more(module):
    """The second time it does not touch what others changed since."""
    patcher = Patcher()
    patcher.replace(module, "jit", ours)
    patcher.restore()
    module.jit = ours

    assert [] == patcher.restore()
    assert ours is module.jit


def test_replace_missing_attribute_leaves_nothing_to_undo(module):
    """What is not there cannot be replaced, and is not created by undoing."""
    patcher = Patcher()
    with pytest.raises(AttributeError):
        patcher.replace(module, "gone", ours)

    assert [] == patcher.restore()
    assert not hasattr(module, "gone")


def test_replace_that_is_refused_leaves_nothing_to_undo():
    """A class of C takes no patches; undoing does not try."""
    patcher = Patcher()
    with pytest.raises(TypeError):
        patcher.replace(int, "bit_length", ours)

    assert [] == patcher.restore()
