"""Labels of jitted callables: each is unwrapped to one code object of the user, which gives the label.

A label is `module.qualname`; lambdas and local functions get `@basename:line` in addition, since their names are not
unique. What JAX compiles for itself is `__jax__`. Of the user's objects only attributes of functions, partials and
bound methods are read.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import types
from typing import Any

from jitwatch.jaxhooks.identity import jax_functions
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.identity.unwrapping import (
    MAX_LAYERS,
    closure_of,
    code_of,
    hidden_in_closure,
    layers_of,
    passed_as_static,
    unwrap,
)
from jitwatch.jaxhooks.values.classes import class_attribute, class_facts, qualname_of
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.cleaning import clean
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL

_MAX_HIDDEN = 8
_MAX_NAME = 200
#: Libraries that wrap functions without setting `__wrapped__`.
_WRAPPING_LIBRARIES = ("flax", "equinox", "haiku")
_PLAIN_CALLABLES = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
_NOTEBOOK_FILE = re.compile(r"(ipykernel_\d+[/\\]|^<ipython-input-)")


class Identities:
    """Finds the `Function` of a callable; cached weakly by the callable."""

    def __init__(self) -> None:
        self._known: WeakIdMap[tuple[Function | None]] = WeakIdMap()
        #: Names by code object: a function that is made anew in a loop is named once.
        self._by_code: WeakIdMap[tuple[Any, Any, Function]] = WeakIdMap()
        #: The same of functions that are plain: nothing but the code and the two names decides their label.
        self._plain: WeakIdMap[tuple[str, str, Function]] = WeakIdMap()
        #: Folders of JAX, each with a separator at the end; empty until JAX is imported.
        self.jax_folders: tuple[str, ...] = ()

    def find_jax_folders(self) -> None:
        """Find the folders of JAX, after its import; functions defined there are JAX's own."""
        files = (getattr(sys.modules.get(package), "__file__", None) for package in ("jax", "jaxlib"))
        self.jax_folders = tuple(os.path.join(os.path.dirname(file), "") for file in files if file)

    def of(self, fun: Any) -> Function | None:
        """Return the function of what was passed to `jax.jit`, or None if only a call shows it."""
        found = self.plain(fun)
        if found is not None:
            return found
        known = self._known.get(fun)
        if known is None:
            known = (self._resolve(fun),)
            self._known.set(fun, known)
        return known[0]

    def plain(self, fun: Any) -> Function | None:
        """Return the function of a plain function of the user's whose code was resolved before, else None.

        A plain function is a Python function without attributes, such as `__wrapped__`, in a file neither of JAX nor
        of a library that wraps functions: it is its only layer. Fast: functions are made anew in loops.
        """
        if type(fun) is not types.FunctionType or fun.__dict__:
            return None
        known = self._plain.get(fun.__code__)
        if known is None or known[0] != fun.__qualname__ or known[1] != fun.__module__:
            return None
        return known[2]

    def of_call(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Function:
        """Return the function of a call, for callables of which `of` returns None.

        `equinox.filter_jit` jits one wrapper for all functions of a name, gives it that name and passes the function
        itself among the static arguments.
        """
        inner = unwrap(passed_as_static(fun, args, static_argnums))
        return self._labelled(inner, code_of(inner))

    def callee(self, fun: Any, args: tuple[Any, ...], static_argnums: tuple[int, ...]) -> Any:
        """Return the function object of a call: what was jitted, or what a library passes to it."""
        return passed_as_static(fun, args, static_argnums) if self.of(fun) is None else fun

    def label_of(self, fun: Any) -> str:
        """Return the label of any callable, jitted or not; without `@file:line` if only its name is known.

        Functions, partials and jitted ones get their usual label. Of other objects only stored attributes are read,
        never computed ones: no code of their class runs.
        """
        for _ in range(MAX_LAYERS):
            if type(fun) in _PLAIN_CALLABLES:
                found = self.of(fun)
                return found.label if found is not None else _stored_name(fun)
            inner = _stored(fun, "__wrapped__")
            if inner is None or type(inner) is property:
                break
            fun = inner
        return _stored_name(fun)

    def layers(self, fun: Any) -> list[Any]:
        """Return the callable and all that it wraps, down to the user's own function."""
        found = layers_of(fun)
        for _ in range(_MAX_HIDDEN):
            inner = found[-1]
            code = code_of(inner)
            if code is None or not (self._is_jax_file(code.co_filename) or _package_of(inner) in _WRAPPING_LIBRARIES):
                break
            hidden = hidden_in_closure(inner)
            if hidden is None:
                break
            found += layers_of(hidden)
        return found

    def is_of_jax(self, fun: Any) -> bool:
        """Whether the function itself is JAX's own code, whatever it wraps."""
        return isinstance(fun, types.FunctionType) and self._is_jax_file(fun.__code__.co_filename)

    def wrapped_by_jax(self, layer: Any) -> types.CodeType | None:
        """Return the code of JAX's own function inside JAX's own wrapper, such as `grad_f` or `vmap_f`."""
        code = layer.__code__ if isinstance(layer, types.FunctionType) else None
        if code is None or not self._is_jax_file(code.co_filename):
            return None
        inner = dict(closure_of(layer)).get("fun")
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
        function = self._labelled(inner, code)
        is_plain = inner is fun and type(fun) is types.FunctionType and not fun.__dict__
        if is_plain and type(fun.__module__) is str and _package_of(fun) not in _WRAPPING_LIBRARIES:
            self._plain.set(fun.__code__, (fun.__qualname__, fun.__module__, function))
        return function

    def _labelled(self, fun: Any, code: types.CodeType | None) -> Function:
        if not isinstance(fun, types.FunctionType) or code is None:
            return _labelled(fun, code)
        known = self._by_code.get(code)
        if known is None or known[:2] != (fun.__qualname__, fun.__module__):
            known = (fun.__qualname__, fun.__module__, _labelled(fun, code))
            self._by_code.set(code, known)
        return known[2]

    def _of_body(self, code: types.CodeType) -> Function:
        known = self._by_code.get(code)
        if known is None:
            label = f"{jax_functions.module_of_file(code.co_filename)}.{code.co_qualname}"
            known = (None, None, _named(label, code.co_name, code))
            self._by_code.set(code, known)
        return known[2]

    def _passed_to(self, fun: Any) -> Function | None:
        """Return the user's function that a function of JAX gets: the body in `partial(jax.lax.scan, body)`."""
        for layer in layers_of(fun):
            for one in jax_functions.passed_to(layer):
                inner = self.layers(one)[-1]
                code = code_of(inner)
                if code is not None and is_users(code.co_filename, self.jax_folders):
                    return self._labelled(inner, code)
        return None

    def adopt(self, fun: Any, frame: types.FrameType) -> Function:
        """Label a function of JAX's own that the job jits itself by the line that does; `frame` calls `jax.jit`."""
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
    """Return `module.qualname` as a wrapper stores it, or that of a class or of a callable object's class."""
    name, module = _stored(fun, "__qualname__"), _stored(fun, "__module__")
    if issubclass(type(fun), type):
        name = qualname_of(fun)
    elif type(name) is not str:
        name = f"{qualname_of(type(fun))}.__call__"
    return _clean(f"{module}.{name}" if type(module) is str else name)


def _stored(value: Any, name: str) -> Any:
    """Return an attribute as an object or its classes store it, or None.

    Unlike `inspect.getattr_static`, which lets a metaclass run code.
    """
    dictionary = class_facts(type(value)).dictionary
    own = dictionary.__get__(value) if dictionary is not None else {}
    return own[name] if name in own else class_attribute(type(value), name)


def function_of_program(name: str) -> Function:
    """Return a function for a compile of which only JAX's name is known (`jit(f)`, `jit_f`)."""
    bare = re.sub(r"^(?:\w+\()(.*)\)$|^jit_", r"\1", name) or name
    return Function(JAX_LABEL, _clean(bare))


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
    """Return the function that a masked wrapper is named after, if its module has one."""
    target: Any = sys.modules.get(_module_of(fun))
    for part in str(getattr(fun, "__qualname__", "")).split("."):
        target = getattr(target, part, None)
    inner = unwrap(target) if callable(target) else None
    code = code_of(inner)
    return None if inner is fun or code is None or code is code_of(fun) else inner


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
    return "cell" if _NOTEBOOK_FILE.search(filename) else os.path.basename(filename) or filename


def _package_of(fun: Any) -> str:
    return _module_of(fun).partition(".")[0]


def _module_of(fun: Any) -> str:
    module = getattr(fun, "__module__", None)
    return module if isinstance(module, str) else ""


def _text(value: Any) -> str:
    """Return a name if it is a string, else its class name: no code of other objects runs."""
    return value if isinstance(value, str) else type(value).__name__


def _clean(name: Any) -> str:
    return clean(_text(name), _MAX_NAME)
