"""Instruments functions of JAX in place: the function object stays, its code object is replaced.

Replacing a name (`jax._src.pjit._infer_params = ours`) has side effects: cloudpickle sends jitted functions with the
globals that they use and would send ours by value; modules that imported the name before keep JAX's function; each call
has one frame more. A function whose `__code__` is replaced is still JAX's own object: it is pickled by reference, keeps
its signature, defaults and attributes, and is the same object wherever it is referenced.

The new code calls an `Observer` around JAX's code. It has two forms:

- *inline*: JAX's own source, compiled again with the calls of the observer in it, which adds no frame. Used only if the
  source, compiled unchanged, gives exactly the code that JAX runs.
- *enclosing*: code with the same parameters that calls a copy of JAX's function. It adds a frame, which names JAX's
  file, so that JAX hides it like its own frames, and which leaves no entry in a traceback.

What is not written in Python (methods of JAX's array class) is replaced by a function with the same names
(`stand_in`). Every call of an observer is guarded: an exception in it ends in `guard.failed`, and JAX's function runs
as without an observer.

Checked on CPython 3.11 and 3.13.
"""

from __future__ import annotations
import __future__

import ast
import functools
import inspect
import linecache
import operator
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from jitwatch import guard

#: Prefix of names that generated code adds to those of JAX.
_PREFIX = "__jitwatch_"
#: Stands for the `_ObservedFunction` in generated code, until it is put among the constants.
_PLACEHOLDER = f"{_PREFIX}calls__"
_MAX_WRAPPED = 8
_Node = TypeVar("_Node", bound=ast.AST)

#: The code around a body: `BODY` is JAX's own code, or a call of its copy.
_OBSERVED = f"""
def NAME():
    {_PREFIX}calls = {_PLACEHOLDER!r}
    {_PREFIX}state = None
    try:
        try:
            {_PREFIX}state = {_PREFIX}calls.begun(ARGUMENTS)
        except Exception:
            {_PREFIX}calls.broken()
        BODY
    except BaseException as {_PREFIX}error:
        {_PREFIX}calls.fail({_PREFIX}state, {_PREFIX}error)
        raise
"""
#: The same for observers of errors only: a call that returns costs nothing more.
_ONLY_ERRORS = f"""
def NAME():
    try:
        BODY
    except BaseException as {_PREFIX}error:
        {_PREFIX}calls = {_PLACEHOLDER!r}
        {_PREFIX}calls.fail((FIRST,), {_PREFIX}error)
        raise
"""


class NotInstrumentableError(Exception):
    """The code of an object cannot be replaced; the message says why."""


class Refused(Exception):  # noqa: N818 - carries the error that the job requested
    """Raised by `Observer.ended`: the call raises `error` instead of returning."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True)
class Replaced:
    """Returned by `Observer.ended`: the caller gets `value` instead of the function's result."""

    value: Any


class Observer:
    """Observes the calls of one function. Errors in its methods are ours and do not reach the caller.

    Attributes:
        component: Name in `agent_errors_total{component}`.
        only_errors: Only `failed` is called; its state is a tuple with the function's first argument.
    """

    component = "compile"
    only_errors = False

    def begun(self, *args: Any, **kwargs: Any) -> Any:
        """Called before the function, with its arguments as its parameters are declared.

        Returns:
            The state that the other methods get; None to ignore this call.
        """
        return None

    def ended(self, state: Any, result: Any) -> Replaced | None:
        """Called when the function has returned `result`, which the caller gets unless `Replaced` is returned."""
        return None

    def failed(self, state: Any, error: BaseException) -> None:
        """Called when the function has raised `error`, which propagates unchanged."""


@dataclass(frozen=True, slots=True)
class Instrumented:
    """An instrumented function.

    Attributes:
        original: A copy of JAX's function. It has no default values: every parameter must be passed.
        undo: Restores the code. Returns False, and changes nothing, if other code has replaced ours since.
    """

    original: Callable[..., Any]
    undo: Callable[[], bool]


