"""Decides which files are libraries, and which installed packages are the user's own.

Call sites are in user files, and pitfalls are reported for user functions.

A team's training package is often installed next to JAX in `site-packages`: from its folder, as `pip install .` does in
a container, or it is run as a module or by its console script. Such packages are the user's; a package from an index is
a library. So is what `pip install --target` put into another folder of `sys.path`, and vendored code below the
program's folder (`vendor/`, `third_party/`). The folders of `sys.path` are read once per program, for the first file
that is not JAX's: a few milliseconds, and 30 more if a console script was started.

Source: PEP 610 (`direct_url.json`), the entry points of importlib.metadata.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import types
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from jitwatch import guard

_MARKS = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_MAX_FILES = 10_000
_MAX_ENTRIES = 10_000
#: Parts of the URLs of folders in which conda, rattler and Spack build packages.
_BUILD_FOLDERS = ("/feedstock_root/", "/conda-bld/", "/rattler-build", "/croot/", "/spack-stage")
#: Names of folders for vendored code.
_VENDORED = frozenset({"vendor", "_vendor", "vendored", "_vendored", "third_party", "_third_party", "thirdparty"})


class _Folders(NamedTuple):
    """Prefixes of file names.

    Attributes:
        program: The `__main__` module and its file, for which they were determined.
        own: Installed packages of the user.
        libraries: Library packages outside of `site-packages`.
        project: The folder of the program, with and without links resolved, or the working directory.
    """

    program: object = None
    own: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    project: tuple[str, ...] = ()


_cached_folders = _Folders()


def is_installed(filename: str) -> bool:
    """Whether a file is in a folder where packages are installed."""
    return _MARKS[0] in filename or _MARKS[1] in filename


def is_own(filename: str) -> bool:
    """Whether an installed file belongs to one of the user's own packages."""
    return filename.startswith(_folders().own) and not _is_vendored(filename)


def is_library(filename: str) -> bool:
    """Whether a file outside of the installation folders belongs to a library."""
    return filename.startswith(_folders().libraries) or _is_vendored(filename)


def _folders() -> _Folders:
    global _cached_folders
    main = sys.modules.get("__main__")
    file = getattr(main, "__dict__", {}).get("__file__")
    program = (id(main), file)
    if _cached_folders.program != program:
        try:
            _cached_folders = _Folders(
                program, own_prefixes(main, sys.path), library_prefixes(sys.path), _project(file)
            )
        except Exception:
            _cached_folders = _Folders(program)
            guard.failed("compile")
    return _cached_folders


def _project(file: object) -> tuple[str, ...]:
    """Return the folder of the program's file; of a notebook, a prompt and a console script, the working directory."""
    if isinstance(file, str) and not is_installed(file) and not _is_script(file):
        folders = {os.path.dirname(os.path.abspath(file)), os.path.dirname(os.path.realpath(file))}
    else:
        try:
            folders = {os.getcwd(), os.path.realpath(os.getcwd())}
        except OSError:  # it was removed
            return ()
    # Every file is below the root folder.
    return tuple(os.path.join(folder, "") for folder in folders if folder != os.sep)


def _is_vendored(filename: str) -> bool:
    """Whether a file is in a folder for vendored code, below the program or an installed package."""
    if not any(name in filename for name in ("endor", "third")):
        return False
    mark = next((mark for mark in _MARKS if mark in filename), None)
    if mark is not None:
        rest = filename.rpartition(mark)[2]
    else:
        above = next((folder for folder in _folders().project if filename.startswith(folder)), None)
        if above is None:
            return False
        rest = filename[len(above) :]
    return not _VENDORED.isdisjoint(rest.split(os.sep)[:-1])


def own_prefixes(main: types.ModuleType | None, path: list[str]) -> tuple[str, ...]:
    """Return the file name prefixes of the user's own packages: those built from a folder, and the program's."""
    sites = [folder for folder in path if is_installed(os.path.join(folder, ""))]
    found = {prefix for site in sites for prefix in _installed_in(site, None, is_own=True)}
    return tuple(sorted(found | set(_of_program(main))))


def library_prefixes(path: list[str], *, max_entries: int = _MAX_ENTRIES) -> tuple[str, ...]:
    """Return the file name prefixes of packages that pip installed in folders other than `site-packages`.

    Of each folder, which may also hold a job's data, so many entries are read.
    """
    folders = [folder for folder in path if folder and not is_installed(os.path.join(folder, ""))]
    return tuple(sorted({prefix for one in folders for prefix in _installed_in(one, max_entries, is_own=False)}))


def _installed_in(folder: str, max_entries: int | None, *, is_own: bool) -> Iterator[str]:
    """Yield the packages in a folder that pip or uv built from a folder of this machine, or else those of an index."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, max_entries) if entry.name.endswith(".dist-info")]
    except OSError:  # an archive, or it does not exist
        return
    for name in names:
        info = os.path.join(folder, name)
        origin = os.path.join(info, "direct_url.json")
        try:
            about = json.loads(Path(origin).read_text(encoding="utf-8")) if os.path.exists(origin) else {}
            is_local = "dir_info" in about
            # Packages of conda and Spack are built from a folder as well, on the machine of their packager.
            if is_local != is_own or (is_local and _is_packaged(info, str(about.get("url")))):
                continue
            packages = _packages_of(os.path.join(info, "RECORD"))
        except (OSError, ValueError):
            continue
        for package in packages:
            yield os.path.join(folder, *package.split("/"))


def _packages_of(record: str) -> set[str]:
    """Return the packages in a distribution's list of files."""
    with open(record, encoding="utf-8") as opened:
        files = [line.partition(",")[0] for line in islice(opened, _MAX_FILES)]
    return _packages([name for name in files if name.endswith(".py")])


def _is_packaged(info: str, url: str) -> bool:
    """Whether a package manager other than pip and uv built the package."""
    try:
        installer = Path(info, "INSTALLER").read_text(encoding="utf-8").strip()
    except OSError:
        installer = ""
    return installer == "conda" or any(mark in url for mark in _BUILD_FOLDERS)


def _packages(files: list[str]) -> set[str]:
    """Return the topmost packages of a distribution, each with a slash at the end, and its single modules."""
    packages = {os.path.dirname(name) for name in files if os.path.basename(name) == "__init__.py"}
    found = set()
    for name in files:
        parts = name.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        top = next((folder for folder in above if folder in packages), None)
        found.add(name if top is None else f"{top}/")
    return found


def _of_program(main: types.ModuleType | None) -> Iterator[str]:
    """Yield the package that is run: by `python -m acme.train` or by a console script."""
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
    """Yield the modules that installed packages declare for this console script."""
    if filename is None or not _is_script(filename):
        return
    name = os.path.splitext(os.path.basename(filename))[0]
    for entry in importlib.metadata.entry_points(group="console_scripts", name=name):
        yield entry.module


def _is_script(filename: str) -> bool:
    """Whether a program is in the folder of the interpreter, as console scripts are."""
    # A script may be started through a link, as those of pipx are; an environment's interpreter is a link itself.
    folder = os.path.realpath(os.path.dirname(os.path.abspath(sys.executable)))
    return os.path.dirname(os.path.realpath(filename)) == folder
