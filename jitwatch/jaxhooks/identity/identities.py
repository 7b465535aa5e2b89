"""Names a jitted callable: unwraps it down to one code object of the user and labels that.

`module.qualname`; lambdas and local functions get `@basename:line`, since their names are not unique.
What JAX compiles for itself is `__jax__`. Nothing is called on the user's objects but attribute
reads of functions, partials and bound methods.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from jitwatch.jaxhooks.identity import jax_functions
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.cleaning import clean
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL

_MAX_UNWRAPS = 32
_MAX_HIDDEN = 8
_MAX_NAME = 200
#: Libraries that wrap functions without saying so, and what they call the user's function inside.
_WRAPPING_LIBRARIES = ("flax", "equinox", "haiku")
_USERS_FUNCTION = frozenset({"f", "fn", "fun", "func"})
_MAX_SEARCHED = 200
#: How to read a class without asking its metaclass.
_DICT, _MRO, _QUALNAME = (type.__dict__[name] for name in ("__dict__", "__mro__", "__qualname__"))
_PLAIN_CALLABLES = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
_NOTEBOOK_FILE = re.compile(r"(ipykernel_\d+[/\\]|^<ipython-input-)")


class Identities:
    """Finds the `Function` of a callable; cached by the callable, weakly."""

    def __init__(self) -> None:
        self._known: WeakIdMap[tuple[Function | None]] = WeakIdMap()
        #: Names by code object: a function that is made anew in a loop is named once.
        self._by_code: WeakIdMap[tuple[Any, Any, Function]] = WeakIdMap()
        #: Where JAX's own code lives, with a separator at the end; empty until it was imported.
        self.jax_folders: tuple[str, ...] = ()

    def learn_jax_folders(self) -> None:
        """Look up where JAX lives, once it was imported; what is defined there is JAX's own."""
        self.jax_folders = _jax_folders()

    def of(self, fun: Any) -> Function | None:
        """The function behind what was passed to `jax.jit`, or None while only a call can tell it."""
        known = self._known.get(fun)
        if known is None:
            known = (self._resolve(fun),)
            self._known.set(fun, known)
        return known[0]

    def of_call(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Function:
        """The function that a call is about, where `of` cannot tell.

        `equinox.filter_jit` jits one wrapper for all functions of a name, gives it that name and
        passes the function itself among the static arguments.
        """
        inner = unwrap(passed_as_static(fun, args, static_argnums))
        return self._labelled(inner, code_of(inner))

    def callee(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Any:
        """The function object that a call is about: what was jitted, or what a library passes to it."""
        return passed_as_static(fun, args, static_argnums) if self.of(fun) is None else fun

    def label_of(self, fun: Any) -> str:
        """Label of a function that the user points at, jitted or not; without `@file:line` where only its name shows.

        A function, a partial and what JAX makes of them are named as always. Of any other object only
        attributes that are stored are read, never computed ones: no code of its class runs.
        """
        for _ in range(_MAX_UNWRAPS):
            if type(fun) in _PLAIN_CALLABLES:
                found = self.of(fun)
                return found.label if found is not None else _stored_name(fun)
            inner = _stored(fun, "__wrapped__")
            if inner is None or type(inner) is property:
                break
            fun = inner
        return _stored_name(fun)

    def layers(self, fun: Any) -> list[Any]:
        """The callable and everything below it, down to the user's own function."""
        found = layers_of(fun)
        for _ in range(_MAX_HIDDEN):
            inner = found[-1]
            code = code_of(inner)
            if code is None or not (self._is_jax_file(code.co_filename) or _package_of(inner) in _WRAPPING_LIBRARIES):
                break
            hidden = _hidden_in_closure(inner)
            if hidden is None:
                break
            found += layers_of(hidden)
        return found

    def is_of_jax(self, fun: Any) -> bool:
        """Whether the function itself is JAX's own code, whatever it wraps."""
        return isinstance(fun, types.FunctionType) and self._is_jax_file(fun.__code__.co_filename)

    def wrapped_by_jax(self, layer: Any) -> types.CodeType | None:
        """Code of JAX's own function inside of JAX's own wrapper, as `grad_f` or `vmap_f`."""
        code = layer.__code__ if isinstance(layer, types.FunctionType) else None
        if code is None or "fun" not in code.co_freevars or not self._is_jax_file(code.co_filename):
            return None
        try:
            inner = (layer.__closure__ or ())[code.co_freevars.index("fun")].cell_contents
        except (IndexError, ValueError):
            return None
        found = inner.__code__ if isinstance(inner, types.FunctionType) else None
        return found if found is not None and self._is_jax_file(found.co_filename) else None

    def _resolve(self, fun: Any) -> Function | None:
        if jax_functions.is_operation(fun):
            body = jax_functions.body_of(fun, lambda filename: is_users(filename, self.jax_folders))
            return self._internal(fun) if body is None else self._of_body(body)
        inner = self.layers(fun)[-1]
        code = code_of(inner)
        if code is not None and self._is_jax_file(code.co_filename):
            return self._passed_to(fun) or self._internal(fun)
        if code is not None and _is_masked(inner, code):
            named_after = _by_its_name(inner)
            return None if named_after is None else self._labelled(named_after, code_of(named_after))
        if code is None and _package_of(inner) in ("jax", "jaxlib"):
            return self._internal(fun)
        return self._labelled(inner, code)

    def _labelled(self, fun: Any, code: types.CodeType | None) -> Function:
        if not isinstance(fun, types.FunctionType) or code is None:
            return _labelled(fun, code)
        known = self._by_code.get(code)
        if known is None or known[0] != fun.__qualname__ or known[1] != fun.__module__:
            known = (fun.__qualname__, fun.__module__, _labelled(fun, code))
            self._by_code.set(code, known)
        return known[2]

    def _of_body(self, code: types.CodeType) -> Function:
        known = self._by_code.get(code)
        if known is None:
            module = jax_functions.module_of_file(code.co_filename)
            function = _named(f"{module}.{code.co_qualname}", code.co_name, code)
            known = (None, None, function)
            self._by_code.set(code, known)
        return known[2]

    def _passed_to(self, fun: Any) -> Function | None:
        """The user's function that a function of JAX gets: the body in `partial(jax.lax.scan, body)`."""
        for layer in layers_of(fun):
            for one in jax_functions.passed_to(layer):
                inner = self.layers(one)[-1]
                code = code_of(inner)
                if code is not None and is_users(code.co_filename, self.jax_folders):
                    return self._labelled(inner, code)
        return None

    def adopt(self, fun: Any, frame: types.FrameType) -> Function:
        """Name a function of JAX's own that the job jits itself, after the line that does.

        Args:
            fun: What was passed to `jax.jit`.
            frame: That called it.
        """
        code, name = frame.f_code, jax_functions.name_of(fun) or "<jit>"
        module = frame.f_globals.get("__name__")
        where = f"{_basename(code.co_filename)}:{frame.f_lineno}"
        label = f"{module}.{name}@{where}" if isinstance(module, str) else f"{name}@{where}"
        function = Function(_clean(label), _clean(name), _clean(f"{code.co_filename}:{frame.f_lineno}"))
        self._known.set(fun, (function,))
        return function

    def _internal(self, fun: Any) -> Function:
        return Function(JAX_LABEL, _clean(getattr(fun, "__name__", None) or type(fun).__name__))

    def _is_jax_file(self, filename: str) -> bool:
        return filename.startswith(self.jax_folders)


def _stored_name(fun: Any) -> str:
    """`module.qualname` as a wrapper keeps it, or that of a class or of a callable object's class."""
    name, module = _stored(fun, "__qualname__"), _stored(fun, "__module__")
    if issubclass(type(fun), type):
        name = _QUALNAME.__get__(fun)
    elif type(name) is not str:
        name = f"{_QUALNAME.__get__(type(fun))}.__call__"
    return _clean(f"{module}.{name}" if type(module) is str else name)


def _stored(value: Any, name: str) -> Any:
    """An attribute as it is stored in an object or its classes, None where there is none.

    As `inspect.getattr_static`, which lets a metaclass run code.
    """
    classes = [_DICT.__get__(kind) for kind in _MRO.__get__(type(value))]
    own = next((attributes["__dict__"] for attributes in classes if "__dict__" in attributes), None)
    instance = own.__get__(value) if type(own) is types.GetSetDescriptorType else {}
    return next((attributes[name] for attributes in (instance, *classes) if name in attributes), None)


def named(name: str) -> Function:
    """A stand-in for a compile of which JAX told no more than the name (`jit(f)`, `jit_f`)."""
    bare = re.sub(r"^(?:\w+\()(.*)\)$|^jit_", r"\1", name) or name
    return Function(JAX_LABEL, _clean(bare))


def unwrap(fun: Any) -> Any:
    """Follow partials, bound methods, `__wrapped__` and JAX's WrappedFun; bounded, so loops end."""
    return layers_of(fun)[-1]


def layers_of(fun: Any) -> list[Any]:
    """The callable and what it wraps, as far as it says so."""
    found = [fun]
    for _ in range(_MAX_UNWRAPS):
        inner = _unwrap_once(found[-1])
        if inner is None or inner is found[-1]:
            break
        found.append(inner)
    return found


def passed_as_static(fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Any:
    """The function of the same name among the static arguments, else `fun` itself."""
    wanted = getattr(unwrap(fun), "__qualname__", None)
    for found in _functions_in([args[i] for i in static_argnums if -len(args) <= i < len(args)]):
        if getattr(unwrap(found), "__qualname__", None) == wanted:
            return found
    return fun


def _unwrap_once(fun: Any) -> Any:
    if isinstance(fun, types.MethodType):
        return _wrapped_fun(fun.__self__) or fun.__func__
    # Before partials: flax wraps a partial of its own and says in `__wrapped__` what it stands for.
    attributes = getattr(fun, "__dict__", None)
    if isinstance(attributes, dict) and callable(attributes.get("__wrapped__")):
        return attributes["__wrapped__"]
    if isinstance(fun, functools.partial):
        return fun.func
    return _wrapped_fun(fun)


def _wrapped_fun(value: Any) -> Any:
    """The user's function in JAX's `linear_util.WrappedFun` (0.6–0.10), else None."""
    if type(value).__name__ == "WrappedFun" and callable(getattr(value, "f", None)):
        return value.f
    return None


def code_of(fun: Any) -> types.CodeType | None:
    """The Python code of a function or callable object, or None for C functions."""
    code = getattr(fun, "__code__", None)
    if not isinstance(code, types.CodeType):
        code = getattr(inspect.getattr_static(type(fun), "__call__", None), "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def _hidden_in_closure(fun: Any) -> Any:
    """The user's function in the closure of a wrapper that does not name it in `__wrapped__`.

    So do JAX's pmap (0.8 on, as a `WrappedFun`) and `linear_transpose`, and flax's `nnx.grad`.
    """
    names = getattr(getattr(fun, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(fun, "__closure__", None) or (), strict=False):
        try:
            content = cell.cell_contents
        except ValueError:
            continue  # an empty cell
        found = _wrapped_fun(content)
        if found is None and name in _USERS_FUNCTION and isinstance(content, (types.FunctionType, functools.partial)):
            found = content
        if found is not None:
            return found
    return None


def _is_masked(fun: Any, code: types.CodeType) -> bool:
    """Whether a library gave its wrapper the name of another function."""
    name = getattr(fun, "__qualname__", None)
    return (
        isinstance(fun, types.FunctionType)
        and is_users(code.co_filename, ()) is None
        and name != code.co_qualname
        and "<locals>" in code.co_qualname
    )


def _by_its_name(fun: Any) -> Any:
    """The function that a masked wrapper is named after, if the module it names has one."""
    target: Any = sys.modules.get(_module_of(fun))
    for part in str(getattr(fun, "__qualname__", "")).split("."):
        target = getattr(target, part, None)
    inner = unwrap(target) if callable(target) else None
    code = code_of(inner)
    return None if inner is fun or code is None or code is code_of(fun) else inner


def _functions_in(values: Any) -> Iterator[Callable[..., Any]]:
    """Functions in nested tuples, lists and dicts, breadth first, bounded."""
    queue: list[Any] = [values]
    for _ in range(_MAX_SEARCHED):
        if not queue:
            return
        value = queue.pop(0)
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            yield value
        elif type(value) in (tuple, list):
            queue.extend(value[:_MAX_SEARCHED])
        elif type(value) is dict:
            queue.extend(list(value.values())[:_MAX_SEARCHED])


def _labelled(fun: Any, code: types.CodeType | None) -> Function:
    is_function = hasattr(fun, "__qualname__")
    qualname = _text(getattr(fun, "__qualname__", None)) if is_function else f"{type(fun).__qualname__}.__call__"
    module = _module_of(fun) if is_function else _module_of(type(fun))
    label = f"{module}.{qualname}" if module else qualname
    if code is None:
        return Function(_clean(label), _clean(qualname.rpartition(".")[2]))
    return _named(label, getattr(fun, "__name__", None) or qualname, code)


def _named(label: str, name: Any, code: types.CodeType) -> Function:
    if "<lambda>" in label or "<locals>" in label:
        label = f"{label}@{_basename(code.co_filename)}:{code.co_firstlineno}"
    location = f"{code.co_filename}:{code.co_firstlineno}"
    return Function(_clean(label), _clean(name), _clean(location), is_library=is_users(code.co_filename, ()) is None)


def _basename(filename: str) -> str:
    if _NOTEBOOK_FILE.search(filename):
        return "cell"
    return os.path.basename(filename) or filename


def _package_of(fun: Any) -> str:
    return _module_of(fun).partition(".")[0]


def _module_of(fun: Any) -> str:
    module = getattr(fun, "__module__", None)
    return module if isinstance(module, str) else ""


def _text(value: Any) -> str:
    """A name that really is one; other objects are not asked for their text."""
    return value if isinstance(value, str) else type(value).__name__


def _clean(name: Any) -> str:
    return clean(_text(name), _MAX_NAME)


def _jax_folders() -> tuple[str, ...]:
    folders = []
    for package in ("jax", "jaxlib"):
        filename = getattr(sys.modules.get(package), "__file__", None)
        if filename:
            folders.append(os.path.join(os.path.dirname(filename), ""))
    return tuple(folders)
