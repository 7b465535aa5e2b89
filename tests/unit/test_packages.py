"""Whose installed files are: libraries, and the user's own packages."""

from __future__ import annotations

import importlib
import json
import os
import sys
import types

import pytest

from jitwatch.jaxhooks.identity.packages import is_installed, is_library, is_own, library_prefixes, own_prefixes
from tests.site_packages import install

FOLDER = json.dumps({"url": "file:///app", "dir_info": {}})


@pytest.mark.parametrize(
    "origin",
    [
        None,
        json.dumps({"url": "https://example.org/a.whl", "archive_info": {}}),
        json.dumps({"url": "https://example.org/a", "vcs_info": {"vcs": "git", "commit_id": "1"}}),
        json.dumps({"url": "file:///home/conda/feedstock_root/build_artifacts/optax/work", "dir_info": {}}),
        json.dumps({"url": "file:///tmp/root/spack-stage/spack-stage-py-optax/spack-src", "dir_info": {}}),
        "{",
    ],
)
def test_what_was_fetched_is_a_library(site, origin):
    """Of an index, an archive or a repository; and what says nothing that can be read."""
    install(site, "theirs", origin, {"theirs/__init__.py": ""})
    assert () == own_prefixes(None, [str(site)])


def test_what_conda_installed_is_a_library(site):
    """Wherever it says that it was built."""
    install(site, "theirs", FOLDER, {"theirs/__init__.py": ""})
    (site / "theirs-1.0.dist-info" / "INSTALLER").write_text("conda\n", encoding="utf-8")
    assert () == own_prefixes(None, [str(site)])


def test_what_was_built_from_a_folder_is_the_users(site):
    """Its topmost packages and its single modules; in a namespace, not what others have there."""
    files = ("acme/__init__.py", "acme/models/__init__.py", "acme/bare/train.py", "single.py", "space/ours/__init__.py")
    install(site, "acme", FOLDER, dict.fromkeys((*files, "space/loose.py", "acme/data.json"), ""))
    install(site, "theirs", None, {"space/theirs/__init__.py": ""})
    expected = [site / "acme" / "", site / "single.py", site / "space/loose.py", site / "space/ours" / ""]
    folders = [f"{one}/" if one.is_dir() else str(one) for one in expected]
    assert tuple(folders) == own_prefixes(None, [str(site), "", "/nowhere"])


def test_editable_package_needs_no_entry(site):
    """It lies elsewhere, where every file is the user's."""
    install(
        site, "acme", json.dumps({"url": "file:///a", "dir_info": {"editable": True}}), {"__editable__.acme.pth": ""}
    )
    assert () == own_prefixes(None, [str(site)])


def test_package_that_is_run_is_the_users(site, monkeypatch):
    """`python -m acme.train` says whose program it is."""
    install(site, "acme", None, {"acme/__init__.py": "", "acme/train.py": ""})
    monkeypatch.syspath_prepend(str(site))
    importlib.import_module("acme.train")
    try:
        main = types.ModuleType("__main__")
        main.__spec__ = sys.modules["acme.train"].__spec__
        assert (f"{site}/acme/",) == own_prefixes(main, [])
    finally:
        del sys.modules["acme"], sys.modules["acme.train"]


@pytest.mark.parametrize("is_linked", [False, True])
def test_package_of_a_console_script_is_the_users(tmp_path, is_linked):
    """The script lies beside the interpreter, and its package says so itself; a link to it may lie anywhere."""
    main = types.ModuleType("__main__")
    main.__file__ = os.path.join(os.path.dirname(sys.executable), "pytest")
    if is_linked:
        os.symlink(main.__file__, tmp_path / "pytest")
        main.__file__ = str(tmp_path / "pytest")
    assert (os.path.join(os.path.dirname(importlib.import_module("_pytest").__file__), ""),) == own_prefixes(main, [])


