"""What `jitwatch doctor` advises."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from jitwatch.cli.doctor import _problem_with, _remedy


@pytest.mark.parametrize(
    ("package", "place", "advice"),
    [
        ("psutil", None, f"; run: {sys.executable} -m pip install --upgrade --force-reinstall psutil"),
        ("psutil", "/home/ada/psutil.py", ": rename it, or remove its folder from PYTHONPATH"),
        ("no-such-package", "/home/ada/x.py", f": rename it, and run: {sys.executable} -m pip install no-such-package"),
    ],
    ids=["damaged", "hidden", "absent"],
)
def test_package_that_cannot_be_used_has_a_remedy(package, place, advice):
    """Reinstalling does not help where a file of the user hides the package."""
    spec = importlib.util.find_spec("psutil")
    assert spec is not None
    assert _remedy(package, place or str(spec.origin)).endswith(advice)


def test_folder_without_code_is_named(monkeypatch):
    """What is left of a package that was removed in part is a folder, which Python imports as an empty package."""
    spec = importlib.util.find_spec("psutil")
    assert spec is not None
    left = spec.submodule_search_locations
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace())
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None, submodule_search_locations=left)
    )
    problem = _problem_with("psutil")
    assert problem is not None
    assert problem.startswith(f"{left[0]} cannot be used: ")
    assert problem.endswith("--force-reinstall psutil")