def instrument(function: Any, observer: Observer, *, inline: bool = False) -> Instrumented:
    """Let an observer see every call of a function, wherever the function is referenced.

    Args:
        function: A Python function, or a wrapper with the function in `__wrapped__`.
        observer: Observes the calls.
        inline: Add no frame, if JAX's source allows it.

    Raises:
        NotInstrumentableError: The function has no code that can be replaced.
    """
    target = target_of(function)
    original = target.__code__
    # Every argument is passed, so that the copy needs no default values.
    copy = types.FunctionType(original, target.__globals__, target.__name__)
    copy.__qualname__, copy.__module__ = target.__qualname__, target.__module__
    calls = _ObservedFunction(observer, copy)
    code = (_inline(target, calls) if inline else None) or _enclosing(original, calls)
    target.__code__ = code

    def undo() -> bool:
        if target.__code__ is not code:
            return False
        target.__code__ = original
        return True

    return Instrumented(copy, undo)


def target_of(function: Any) -> types.FunctionType:
    """Return the function whose code is to be replaced: the first along `__wrapped__` without free variables.

    Raises:
        NotInstrumentableError: There is no such function.
    """
    found = function
    for _ in range(_MAX_WRAPPED):
        if isinstance(found, types.FunctionType) and not found.__code__.co_freevars:
            return found
        found = getattr(found, "__wrapped__", None)
    name = getattr(function, "__qualname__", None) or type(function).__name__
    raise NotInstrumentableError(f"{name} is no Python function whose code can be replaced")


def stand_in(original: Callable[..., Any], observer: Observer, name: str) -> types.FunctionType:
    """Return an observed function to replace one that is not written in Python, with its names and documentation."""
    calls = _ObservedFunction(observer, original)
    template = (lambda *args, **kwargs: None).__code__  # only the parameters are used
    code = _enclosing(template.replace(co_name=name, co_qualname=name), calls)
    found = types.FunctionType(code, {"__builtins__": __builtins__, "__name__": __name__}, name)
    for attribute in ("__module__", "__qualname__", "__doc__"):
        value = getattr(original, attribute, None)
        if isinstance(value, str) and value:
            setattr(found, attribute, value)
    return found


def adopt_location(function: Any, like: types.CodeType) -> None:
    """Give the frames of a function of ours the file and the `def` line of one of JAX's, so that JAX hides them.

    All its code is on that line: a debugger stops there once, and a live stack shows that line of JAX's file.
    """
    code = function.__code__
    units = len(code.co_code) // _UNIT
    sizes = [min(_MAX_UNITS, units - done) for done in range(0, units, _MAX_UNITS)]
    lines = b"".join(bytes([_NO_COLUMNS | (size - 1), 0]) for size in sizes)
    function.__code__ = code.replace(
        co_filename=like.co_filename, co_firstlineno=like.co_firstlineno, co_linetable=lines
    )


#: An entry of a line table (checked as above): this many code units, less one, are as many lines further as the next
#: byte says, with no columns.
_NO_COLUMNS = 0x80 | 13 << 3
_MAX_UNITS = 8
_UNIT = 2


def drop_frame(error: BaseException, code: types.CodeType) -> None:
    """Remove the outermost entry of a traceback if it is of this code. Call it in an `except` block of that code.

    A bare `raise` adds no new entry, so no trace of the frame is left.
    """
    trace = error.__traceback__
    if trace is not None and trace.tb_frame.f_code is code:
        error.__traceback__ = trace.tb_next


class _ObservedFunction:
    """The object that generated code calls.

    Attributes:
        begun: The observer's method; generated code guards it.
        original: JAX's function.
        only_errors: Whether only `fail` is called.
    """

    def __init__(self, observer: Observer, original: Callable[..., Any]) -> None:
        self.begun = observer.begun
        self.original = original
        self.only_errors = observer.only_errors
        self._component = observer.component
        self._ended = observer.ended
        self._failed = observer.failed

    def broken(self) -> None:
        """Handle an exception that the observer raised, in an `except` block."""
        guard.failed(self._component)

    def end(self, state: Any, result: Any) -> Any:
        """Pass the result to the observer; return what the caller gets."""
        if state is None:
            return result
        try:
            found = self._ended(state, result)
            return found.value if type(found) is Replaced else result
        except Refused as refusal:
            error = refusal.error
        except Exception:
            guard.failed(self._component)
            return result
        raise error

    def fail(self, state: Any, error: BaseException) -> None:
        """Handle an exception of the function, or an interrupt in our own code."""
        try:
            caller = sys._getframe(1).f_code
            if is_enclosing(caller):
                drop_frame(error, caller)
            if state is not None:
                self._failed(state, error)
        except Exception:
            guard.failed(self._component)


def is_enclosing(code: types.CodeType) -> bool:
    """Whether this code calls a copy of JAX's function."""
    return f"{_PREFIX}result" in code.co_varnames


