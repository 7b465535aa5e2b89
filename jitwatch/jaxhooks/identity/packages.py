"""Which files are libraries, and which installed packages are the user's own.

A call site is a line of a file of the user, and pitfalls are reported for functions of the user.

A team's training package often lies beside JAX in `site-packages`: installed from its folder, as `pip install .`
does in a container, or run as a module or by its console script. Those are the user's; what came from an
index is a library. So is what `pip install --target` put into another folder of `sys.path`, and what is copied
into a folder for it below the program's (`vendor/`, `third_party/`). Looked up once for a program, in the folders
of `sys.path`, when the first file is met that is not JAX's: a few milliseconds, and 30 more where a console script
was started.

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
from itertools import islice
from typing import NamedTuple

from jitwatch import guard

_MARKS = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_MAX_FILES = 10_000
#: Entries of a folder of `sys.path` that are looked at.
_MAX_ENTRIES = 10_000
#: In the addresses of folders in which conda, rattler and Spack build packages.
_BUILD_FOLDERS = ("/feedstock_root/", "/conda-bld/", "/rattler-build", "/croot/", "/spack-stage")
#: Folders of a project for the code of others.
_VENDORED = frozenset({"vendor", "_vendor", "vendored", "_vendored", "third_party", "_third_party", "thirdparty"})


class _Folders(NamedTuple):
    """How file names begin.

    Attributes:
        program: The `__main__` module and its file, for which they were looked up.
        own: Installed packages of the user.
        libraries: Packages of others outside of `site-packages`.
        project: The folder of the program, with its links resolved and as it is, or the working directory.
    """

    program: object = None
    own: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    project: tuple[str, ...] = ()


_looked_up = _Folders()


def is_installed(filename: str) -> bool:
    """Whether a file lies where packages are installed."""
    return _MARKS[0] in filename or _MARKS[1] in filename


def is_own(filename: str) -> bool:
    """Whether an installed file is of one of the user's own packages."""
    return filename.startswith(_folders().own) and not _is_vendored(filename)


def is_library(filename: str) -> bool:
    """Whether a file that lies elsewhere is a library's all the same."""
    return filename.startswith(_folders().libraries) or _is_vendored(filename)


def _folders() -> _Folders:
    global _looked_up
    main = sys.modules.get("__main__")
    file = getattr(main, "__dict__", {}).get("__file__")
    program = (id(main), file)
    if _looked_up.program != program:
        try:
            _looked_up = _Folders(program, own_prefixes(main, sys.path), library_prefixes(sys.path), _project(file))
        except Exception:
            _looked_up = _Folders(program)
            guard.failed("compile")
    return _looked_up


def _project(file: object) -> tuple[str, ...]:
    """Where the program lies; of a notebook, a prompt, `-c` and a console script, the working directory.

    Args:
        file: The program's file, if it has one.
    """
    if isinstance(file, str) and not is_installed(file) and not _is_script(file):
        folders = {os.path.dirname(os.path.abspath(file)), os.path.dirname(os.path.realpath(file))}
    else:
        try:
            folders = {os.getcwd(), os.path.realpath(os.getcwd())}
        except OSError:  # it was removed
            return ()
    # Of the root everything is a part.
    return tuple(os.path.join(folder, "") for folder in folders if folder != os.sep)


def _is_vendored(filename: str) -> bool:
    """Whether it lies in a folder for the code of others, below the program or below an installed package."""
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
    """How the file names of the user's own packages begin.

    Args:
        main: The program's `__main__` module.
        path: As `sys.path`.
    """
    sites = [folder for folder in path if is_installed(os.path.join(folder, ""))]
    found = {prefix for site in sites for prefix in _installed_from_folder(site)}
    return tuple(sorted(found | set(_of_program(main))))


def library_prefixes(path: list[str]) -> tuple[str, ...]:
    """How the file names of packages begin that pip put into folders that are no `site-packages`.

    Args:
        path: As `sys.path`.
    """
    folders = [folder for folder in path if folder and not is_installed(os.path.join(folder, ""))]
    return tuple(sorted({prefix for folder in folders for prefix in _installed_in(folder)}))


def _installed_in(folder: str) -> Iterator[str]:
    """Packages that were fetched from an index into this folder, which may be one with a job's data."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MAX_ENTRIES) if entry.name.endswith(".dist-info")]
    except OSError:  # an archive, or nothing
        return
    for name in names:
        origin = os.path.join(folder, name, "direct_url.json")
        try:
            if os.path.exists(origin):
                with open(origin, encoding="utf-8") as opened:
                    if "dir_info" in json.load(opened):
                        continue
            packages = _packages_of(os.path.join(folder, name, "RECORD"))
        except (OSError, ValueError):
            continue
        for package in packages:
            yield os.path.join(folder, *package.split("/"))


def _packages_of(record: str) -> set[str]:
    """The packages that the list of a distribution's files names."""
    with open(record, encoding="utf-8") as opened:
        files = [line.partition(",")[0] for line, _ in zip(opened, range(_MAX_FILES), strict=False)]
    return _packages([name for name in files if name.endswith(".py")])


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
            packages = _packages_of(os.path.join(os.path.dirname(origin), "RECORD"))
        except (OSError, ValueError):
            continue
        for package in packages:
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
    if filename is None or not _is_script(filename):
        return
    name = os.path.splitext(os.path.basename(filename))[0]
    for entry in importlib.metadata.entry_points(group="console_scripts", name=name):
        yield entry.module


def _is_script(filename: str) -> bool:
    """Whether a program lies beside the interpreter, as console scripts do."""
    # A script may be started through a link, as those of pipx are; an environment's interpreter is one itself.
    folder = os.path.realpath(os.path.dirname(os.path.abspath(sys.executable)))
    return os.path.dirname(os.path.realpath(filename)) == folder
