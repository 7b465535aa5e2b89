"""Errors raised in C++: seen where they end, told with function, argument and line, and passed on unchanged."""

from __future__ import annotations

import sys
import threading

import jax
import numpy as np
import pytest

import jitwatch
from jitwatch.jaxhooks.compile.refusals import refusal_of
from jitwatch.jaxhooks.exceptions import watch_raises
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.patcher import Patcher

X = np.ones(3, np.float32)


def step(x, n, k=1):
    return x


class Owner:
    apply = jax.jit(step, static_argnums=(1, 2))


jitted = jax.jit(step, static_argnames=("n", "k"))
LAYERS = [1]


def by_literal():
    jitted(X, 1, k={})


def by_global():
    jitted(X, LAYERS, 2)


def by_local():
    numbers = [1]
    jitted(X, n=numbers, k=2)


def by_attribute():
    Owner.apply(X, {1}, 2)


def by_comprehension():
    jitted(X, [n for n in range(3)], 3)  # noqa: C416 - the shape of the example


def by_expression():
    jitted(X, LAYERS + LAYERS)


def two_candidates():
    jitted(X, [1], [2])


def by_star():
    jitted(*(X, [1]))


def unknown_callee():
    {"f": jitted}["f"](X, [1])


LABEL = f"{__name__}.step"
CASES = [
    (by_literal, LABEL, "k", "dict"),
    (by_global, LABEL, "n", "list"),
    (by_local, LABEL, "n", "list"),
    (by_attribute, LABEL, "n", "set"),
    (by_comprehension, LABEL, "n", "list"),
    (by_expression, LABEL, "n", "list"),
    (two_candidates, LABEL, "", "list"),
    (by_star, LABEL, "", "list"),
    (unknown_callee, "__other__", "", "list"),
]


@pytest.mark.parametrize(("call", "function", "argument", "kind"), CASES, ids=[case[0].__name__ for case in CASES])
def test_refusal_is_read_from_the_source(call, function, argument, kind):
    """Function and argument come from the failing call; what it does not show is left open."""
    with pytest.raises(ValueError, match="Non-hashable") as caught:
        call()
    trace = caught.tb
    while trace.tb_next is not None:
        trace = trace.tb_next
    found = refusal_of(caught.value, trace.tb_frame, trace.tb_lasti, Identities())
    assert (function, argument, kind) == (found.function.label, found.argument, found.type)
    assert f"{__file__}:{call.__code__.co_firstlineno + (2 if call is by_local else 1)}" == found.call_site


def test_other_errors_are_none():
    """A ValueError of the user is no refusal, whatever its arguments are."""
    frame = sys._getframe()
    for error in (ValueError("no"), ValueError(), ValueError(3, "x"), TypeError("Non-hashable")):
        assert refusal_of(error, frame, 0, Identities()) is None


def test_code_without_source_is_left_open():
    """A call from `exec` has no source; class and line are told."""
    scope = {"jitted": jitted, "X": X}
    with pytest.raises(ValueError, match="Non-hashable") as caught:
        exec("\n\njitted(X, [1])", scope)
    trace = caught.tb.tb_next
    found = refusal_of(caught.value, trace.tb_frame, trace.tb_lasti, Identities())
    assert ("__other__", "", "list", "<string>:3") == (
        found.function.label,
        found.argument,
        found.type,
        found.call_site,
    )


def test_failure_of_ours_ends_no_thread(monkeypatch):
    """Whatever the watcher raises, the thread's error goes to the hook that was there."""
    monkeypatch.setattr("jitwatch.guard.reraise", False)
    original, seen, patcher = threading.excepthook, [], Patcher()
    threading.excepthook = lambda args: seen.append(args.exc_type)
    try:
        watch_raises(patcher, (ValueError,), ("invalid literal",), lambda *_: 1 / 0)
        thread = threading.Thread(target=lambda: int("no"))
        thread.start()
        thread.join()
    finally:
        assert [] == patcher.restore()
        threading.excepthook = original
    assert [ValueError] == seen


def test_hooks_are_put_back():
    """After uninstalling both hooks are the ones from before."""
    before = (sys.excepthook, threading.excepthook)
    with jitwatch.install(port=0):
        pass
    assert before == (sys.excepthook, threading.excepthook)


def test_hook_of_somebody_else_is_left():
    """A job that sets an excepthook of its own after us keeps it."""
    before = sys.excepthook
    try:
        with jitwatch.install(port=0):
            theirs = sys.excepthook = lambda *_: None
        assert sys.excepthook is theirs
    finally:
        sys.excepthook = before
