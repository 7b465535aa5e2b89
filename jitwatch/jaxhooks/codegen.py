"""Generates the code of instrumented functions: JAX's code with the calls of an observer around it (`instrument`)."""

from __future__ import annotations
import __future__

import ast
import functools
import inspect
import linecache
import operator
import types
from typing import TypeVar

from jitwatch.jaxhooks.observer import PREFIX, ObservedFunction

#: Stands for the `ObservedFunction` in generated code, until it is put among the constants.
_PLACEHOLDER = f"{PREFIX}calls__"
#: Generated code is kept for the next installation of the agent; more than the functions that are instrumented.
_MAX_GENERATED = 64
_Node = TypeVar("_Node", bound=ast.AST)

#: The code around a body: `BODY` is JAX's own code, or a call of its copy.
_OBSERVED = f"""
def NAME(PARAMETERS):
    {PREFIX}calls = {_PLACEHOLDER!r}
    {PREFIX}state = None
    try:
        try:
            {PREFIX}state = {PREFIX}calls.begun(ARGUMENTS)
        except Exception:
            {PREFIX}calls.broken()
        BODY
    except BaseException as {PREFIX}error:
        {PREFIX}calls.fail({PREFIX}state, {PREFIX}error)
        raise
"""
_CALL = f"""\
{PREFIX}result = {PREFIX}calls.original(ARGUMENTS)
        return {PREFIX}calls.end({PREFIX}state, {PREFIX}result)"""
#: The same for observers of errors only: a call that returns costs nothing more.
_ONLY_ERRORS = f"""
def NAME(PARAMETERS):
    try:
        BODY
    except BaseException as {PREFIX}error:
        {PREFIX}calls = {_PLACEHOLDER!r}
        {PREFIX}calls.fail((FIRST,), {PREFIX}error)
        raise
"""
_ONLY_CALL = f"""\
{PREFIX}result = {_PLACEHOLDER!r}.original(ARGUMENTS)
        return {PREFIX}result"""


def enclosing_code(original: types.CodeType, calls: ObservedFunction) -> types.CodeType:
    """Return code with the parameters of the original that calls the copy of JAX's function."""
    return _with_calls(_enclosing(original, _not_compared(original), calls.begun is None), calls)


def inline_code(target: types.FunctionType, calls: ObservedFunction) -> types.CodeType | None:
    """Return JAX's own source with the calls in it, compiled; None if the source is not that of the code."""
    original = target.__code__
    # The compiler uses other instructions to call methods of imported modules.
    imported = tuple(name for name in original.co_names if isinstance(target.__globals__.get(name), types.ModuleType))
    try:
        return _with_calls(_inline(original, _not_compared(original), calls.begun is None, imported), calls)
    except _NotInlineError:
        return None


class _NotInlineError(Exception):
    """The source is not that of the code, or cannot have the calls in it."""


def _not_compared(code: types.CodeType) -> tuple[object, ...]:
    """What may differ between two code objects that are equal."""
    return code.co_filename, code.co_qualname, code.co_flags


def _with_calls(code: types.CodeType, calls: ObservedFunction) -> types.CodeType:
    """Put the calls in the place of the placeholder."""
    return code.replace(co_consts=tuple(calls if one == _PLACEHOLDER else one for one in code.co_consts))


@functools.lru_cache(_MAX_GENERATED)
def _enclosing(original: types.CodeType, _: tuple[object, ...], only_errors: bool) -> types.CodeType:
    body = _ONLY_CALL if only_errors else _CALL
    function, _attempt = _frame(original, body, original.co_firstlineno, only_errors=only_errors)
    return _compiled([function], original)


@functools.lru_cache(_MAX_GENERATED)
def _inline(
    original: types.CodeType,
    _: tuple[object, ...],
    only_errors: bool,
    imported: tuple[str, ...],
) -> types.CodeType:
    # An exception is not kept: the source may be found later. Code that was found stays right, whatever happens to it.
    found = _definition(original)
    if found is None or original.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE):
        raise _NotInlineError
    imports = [_at(ast.Import([ast.alias(name)]), original.co_firstlineno) for name in imported]
    if _compiled([*imports, _in_class(found, original)], original) != original:
        raise _NotInlineError
    # A debugger stops first where it would without us: at the first line of JAX's own body.
    first = next((line for *_, line in original.co_lines() if line not in (None, found.lineno)), None) or found.lineno
    function, attempt = _frame(original, "pass", first, only_errors=only_errors)
    ast.copy_location(function, found)
    function.args, function.returns = found.args, found.returns
    # Inside `try` a docstring would be an ordinary statement, with a line that a debugger stops at.
    body = found.body[ast.get_docstring(found, clean=False) is not None :]
    if only_errors:
        # JAX rebuilds tracebacks from the last line of a frame, which is the line that raises again.
        raises = [node for node in ast.walk(found) if isinstance(node, ast.Raise)]
        if len(raises) != 1:
            raise _NotInlineError
        ast.copy_location(attempt.handlers[0].body[-1], raises[0])
    else:
        returns = _Returns()
        body = [*(returns.visit(one) for one in body), _at(_Returns.end(None), first)]
    attempt.body[-1:] = body
    return _compiled([*imports, _in_class(function, original)], original)


