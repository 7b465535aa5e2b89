"""Packages of the user and of others, in a program of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.site_packages import install

#: A package with a mutable default and a call of what it jits, as a library has it and as a user has it.
PACKAGE = """
import jax

@jax.jit
def scaled(x, options=[]):
    return x * 2

def fit(x):
    return scaled(x)
"""
#: Fits with both packages of the folder and prints where it compiled and which mistakes were told.
PROGRAM = """
import json, os
import numpy as np
import jitwatch
watch = jitwatch.install(port=None)
import acme, theirs
for package in (acme, theirs):
    package.fit(np.ones(3, np.float32))
found = [(one["function"], os.path.basename(os.path.dirname(one["call_site"])), one.get("pitfall"))
         for one in watch.events() if one["event"] in ("jit.compiled", "jit.pitfall") and ".scaled" in one["function"]]
print(json.dumps(found))
"""


def assert_only_acme_is_watched_like_a_script(project, path):
    """In a program of this folder, with these folders on its path."""
    project.mkdir(exist_ok=True)
    program = project / "train.py"
    program.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert [
        ["acme.scaled", "acme", "mutable_default"],
        ["acme.scaled", "acme", None],
        ["theirs.scaled", "project", None],
    ] == json.loads(done.stdout)


FOLDER = json.dumps({"url": "file:///app", "dir_info": {}})


@pytest.mark.parametrize("where", ["deps", "project/vendor"])
def test_lines_of_a_library_outside_of_site_packages_are_no_call_sites(tmp_path, where):
    """Put there by `pip install --target`, or copied below the program."""
    install(tmp_path / where, "theirs", None, {"theirs/__init__.py": PACKAGE})
    install(tmp_path / "user", "acme", FOLDER, {"acme/__init__.py": PACKAGE})
    assert_only_acme_is_watched_like_a_script(tmp_path / "project", [tmp_path / where, tmp_path / "user"])


def test_own_package_is_watched_like_a_script(site, tmp_path):
    """Its lines are call sites and its mistakes are told; of a library's neither."""
    install(site, "acme", FOLDER, {"acme/__init__.py": PACKAGE})
    install(site, "theirs", None, {"theirs/__init__.py": PACKAGE})
    assert_only_acme_is_watched_like_a_script(tmp_path / "project", [site])
