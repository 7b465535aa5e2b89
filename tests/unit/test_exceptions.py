"""Exceptions of the job: what listens to them is called for JAX's only, in the frames that it asked for."""

from __future__ import annotations

import contextlib
import threading

import pytest

import jitwatch
from jitwatch.jaxhooks import exceptions
from jitwatch.jaxhooks.exceptions import Listener, listen, watch_raises
from jitwatch.jaxhooks.patcher import Patcher

pytestmark = pytest.mark.versions(python=">=3.12", reason="Python 3.11 does not report errors that the job catches")

WORDS = ("deleted or donated", "RESOURCE_EXHAUSTED")
TEXT = "INVALID_ARGUMENT: buffer has been deleted or donated."


class JaxError(RuntimeError):
    """Stands for XLA's class, which the job does not raise."""


@pytest.fixture
def patcher():
    subject = Patcher()
    yield subject
    assert [] == subject.restore()
    assert exceptions._tool is None


def fail(error: BaseException, depth: int) -> None:
    if depth == 0:
        raise error
    fail(error, depth - 1)


def caught(error: BaseException, depth: int = 0) -> None:
    """Raise an error so many calls deep, and catch it."""
    with contextlib.suppress(BaseException):
        fail(error, depth)


def test_errors_of_other_classes_are_not_looked_at(patcher):
    """Nor are those of subclasses."""
    told = []
    listen(patcher, Listener(frozenset({ValueError}), WORDS, lambda *given: told.append(given)))
    for error in (KeyError(TEXT), UnicodeError(TEXT), JaxError(TEXT), StopIteration(TEXT)):
        caught(error)
    assert [] == told


def test_common_errors_are_looked_at_if_they_have_the_words(patcher):
    """In each frame, the innermost first, with the frame."""
    told = []
    kinds = frozenset({ValueError, JaxError})
    listen(patcher, Listener(kinds, WORDS, lambda code, offset, error, frame: told.append((error, frame.f_code, code))))
    for other in (ValueError("no"), ValueError(), ValueError(7, TEXT), ValueError(b"deleted or donated")):
        caught(other, depth=2)
    assert [] == told
    mine = ValueError(TEXT)
    caught(mine, depth=2)
    codes = [fail.__code__] * 3 + [caught.__code__]
    assert [(mine, code, code) for code in codes] == told


def test_errors_of_xlas_class_are_looked_at_without_the_words(patcher):
    """It has the status as an attribute; nobody else raises it."""
    told = []
    watch_raises(patcher, (JaxError, ValueError), WORDS, lambda error, frame, offset: told.append(frame.f_code))
    caught(JaxError("something else"), depth=3)
    assert [fail.__code__] == told


def test_words_are_each_listeners_own_classes(patcher):
    """A class that only one of them wants reaches only that one."""
    told = []
    watch_raises(patcher, (ValueError,), ("first",), lambda error, *_: told.append(("a", str(error))))
    watch_raises(patcher, (ValueError, BufferError), ("second",), lambda error, *_: told.append(("b", str(error))))
    for error in (ValueError("the first"), BufferError("the second"), ValueError("the third")):
        caught(error)
    assert [("a", "the first"), ("b", "the first"), ("b", "the second")] == told


def test_a_text_of_the_job_runs_no_code(patcher):
    """A message whose class has operators of its own is not JAX's."""

    class Text(str):
        def __contains__(self, part: object) -> bool:
            raise AssertionError(part)

    told = []
    listen(patcher, Listener(frozenset({ValueError}), WORDS, lambda *given: told.append(given)))
    caught(ValueError(Text(TEXT)))
    assert [] == told


def test_many_errors_at_the_address_of_an_earlier_one(patcher):
    """A freed error's address is used again: each of JAX's is seen, and none of the others."""
    told = []
    watch_raises(patcher, (ValueError,), WORDS, lambda error, *_: told.append(str(error)))
    for turn in range(300):
        caught(ValueError(TEXT), depth=turn % 3)
        caught(ValueError("no"), depth=turn % 3)
    assert [TEXT] * 300 == told


def test_failing_listener_does_not_reach_the_job(patcher, monkeypatch):
    """The error stays as it is, and the next listener is called."""
    monkeypatch.setattr("jitwatch.guard.reraise", False)
    told = []
    listen(patcher, Listener(frozenset({ValueError}), WORDS, lambda *_: 1 / 0))
    listen(patcher, Listener(frozenset({ValueError}), WORDS, lambda *given: told.append(given)))
    with pytest.raises(ValueError, match="deleted") as raised:
        raise ValueError(TEXT)
    assert raised.value.__context__ is None
    assert 1 == len(told)


def test_errors_of_all_threads_are_seen(patcher):
    """A thread that started before as well."""
    told, go = [], threading.Event()

    def work() -> None:
        go.wait(20)
        caught(ValueError(TEXT))

    thread = threading.Thread(target=work)
    thread.start()
    watch_raises(patcher, (ValueError,), WORDS, lambda error, *_: told.append(threading.current_thread()))
    go.set()
    thread.join()
    assert [thread] == told


def test_words_cover_what_the_agent_looks_for():
    """JAX's messages of all versions have a word of those that the agent's listeners ask for."""
    texts = [
        "Non-hashable static arguments are used in a jit function: static arg '[1]' of type <class 'list'>.",
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7406166528 bytes.",
        "INVALID_ARGUMENT: Invalid buffer passed to Execute() as argument 0 to replica 0: INVALID_ARGUMENT: Buffer has "
        "been deleted or donated.",
        "Buffer has been deleted or donated.",
        "Array has been deleted with shape=float32[8,8].",
        "INVALID_ARGUMENT: Attempt to use a buffer that was previously donated in the same call to Execute().",
        "INVALID_ARGUMENT: Attempt to donate the same buffer twice in Execute() (flattened argument 1, first use: 0).",
        "Array is null.",
    ]
    with jitwatch.install(port=0, sample_interval_s=3600):
        words = [word for one in exceptions._listeners for word in one.words]
    assert [] == [text for text in texts if not any(word in text for word in words)]
