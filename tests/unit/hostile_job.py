"""A job in which everything that has a name has a hostile one; run in tests with the agent on, and beside the page."""

from __future__ import annotations

import contextlib
import enum
import functools
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jitwatch
from tests.unit.hostile import MIXED


def is_name(text: str) -> bool:
    """Whether Python takes it for the name of a file or a class."""
    return "\x00" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def named(function: Any, text: str) -> Any:
    """The function with this text for each of its names."""
    function.__qualname__ = function.__module__ = text
    # JAX takes no half of a surrogate pair here.
    function.__name__ = text.encode("utf-8", "replace").decode()
    return function


def from_file(source: str, filename: str) -> dict[str, Any]:
    """What a module of this file defines."""
    scope: dict[str, Any] = {"__name__": filename, "jax": jax, "np": np, "jnp": jnp}
    exec(compile(source, filename, "exec"), scope)
    return scope


@contextlib.contextmanager
def notes(found: list[str]) -> Iterator[None]:
    """Collect the notes of what is raised, and go on."""
    try:
        yield
    except Exception as error:
        # JAX adds a note of its own about its frames.
        found += [note for note in getattr(error, "__notes__", ()) if not note.startswith("----")]


def functions(text: str) -> None:
    """A function, its module and its file have this name; it compiles twice."""
    double = jax.jit(named(types.FunctionType((lambda x: x * 2).__code__, {}), text))
    for size in (2, 3):
        double(np.ones(size, np.float32))
    if is_name(text):
        scope = from_file("@jax.jit\ndef f(x): return x + 1\ndef call(n): return f(np.ones(n, np.float32))", text)
        for size in (2, 3):
            scope["call"](size)


def arguments(text: str) -> None:
    """Static values, keyword arguments, keys, classes and members of enumerations do."""

    @functools.partial(jax.jit, static_argnames="mode")
    def choose(x: Any, mode: Any) -> Any:
        return x + len(str(type(mode)))

    @jax.jit
    def keyed(tree: Any, **more: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf * 2, (tree, more))

    kind = type("Mode", (), {})
    member = enum.Enum("Member", {"_" + text: text}) if is_name(text) else None
    if is_name(text):
        kind.__qualname__ = kind.__name__ = text
        kind.__module__ = text
    for mode in (text, text.encode("utf-8", "replace"), (text,), frozenset({text}), kind(), kind(), *(member or ())):
        choose(np.ones(2, np.float32), mode=mode)
    for size in (2, 3):
        x = np.ones(size, np.float32)
        with contextlib.suppress(UnicodeError, TypeError):  # JAX itself stumbles over half of a surrogate pair
            keyed({text: x})
            keyed({(text, 1): x})
        with contextlib.suppress(UnicodeError, TypeError):
            keyed({}, **{text: x})
    with contextlib.suppress(Exception):
        choose(np.ones(2, np.float32), mode=[text])


def donations(text: str, found: list[str]) -> None:
    """Arrays under these keys are used after they were donated, donated twice and donated for nothing."""
    update = jax.jit(named(types.FunctionType((lambda state: {k: v + 1 for k, v in state.items()}).__code__, {}), text))
    update = jax.jit(update, donate_argnums=0)
    with contextlib.suppress(UnicodeError, TypeError):
        state = {text: jnp.ones(4)}
        update(state)
        with notes(found):
            np.asarray(state[text])
        with notes(found):
            update(state)
    with contextlib.suppress(UnicodeError, TypeError), notes(found):
        one = jnp.ones(5)
        update({text: one, "b": one})
    with contextlib.suppress(UnicodeError, TypeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax.jit(named(lambda tree: tree[text][:1], text), donate_argnums=0)({text: jnp.ones(6)})


def failures(text: str, found: list[str]) -> None:
    """A trace raises with this message; memory runs out in a function of this name."""

    def fail(x: Any) -> Any:
        raise ValueError(text)

    def shortage(x: Any) -> Any:
        # More bytes than a processor has addresses for.
        return jnp.zeros((1 << 54,), jnp.int8) + x.sum().astype(jnp.int8)

    for function in (fail, shortage):
        with notes(found):
            jax.jit(named(function, text))(np.ones(2, np.float32))


def announcements(text: str, found: list[str]) -> None:
    """Compiles that are expected for this reason, by a thread of this name, and after warm-up."""
    add = jax.jit(named(lambda x: x + 3, text))
    add(np.ones(2, np.float32))
    with jitwatch.expected(text):
        add(np.ones(3, np.float32))
    thread = threading.Thread(target=lambda: add(np.ones(4, np.float32)))
    thread.name = text
    thread.start()
    thread.join()
    with jitwatch.steady(allow=text + "?"):
        add(np.ones(5, np.float32))
    with jitwatch.steady(on_recompile="raise"):
        try:
            add(np.ones(6, np.float32))
        except jitwatch.RecompileError as error:
            found.append(str(error))


def commit(texts: tuple[str, ...] = MIXED) -> list[str]:
    """Do all of it; notes and errors of the agent's own."""
    found: list[str] = []
    one_by_one: tuple[Callable[[str, list[str]], None], ...] = (
        lambda text, _: functions(text),
        lambda text, _: arguments(text),
        donations,
        failures,
        announcements,
    )
    for text in texts:
        for do in one_by_one:
            do(text, found)
    return found