def _frame(original: types.CodeType, body: str, line: int, *, only_errors: bool) -> tuple[ast.FunctionDef, ast.Try]:
    """Return the function that encloses a body, and its `try`, whose last statements are the body."""
    parameters, arguments = _parameters(original)
    if original.co_argcount:
        first = original.co_varnames[0]
    else:
        several = original.co_varnames[original.co_kwonlyargcount] if original.co_flags & inspect.CO_VARARGS else "()"
        first = f"*{several}[:1]"
    text = _ONLY_ERRORS if only_errors else _OBSERVED
    text = text.replace("BODY", body).replace("PARAMETERS", parameters).replace("ARGUMENTS", arguments)
    function = _at(ast.parse(text.replace("NAME", original.co_name).replace("FIRST", first)).body[0], line)
    assert isinstance(function, ast.FunctionDef)
    attempt = function.body[-1]
    assert isinstance(attempt, ast.Try)
    return function, attempt


class _Returns(ast.NodeTransformer):
    """Passes what a function returns to the observer first."""

    @staticmethod
    def end(value: ast.expr | None) -> ast.Return:
        name = ast.Name(f"{PREFIX}calls", ast.Load())
        state = ast.Name(f"{PREFIX}state", ast.Load())
        arguments: list[ast.expr] = [state, value or ast.Constant(None)]
        return ast.Return(ast.Call(ast.Attribute(name, "end", ast.Load()), arguments, []))

    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.fix_missing_locations(ast.copy_location(self.end(node.value), node))

    def _skip(self, node: ast.AST) -> ast.AST:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _skip  # noqa: N815 - ast's names


def _class_of(code: types.CodeType) -> str | None:
    """Return the name of the class that a method is defined in."""
    return code.co_qualname.rpartition(".")[0] or None


def _in_class(function: ast.FunctionDef, code: types.CodeType) -> ast.stmt:
    name = _class_of(code)
    if name is None:
        return function
    found = _at(ast.parse(f"class {name}: pass").body[0], code.co_firstlineno)
    assert isinstance(found, ast.ClassDef)
    found.body = [function]
    return found


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


def _at(node: _Node, line: int) -> _Node:
    """Give generated code a line of JAX, which a stack or a debugger may show."""
    for one in ast.walk(node):
        vars(one).update(lineno=line, end_lineno=line, col_offset=0, end_col_offset=0)
    return node


def _parameters(code: types.CodeType) -> tuple[str, str]:
    """Return the parameters of code as `def` declares them, without default values, and how to pass all of them."""
    names, count = iter(code.co_varnames), code.co_posonlyargcount
    plain = [next(names) for _ in range(code.co_argcount)]
    keywords = [next(names) for _ in range(code.co_kwonlyargcount)]
    several = f"*{next(names)}" if code.co_flags & inspect.CO_VARARGS else ""
    others = f"**{next(names)}" if code.co_flags & inspect.CO_VARKEYWORDS else ""
    mark = several or ("*" if keywords else "")
    declared = [*plain[:count], "/" if count else "", *plain[count:], mark, *keywords, others]
    passed = [*plain, several, *(f"{name}={name}" for name in keywords), others]
    return ", ".join(filter(None, declared)), ", ".join(filter(None, passed))


def _compiled(body: list[ast.stmt], original: types.CodeType) -> types.CodeType:
    """Compile the only function of a module at the location of the original."""
    tree, future = ast.Module(body, []), original.co_flags & _FUTURE
    code: types.CodeType = compile(tree, original.co_filename, "exec", flags=future, dont_inherit=True)
    while code.co_name != original.co_name:
        code = next(one for one in code.co_consts if isinstance(one, types.CodeType))
    return code.replace(co_qualname=original.co_qualname, co_firstlineno=original.co_firstlineno)


_FEATURES = (getattr(__future__, name) for name in __future__.all_feature_names)
_FUTURE = functools.reduce(operator.or_, (one.compiler_flag for one in _FEATURES))
