"""Makes functions of jitwatch fail, wherever they were imported to: their code is replaced."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jitwatch

ROOT = Path(jitwatch.__file__).parent


def _fail(*args: object, **kwargs: object) -> object:
    raise RuntimeError("injected fault")


def function_at(name: str) -> types.FunctionType:
    """The function of a name such as `runtime:Agent.refresh`."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(f"jitwatch.{module}")
    for part in path.split("."):
        found = vars(found)[part]
    for attribute in ("fget", "func", "__func__", "__wrapped__"):
        found = getattr(found, attribute, found)
    assert isinstance(found, types.FunctionType), name
    return found


@contextmanager
def failing(name: str) -> Iterator[None]:
    """Let this function raise a RuntimeError whenever it is called."""
    function = function_at(name)
    code = function.__code__
    assert not code.co_freevars, name
    function.__code__ = _fail.__code__
    try:
        yield
    finally:
        function.__code__ = code


def called_by(call: Callable[[], object], modules: tuple[str, ...]) -> set[str]:
    """Names of the functions of these modules that a call comes by in this thread; inner ones are left out."""
    found: set[str] = set()

    def note(frame: types.FrameType, event: str, _: object) -> None:
        if event == "call":
            path, name = Path(frame.f_code.co_filename), frame.f_code.co_qualname
            if path.is_relative_to(ROOT) and "<" not in name:
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                if module in modules:
                    found.add(f"{module}:{name}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found
