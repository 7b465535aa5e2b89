"""Functions are instrumented in place: the object stays, no frame shows, and no failure of ours gets out."""

from __future__ import annotations

import inspect
import linecache
import pickle
import sys
import traceback
import types

import pytest

from jitwatch import guard
from jitwatch.jaxhooks import instrument
from jitwatch.jaxhooks.instrument import NotInstrumentableError, stand_in
from jitwatch.jaxhooks.observer import Observer, Refused, drop_frame, is_enclosing

SOURCE = '''
import math


def area(radius, /, factor=1.0, *more, unit="m", **rest):
    """Area of a circle."""
    def helper(value):
        return value * value
    if radius < 0:
        raise ValueError("negative")
    if not radius:
        return
    return math.pi * helper(radius) * factor, more, unit, rest


class Shape:
    def grow(self, by):
        if by < 0:
            raise ValueError(by)
        return self, by


def outer(radius):
    return area(radius)


def depth(_):
    import sys
    frame, found = sys._getframe(), 0
    while frame is not None:
        frame, found = frame.f_back, found + 1
    return found
'''


class Seen:
    """Remembers what it is called with."""

    def __init__(self):
        self.calls = []

    @property
    def observer(self):
        """What is called around a function."""
        return Observer(self.begun, self.ended, self.failed)

    def begun(self, *args, **kwargs):
        self.calls.append(("begun", args, kwargs))
        return "state"

    def ended(self, state, result):
        self.calls.append(("ended", state, result))

    def failed(self, state, error):
        self.calls.append(("failed", state, str(error)))


class Errors(Seen):
    """The same, of errors only."""

    @property
    def observer(self):
        return Observer(failed=self.failed)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that plays JAX, from a file."""
    path = tmp_path / "jaxlike.py"
    path.write_text(SOURCE)
    found = types.ModuleType("jaxlike")
    exec(compile(SOURCE, str(path), "exec"), vars(found))
    monkeypatch.setitem(sys.modules, "jaxlike", found)
    linecache.checkcache(str(path))
    return found


@pytest.fixture(params=["inline", "enclosing"])
def inline(request):
    """Both forms."""
    return request.param == "inline"


def test_every_parameter_arrives_and_results_are_unchanged(module, inline):
    """Positional, keyword, default, rest: as the function would get them."""
    bare = module.area(2.0, 3.0, 4, unit="km", more=5)
    seen = Seen()
    undo = instrument.instrument(module.area, seen.observer, inline=inline).undo
    assert bare == module.area(2.0, 3.0, 4, unit="km", more=5)
    assert ("begun", (2.0, 3.0, 4), {"unit": "km", "more": 5}) == seen.calls[0]
    assert ("ended", "state", bare) == seen.calls[1]
    assert module.area(0) is None
    assert ("begun", (0, 1.0), {"unit": "m"}) == seen.calls[2]
    assert undo()
    module.area(1.0)
    assert 4 == len(seen.calls)


def test_object_signature_and_pickle_stay(module, inline):
    """It is the same object, found by the same name."""
    before, pickled = module.area, pickle.dumps(module.area)
    signature, source = inspect.signature(module.area), inspect.getsource(module.area)
    instrument.instrument(module.area, Seen().observer, inline=inline)
    assert module.area is before
    assert pickled == pickle.dumps(module.area)
    assert signature == inspect.signature(module.area)
    assert source == inspect.getsource(module.area)
    assert "Area of a circle." == module.area.__doc__


@pytest.mark.parametrize("observer", [Seen, Errors])
def test_traceback_is_that_of_the_function(module, inline, observer):
    """No frame of ours is in it, with or without JAX's source."""

    def text():
        with pytest.raises(ValueError, match="negative") as raised:
            module.outer(-1)
        return traceback.format_exception(raised.value)[2:]

    bare = text()
    seen = observer()
    instrument.instrument(module.area, seen.observer, inline=inline)
    assert bare == text()
    assert "failed" == seen.calls[-1][0]


def test_inline_adds_no_frame_and_enclosing_adds_one(module):
    """User code that runs below sees the stack as it is without us."""
    bare = module.depth(0)
    first = instrument.instrument(module.depth, Seen().observer, inline=True)
    assert bare == module.depth(0)
    first.undo()
    instrument.instrument(module.depth, Seen().observer)
    assert bare + 1 == module.depth(0)


@pytest.mark.parametrize("observer", [Seen, Errors])
def test_inline_shows_a_debugger_the_same_lines(module, observer):
    """So that a breakpoint at a function stops at its first statement, once."""
    found = []

    def trace(frame, event, _):
        if frame.f_code.co_filename == module.area.__code__.co_filename:
            found.append((event, frame.f_code.co_name, frame.f_lineno))
            return trace
        return None

    def told():
        found.clear()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            module.area(2.0)
            module.area(0)
            module.Shape().grow(1)
        finally:
            sys.settrace(before)
        return list(found)

    bare = told()
    assert 10 < len(bare)
    for function in (module.area, module.Shape.grow):
        instrument.instrument(function, observer().observer, inline=True)
    assert bare == told()