def _enclosing(original: types.CodeType, calls: _ObservedFunction) -> types.CodeType:
    parameters, arguments = _parameters(original)
    function, attempt = _frame(original, calls, arguments)
    function.args = parameters
    end = f"{_PREFIX}result" if calls.only_errors else f"{_PREFIX}calls.end({_PREFIX}state, {_PREFIX}result)"
    call = _PLACEHOLDER if calls.only_errors else f"{_PREFIX}calls"
    text = f"{_PREFIX}result = {call}.original({arguments})\n{_PREFIX}result = {end}\n"
    body = ast.parse(text).body
    if calls.only_errors:
        body.insert(0, ast.parse(f"{_PLACEHOLDER} = {_PLACEHOLDER!r}").body[0])
    attempt.body[-1:] = [_without_location(one) for one in body] + [
        ast.Return(ast.Name(f"{_PREFIX}result", ast.Load()))
    ]
    return _compiled(ast.Module([function], []), original, calls)


def _inline(target: types.FunctionType, calls: _ObservedFunction) -> types.CodeType | None:
    """Return JAX's own source with the calls in it, compiled; None if the source is not that of the code."""
    original = target.__code__
    found = _definition(original)
    if found is None or original.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE):
        return None
    # The compiler uses other instructions to call methods of imported modules.
    imported = [name for name in original.co_names if isinstance(target.__globals__.get(name), types.ModuleType)]
    imports = [ast.Import([ast.alias(name)]) for name in imported]
    if _compiled(ast.Module([*imports, *_in_class(found, original)], []), original, None) != original:
        return None
    _, arguments = _parameters(original)
    function, attempt = _frame(original, calls, arguments)
    ast.copy_location(function, found)
    function.args, function.returns = found.args, found.returns
    # Inside `try` a docstring would be an ordinary statement, with a line that a debugger stops at.
    body = found.body[ast.get_docstring(found, clean=False) is not None :]
    if calls.only_errors:
        # JAX rebuilds tracebacks from the last line of a frame, which is the line that raises again.
        raises = [node for node in ast.walk(found) if isinstance(node, ast.Raise)]
        if len(raises) != 1:
            return None
        ast.copy_location(attempt.handlers[0].body[-1], raises[0])
    else:
        returns = _Returns()
        body = [*(returns.visit(one) for one in body), _Returns.end(None)]
    attempt.body[-1:] = body
    # A debugger stops first where it would without us: at the first line of JAX's own body.
    begin = next((line for *_, line in original.co_lines() if line not in (None, found.lineno)), found.lineno)
    return _compiled(ast.Module([*imports, *_in_class(function, original)], []), original, calls, begin)


def _frame(original: types.CodeType, calls: _ObservedFunction, arguments: str) -> tuple[ast.FunctionDef, ast.Try]:
    """Return the function that encloses a body, and its `try`, whose last statement the body replaces."""
    text = _ONLY_ERRORS if calls.only_errors else _OBSERVED
    text = _ONLY_ERRORS if calls.only_errors else _OBSERVED
    if original.co_argcount:
        first = original.co_varnames[0]
    else:
        several = original.co_varnames[original.co_kwonlyargcount] if original.co_flags & inspect.CO_VARARGS else "()"
        first = f"*{several}[:1]"
    text = text.replace("ARGUMENTS", arguments).replace("NAME", original.co_name).replace("FIRST", first)
    function = _without_location(ast.parse(text).body[0])
    assert isinstance(function, ast.FunctionDef)
    attempt = function.body[-1]
    assert isinstance(attempt, ast.Try)
    return function, attempt


class _Returns(ast.NodeTransformer):
    """Passes what a function returns to the observer first."""

    @staticmethod
    def end(value: ast.expr | None) -> ast.Return:
        name = ast.Name(f"{_PREFIX}calls", ast.Load())
        state = ast.Name(f"{_PREFIX}state", ast.Load())
        arguments: list[ast.expr] = [state, value or ast.Constant(None)]
        return ast.Return(ast.Call(ast.Attribute(name, "end", ast.Load()), arguments, []))

    def visit_Return(self, node: ast.Return) -> ast.Return:
        found = self.end(node.value)
        for one in (found, *ast.walk(found)):
            if isinstance(one, (ast.stmt, ast.expr)) and not hasattr(one, "lineno"):
                ast.copy_location(one, node)
        return found

    def _skip(self, node: ast.AST) -> ast.AST:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _skip  # noqa: N815 - ast's names