def test_program_that_is_not_installed_adds_nothing(tmp_path):
    """A script, a notebook, an interactive session."""
    for file in (str(tmp_path / "train.py"), None):
        main = types.ModuleType("__main__")
        if file is not None:
            main.__file__ = file
        assert () == own_prefixes(main, [])


def test_installed_files_are_known_by_their_folder():
    """Of the environment, of the user, of Debian; no project is taken for one."""
    assert is_installed("/home/me/.local/lib/python3.11/site-packages/optax/a.py")
    assert is_installed("/usr/lib/python3/dist-packages/numpy/a.py")
    assert not is_installed("/home/me/site-packages.py")
    assert not is_installed("/home/me/my-site-packages/train.py")


def test_what_pip_put_elsewhere_is_a_library(tmp_path):
    """`pip install --target deps`, and what is the user's beside it."""
    deps = tmp_path / "deps"
    install(deps, "theirs", None, {"theirs/__init__.py": "", "theirs/inner.py": "", "their_module.py": ""})
    install(deps, "acme", FOLDER, {"acme/__init__.py": ""})
    (deps / "train.py").write_text("")
    expected = (f"{deps}/their_module.py", f"{deps}/theirs/")
    assert expected == library_prefixes([str(deps), "", "/nowhere", str(tmp_path)])


def test_huge_folder_is_not_read_to_its_end(tmp_path):
    """The folder of a script may hold a job's data."""
    for number in range(3):
        install(tmp_path, f"theirs_{number}", None, {f"theirs_{number}.py": ""})
    assert len(library_prefixes([str(tmp_path)], max_entries=2)) <= 2


def test_project_of_a_removed_working_directory_is_unknown(tmp_path, monkeypatch):
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert not is_library("/srv/vendor/a.py")


def test_site_packages_are_known_by_their_folder_alone(site):
    install(site, "theirs", None, {"theirs/__init__.py": ""})
    assert () == library_prefixes([str(site)])


@pytest.mark.parametrize("damage", ["no list", "a list of bytes", "an origin of bytes"])
def test_damaged_distribution_is_the_users(tmp_path, damage):
    install(tmp_path, "theirs", None, {"theirs/__init__.py": ""})
    info = tmp_path / "theirs-1.0.dist-info"
    if damage == "no list":
        (info / "RECORD").unlink()
    else:
        (info / ("RECORD" if "list" in damage else "direct_url.json")).write_bytes(b"\xff\xfe\x00")
    assert () == library_prefixes([str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "is_vendored"),
    [
        ("vendor/optax/update.py", True),
        ("acme/_vendor/optax/update.py", True),
        ("third_party/py/optax.py", True),
        ("vendor.py", False),
        ("vendors/models.py", False),
        ("acme/train.py", False),
        ("third_party", False),
    ],
)
def test_copied_code_below_the_program_is_a_library(tmp_path, monkeypatch, name, is_vendored):
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "train.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert is_vendored == is_library(str(tmp_path / name))
    # A program that lies in such a folder itself is the user's.
    main.__file__ = str(tmp_path / "vendor" / "acme" / "train.py")
    assert not is_library(str(tmp_path / "vendor" / "acme" / "model.py"))


def test_copied_code_of_an_own_package_is_a_library(site, monkeypatch):
    install(site, "acme", FOLDER, {"acme/__init__.py": "", "acme/_vendor/optax/__init__.py": ""})
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.syspath_prepend(str(site))
    assert is_own(str(site / "acme" / "train.py"))
    assert not is_own(str(site / "acme" / "_vendor" / "optax" / "update.py"))


def test_project_of_a_console_script_is_the_working_directory(tmp_path, monkeypatch):
    """Of the root everything would be a part."""
    main = types.ModuleType("__main__")
    main.__file__ = os.path.join(os.path.dirname(sys.executable), "train")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.chdir(tmp_path)
    assert is_library(str(tmp_path / "vendor" / "a.py"))
    main.__file__ = os.path.join(os.path.dirname(sys.executable), "other")
    monkeypatch.chdir("/")
    assert not is_library("/vendor/a.py")