def test_function_that_is_named_like_another_stands_on_its_first_line(module):
    """All of it, however long, and it works as before."""

    def ours(*values):
        total = 0
        for value in values:
            if value > 1:
                total += value
        return [total, *values]

    like = module.depth.__code__
    instrument.adopt_location(ours, like)
    assert [6, 1, 2, 4] == ours(1, 2, 4)
    code = ours.__code__
    assert (like.co_filename, like.co_firstlineno) == (code.co_filename, code.co_firstlineno)
    assert {like.co_firstlineno} == {line for *_, line in code.co_lines()}
    assert len(code.co_code) // 2 == len(list(code.co_positions()))


def test_source_that_is_not_the_code_is_not_used(module, tmp_path):
    """An edited file must not change what JAX does."""
    path = tmp_path / "jaxlike.py"
    path.write_text(SOURCE.replace("math.pi", "3"))
    linecache.checkcache(str(path))
    bare = module.area(2.0)
    instrument.instrument(module.area, Seen().observer, inline=True)
    assert is_enclosing(module.area.__code__)
    assert bare == module.area(2.0)


def test_method_is_instrumented(module, inline):
    """The class keeps its function object."""
    before = vars(module.Shape)["grow"]
    seen = Errors()
    undo = instrument.instrument(module.Shape.grow, seen.observer, inline=inline).undo
    shape = module.Shape()
    assert (shape, 2) == shape.grow(2)
    assert [] == seen.calls
    with pytest.raises(ValueError, match="-1"):
        shape.grow(-1)
    assert [("failed", (shape,), "-1")] == seen.calls
    assert vars(module.Shape)["grow"] is before
    assert undo()


def test_two_observers_of_one_function(module):
    """The later one is outside, and undoing in reverse order restores the code."""
    code = module.area.__code__
    first, second = Seen(), Seen()
    undo_first = instrument.instrument(module.area, first.observer, inline=True).undo
    undo_second = instrument.instrument(module.area, second.observer).undo
    module.area(1.0)
    assert 2 == len(first.calls) == len(second.calls)
    assert undo_second()
    assert undo_first()
    assert module.area.__code__ is code


def broken(method):
    """An observer that fails in one of its functions."""

    def fail(*args, **kwargs):
        raise ZeroDivisionError("ours")

    return Observer(**{"begun": lambda *args, **kwargs: "state", method: fail})


@pytest.mark.parametrize("method", ["begun", "ended", "failed"])
@pytest.mark.parametrize("argument", [2.0, -1])
def test_failure_of_ours_changes_nothing(module, monkeypatch, inline, method, argument):
    """The result or the error is the function's, and the failure is counted."""
    monkeypatch.setattr(guard, "reraise", False)
    counted = []
    monkeypatch.setattr(guard, "_sink", counted.append)

    def outcome():
        try:
            return module.area(argument)
        except ValueError as error:
            return traceback.format_exception(error)

    bare = outcome()
    instrument.instrument(module.area, broken(method), inline=inline)
    assert bare == outcome()
    is_called = {"begun": True, "ended": argument > 0, "failed": argument < 0}[method]
    assert (["compile"] if is_called else []) == counted


def test_refused_call_raises_the_error_of_the_job(module):
    """The one error that an observer may raise on purpose."""

    def refuse(state, result):
        raise Refused(KeyError("not here"))

    instrument.instrument(module.area, Observer(lambda *args, **kwargs: "state", refuse))
    with pytest.raises(KeyError, match="not here") as raised:
        module.area(1.0)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_code_that_other_code_replaced_stays(module):
    """Undoing says so and leaves it."""
    undo = instrument.instrument(module.area, Seen().observer).undo
    theirs = module.area.__code__.replace(co_name="theirs")
    module.area.__code__ = theirs
    assert not undo()
    assert module.area.__code__ is theirs


@pytest.mark.parametrize("thing", [len, "text", print, type("C", (), {"__call__": lambda self: None})()])
def test_what_is_no_python_function_is_refused(thing):
    """The message names it."""
    with pytest.raises(NotInstrumentableError, match="is no Python function"):
        instrument.instrument(thing, Seen().observer)


def test_closure_is_refused_and_what_it_wraps_is_used(module):
    """A decorator that says what it wraps is looked through; one that does not is refused."""
    kept = []

    def wrapper(*args):
        kept.append(args)
        return module.area(*args)

    with pytest.raises(NotInstrumentableError):
        instrument.target_of(wrapper)
    wrapper.__wrapped__ = module.area
    assert instrument.target_of(wrapper) is module.area


def test_stand_in_has_the_names_and_leaves_no_frame():
    """What C implements is replaced by a function that looks like it."""
    seen = Errors()
    found = stand_in(sorted, seen.observer, "sorted")
    assert ("builtins", "sorted", "sorted") == (found.__module__, found.__name__, found.__qualname__)
    assert [3, 2] == found([2, 3], reverse=True)
    with pytest.raises(TypeError) as raised:
        found([1, "a"])
    assert [__name__] == [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(raised.tb)]
    assert "failed" == seen.calls[0][0]
    assert ([1, "a"],) == seen.calls[0][1]


def test_dropped_frame_is_gone_and_others_stay():
    """Only the outermost entry, and only of that code."""

    def inner():
        raise ValueError("x")

    def outer(code):
        try:
            inner()
        except ValueError as error:
            drop_frame(error, code)
            raise

    def names(code):
        with pytest.raises(ValueError, match="x") as raised:
            outer(code)
        return [frame.f_code.co_name for frame, _ in traceback.walk_tb(raised.tb)][1:]

    assert ["inner"] == names(outer.__code__)
    assert ["outer", "inner"] == names(inner.__code__)