def _class_of(code: types.CodeType) -> str | None:
    """Return the name of the class that a method is defined in."""
    return code.co_qualname.rpartition(".")[0] or None


def _in_class(function: ast.FunctionDef, code: types.CodeType) -> list[ast.stmt]:
    name = _class_of(code)
    if name is None:
        return [function]
    found = ast.parse(f"class {name}: pass").body[0]
    assert isinstance(found, ast.ClassDef)
    found.body = [function]
    return [_without_location(found, deep=False)]


def _definition(code: types.CodeType) -> ast.FunctionDef | None:
    """Return the source of a function without decorators, with its location; None if there is none."""
    lines = linecache.getlines(code.co_filename)
    is_method = _class_of(code) is not None
    try:
        block = "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))
        tree = ast.parse(f"class _:\n{block}" if is_method else block)
    except (OSError, SyntaxError, IndexError, ValueError):
        return None
    owner = tree.body[0] if is_method and isinstance(tree.body[0], ast.ClassDef) else tree
    found = owner.body[0] if isinstance(owner, (ast.ClassDef, ast.Module)) and len(owner.body) == 1 else None
    if not isinstance(found, ast.FunctionDef) or found.decorator_list:
        return None
    ast.increment_lineno(found, code.co_firstlineno - (2 if is_method else 1))
    return found


_LOCATION = ("lineno", "end_lineno", "col_offset", "end_col_offset")


def _without_location(node: _Node, *, deep: bool = True) -> _Node:
    """Remove the location of code of ours; `_compiled` sets a line of JAX's, which a stack or debugger may show."""
    for one in ast.walk(node) if deep else (node,):
        for attribute in _LOCATION:
            if hasattr(one, attribute):
                delattr(one, attribute)
    return node


def _parameters(code: types.CodeType) -> tuple[ast.arguments, str]:
    """Return the parameters of code as `def` declares them, without default values, and how to pass all of them."""
    names = iter(code.co_varnames)
    plain = [next(names) for _ in range(code.co_argcount)]
    keywords = [next(names) for _ in range(code.co_kwonlyargcount)]
    several = next(names) if code.co_flags & inspect.CO_VARARGS else None
    others = next(names) if code.co_flags & inspect.CO_VARKEYWORDS else None
    declared = ast.arguments(
        posonlyargs=[ast.arg(name) for name in plain[: code.co_posonlyargcount]],
        args=[ast.arg(name) for name in plain[code.co_posonlyargcount :]],
        vararg=ast.arg(several) if several else None,
        kwonlyargs=[ast.arg(name) for name in keywords],
        kw_defaults=[None for _ in keywords],
        kwarg=ast.arg(others) if others else None,
        defaults=[],
    )
    passed = [*plain, *([f"*{several}"] if several else []), *(f"{name}={name}" for name in keywords)]
    return declared, ", ".join([*passed, *([f"**{others}"] if others else [])])


def _compiled(
    tree: ast.Module, original: types.CodeType, calls: _ObservedFunction | None, line: int | None = None
) -> types.CodeType:
    """Compile the only function of a tree at the location of the original.

    Args:
        tree: Nodes of ours have no location.
        original: The code that is replaced.
        calls: Put in the place of the placeholder.
        line: For nodes of ours; None for the line of the original's `def`.
    """
    for node in _without_line(tree):
        node.lineno = node.end_lineno = line or original.co_firstlineno  # type: ignore[attr-defined]
        node.col_offset = node.end_col_offset = 0  # type: ignore[attr-defined]
    future = original.co_flags & _FUTURE
    module = compile(tree, original.co_filename, "exec", flags=future, dont_inherit=True)
    code: types.CodeType = module
    while code.co_name != original.co_name:
        code = next(one for one in code.co_consts if isinstance(one, types.CodeType))
    constants = tuple(calls if one == _PLACEHOLDER else one for one in code.co_consts) if calls else code.co_consts
    return code.replace(co_consts=constants, co_qualname=original.co_qualname, co_firstlineno=original.co_firstlineno)


_FEATURES = (getattr(__future__, name) for name in __future__.all_feature_names)
_FUTURE = functools.reduce(operator.or_, (one.compiler_flag for one in _FEATURES))


def _without_line(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.expr, ast.arg, ast.ExceptHandler, ast.keyword, ast.alias)) and not hasattr(
            node, "lineno"
        ):
            yield node
