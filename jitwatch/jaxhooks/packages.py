"""Which installed packages are the user's own: their lines are call sites, and their mistakes are theirs to mend.

A team's training package often lies beside JAX in `site-packages`: installed from its folder, as `pip install .`
does in a container, or run as a module or by its console script. Those are the user's; what came from an
index is a library. Looked up once for a program, in the folders of `sys.path`, when the first frame of an
installed file is met: a few milliseconds, and 30 more where a console script was started.

Source: PEP 610 (`direct_url.json`), importlib.metadata's entry points.
"""

from __future__ import annotations

import glob
import importlib.metadata
import json
import os
import sys
import types
from collections.abc import Iterator

from jitwatch import guard

_MARKS = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_MAX_FILES = 10_000
#: In the addresses of folders in which conda, rattler and Spack build packages.
_BUILD_FOLDERS = ("/feedstock_root/", "/conda-bld/", "/rattler-build", "/croot/", "/spack-stage")
#: Program (the `__main__` module and its file) that the folders were looked up for, and those folders.
_looked_up: tuple[object, tuple[str, ...]] = (None, ())


def is_installed(filename: str) -> bool:
    """Whether a file lies where packages are installed."""
    return _MARKS[0] in filename or _MARKS[1] in filename


def is_own(filename: str) -> bool:
    """Whether an installed file is of one of the user's own packages."""
    global _looked_up
    main = sys.modules.get("__main__")
    program = (id(main), getattr(main, "__dict__", {}).get("__file__"))
    if _looked_up[0] != program:
        try:
            _looked_up = (program, own_prefixes(main, sys.path))
        except Exception:
            _looked_up = (program, ())
            guard.failed("compile")
    return filename.startswith(_looked_up[1])


def own_prefixes(main: types.ModuleType | None, path: list[str]) -> tuple[str, ...]:
    """How the file names of the user's own packages begin.

    Args:
        main: The program's `__main__` module.
        path: As `sys.path`.
    """
    sites = [folder for folder in path if is_installed(os.path.join(folder, ""))]
    found = {prefix for site in sites for prefix in _installed_from_folder(site)}
    return tuple(sorted(found | set(_of_program(main))))


def _installed_from_folder(site: str) -> Iterator[str]:
    """Packages that pip or uv built from a folder of this machine, not fetched from an index.

    Distributions of their own (conda, Spack) are built from a folder as well: on the machine of who packaged them.
    """
    for origin in glob.glob(os.path.join(glob.escape(site), "*.dist-info", "direct_url.json")):
        try:
            with open(origin, encoding="utf-8") as opened:
                told = json.load(opened)
            if "dir_info" not in told or _is_packaged(os.path.dirname(origin), str(told.get("url"))):
                continue
            with open(os.path.join(os.path.dirname(origin), "RECORD"), encoding="utf-8") as opened:
                files = [line.partition(",")[0] for line, _ in zip(opened, range(_MAX_FILES), strict=False)]
        except (OSError, ValueError):
            continue
        for package in _packages([name for name in files if name.endswith(".py")]):
            yield os.path.join(site, *package.split("/"))


def _is_packaged(info: str, url: str) -> bool:
    """Whether somebody else's packaging built it."""
    try:
        with open(os.path.join(info, "INSTALLER"), encoding="utf-8") as opened:
            installer = opened.read().strip()
    except OSError:
        installer = ""
    return installer == "conda" or any(mark in url for mark in _BUILD_FOLDERS)


def _packages(files: list[str]) -> set[str]:
    """The topmost packages of a distribution, with a slash at the end, and its single modules."""
    packages = {os.path.dirname(name) for name in files if os.path.basename(name) == "__init__.py"}
    found = set()
    for name in files:
        parts = name.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        top = next((folder for folder in above if folder in packages), None)
        found.add(name if top is None else f"{top}/")
    return found


def _of_program(main: types.ModuleType | None) -> Iterator[str]:
    """The package that is the program: of `python -m acme.train`, or of the console script that was started."""
    about = getattr(main, "__dict__", {})
    spec = about.get("__spec__")
    names = [spec.name] if spec is not None else list(_modules_of_script(about.get("__file__")))
    for name in names:
        parts = name.split(".")
        above = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        files = (getattr(sys.modules.get(one), "__file__", None) for one in above)
        top = next((file for file in files if isinstance(file, str) and is_installed(file)), None)
        if top is not None:
            is_package = os.path.basename(top) == "__init__.py"
            yield os.path.join(os.path.dirname(top), "") if is_package else top


def _modules_of_script(filename: str | None) -> Iterator[str]:
    """Modules that installed packages name as those of a script, if this is one of theirs."""
    # A script may be started through a link, as those of pipx are; an environment's interpreter is one itself.
    folder = os.path.realpath(os.path.dirname(os.path.abspath(sys.executable)))
    if filename is None or os.path.dirname(os.path.realpath(filename)) != folder:
        return
    name = os.path.splitext(os.path.basename(filename))[0]
    for entry in importlib.metadata.entry_points(group="console_scripts", name=name):
        yield entry.module
