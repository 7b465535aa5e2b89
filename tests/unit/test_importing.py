"""Waiting for a module: told once, after it ran, and leaving no trace in it."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import itertools
import sys
import threading

import pytest

from jitwatch import guard
from jitwatch.jaxhooks.importing import ImportWatch, when_imported

_numbers = itertools.count()


class Waiting:
    """A module that does not exist yet, and a callback that counts."""

    def __init__(self, folder) -> None:
        self.name = f"awaited_module_{next(_numbers)}"
        self.folder = folder
        self.watch: ImportWatch | None = None
        self.calls: list[object] = []

    def write(self, text: str, *, name: str | None = None) -> None:
        (self.folder / f"{name or self.name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    def start(self) -> ImportWatch | None:
        self.watch = when_imported(self.name, self.callback)
        return self.watch

    def callback(self) -> None:
        self.calls.append(getattr(sys.modules.get(self.name), "value", None))

    @property
    def is_watching(self) -> bool:
        return any(isinstance(finder, ImportWatch) for finder in sys.meta_path)


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """One such module in a folder that Python imports from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    subject = Waiting(tmp_path)
    yield subject
    if subject.watch is not None:
        subject.watch.stop()
    for name in [name for name in sys.modules if name.partition(".")[0] == subject.name]:
        del sys.modules[name]


def test_when_imported_module_is_there_calls_at_once(waiting):
    """Nothing is left on the import path."""
    waiting.write("value = 1")
    importlib.import_module(waiting.name)

    assert waiting.start() is None
    assert [1] == waiting.calls
    assert not waiting.is_watching


def test_when_imported_module_to_come_is_called_after_it_ran(waiting):
    """Not before the import, and with the module's names in place."""
    waiting.write("value = 1")
    assert waiting.start() is not None
    assert [] == waiting.calls

    module = importlib.import_module(waiting.name)

    assert [1] == waiting.calls
    assert 1 == module.value


def test_import_ends_the_watch(waiting):
    """Importing again or reloading tells nothing more."""
    waiting.write("value = 1")
    waiting.start()
    module = importlib.import_module(waiting.name)
    importlib.import_module(waiting.name)
    importlib.reload(module)
    del sys.modules[waiting.name]
    importlib.import_module(waiting.name)

    assert [1] == waiting.calls
    assert not waiting.is_watching


def test_import_leaves_no_trace_in_the_module(waiting):
    """Its loader and spec are Python's own, also while it runs: resources and reloads work as always."""
    waiting.write("during = (type(__loader__).__name__, type(__spec__.loader).__name__)")
    waiting.start()
    module = importlib.import_module(waiting.name)

    assert isinstance(module.__loader__, importlib.machinery.SourceFileLoader)
    assert module.__loader__ is module.__spec__.loader
    assert ("SourceFileLoader", "SourceFileLoader") == module.during
    assert str(waiting.folder / f"{waiting.name}.py") == module.__file__ == module.__spec__.origin


def test_import_of_a_package_by_its_submodule_is_seen(waiting):
    """`import jax.numpy` imports jax first; the callback comes between the two."""
    package = waiting.folder / waiting.name
    package.mkdir()
    (package / "__init__.py").write_text("value = 1", encoding="utf-8")
    (package / "numpy.py").write_text("", encoding="utf-8")
    waiting.start()
    importlib.import_module(f"{waiting.name}.numpy")

    assert [1] == waiting.calls
    assert [str(package)] == list(sys.modules[waiting.name].__path__)


def test_import_of_other_modules_is_left_alone(waiting):
    """Only the one name counts, not one that begins like it, nor a submodule of that name elsewhere."""
    waiting.write("value = 2", name=f"{waiting.name}_more")
    watch = waiting.start()
    module = importlib.import_module(f"{waiting.name}_more")
    del sys.modules[module.__name__]

    assert isinstance(module.__spec__.loader, importlib.machinery.SourceFileLoader)
    assert watch.find_spec(f"other.{waiting.name}", None) is None
    assert [] == waiting.calls
    assert waiting.is_watching


def test_lookup_of_the_module_does_not_end_the_watch(waiting):
    """Libraries ask `find_spec` whether it is installed, long before anybody imports it."""
    waiting.write("value = 1")
    waiting.start()
    assert importlib.util.find_spec(waiting.name) is not None
    assert importlib.util.find_spec(waiting.name) is not None
    assert [] == waiting.calls
    importlib.import_module(waiting.name)

    assert [1] == waiting.calls
    assert not waiting.is_watching


def test_import_that_fails_passes_its_error_and_keeps_waiting(waiting):
    """The job sees its own exception; when it tries again with success, the callback comes."""
    waiting.write("raise RuntimeError('theirs')")
    waiting.start()
    with pytest.raises(RuntimeError, match="theirs"):
        importlib.import_module(waiting.name)
    assert [] == waiting.calls
    assert waiting.name not in sys.modules

    waiting.write("value = 'this time'")
    importlib.import_module(waiting.name)

    assert ["this time"] == waiting.calls
    assert not waiting.is_watching


def test_import_of_a_missing_module_keeps_waiting(waiting):
    """`try: import jax` in a process without it fails as always; installed later, it is seen."""
    waiting.start()
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(waiting.name)
    assert waiting.name == caught.value.name
    assert waiting.is_watching

    waiting.write("value = 1")
    importlib.import_module(waiting.name)
    assert [1] == waiting.calls


def test_import_of_a_folder_without_init_keeps_waiting(waiting):
    """A folder that happens to have the name is no module that ran."""
    (waiting.folder / waiting.name).mkdir()
    waiting.start()
    importlib.import_module(waiting.name)

    assert [] == waiting.calls
    assert waiting.is_watching


def test_stop_before_the_import(waiting):
    """Nothing is left on the import path, and nobody is told; stopping twice is once."""
    waiting.write("value = 1")
    finders = list(sys.meta_path)
    watch = waiting.start()
    watch.stop()
    watch.stop()
    assert finders == sys.meta_path
    importlib.import_module(waiting.name)

    assert [] == waiting.calls


def test_stop_after_the_import_does_nothing(waiting):
    """Uninstalling an agent that was told."""
    waiting.write("value = 1")
    finders = list(sys.meta_path)
    watch = waiting.start()
    importlib.import_module(waiting.name)
    watch.stop()

    assert finders == sys.meta_path


def test_callback_that_fails_does_not_break_the_import(waiting, monkeypatch):
    """The module is there for the job, and the failure is counted."""
    counted = []
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(guard, "_seen", set())
    monkeypatch.setattr(guard, "_sink", counted.append)
    waiting.write("value = 1")

    def fail():
        raise ValueError("ours")

    waiting.watch = when_imported(waiting.name, fail)

    assert 1 == importlib.import_module(waiting.name).value
    assert ["import"] == counted


def test_callback_runs_once_in_the_importing_thread(waiting):
    """Eight threads import at the same moment: one call, and each gets the whole module."""
    waiting.write("value = 1")
    barrier = threading.Barrier(8)
    found = []

    def work():
        barrier.wait()
        found.append(importlib.import_module(waiting.name).value)

    waiting.start()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [1] * 8 == found
    assert [1] == waiting.calls


def test_callback_may_import_the_module(waiting):
    """It looks at what was just imported; that is no second import."""
    waiting.write("value = 1")
    seen = []
    waiting.watch = when_imported(waiting.name, lambda: seen.append(importlib.import_module(waiting.name).value))
    importlib.import_module(waiting.name)

    assert [1] == seen
