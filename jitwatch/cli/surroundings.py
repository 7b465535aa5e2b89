"""Checks of `jitwatch doctor` for the machine, installed libraries, options, folders and automatic installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jitwatch import config
from jitwatch.cli.activate import is_active, pth_file

Status = Literal["ok", "warn", "fail"]

#: Libraries whose wrappers jitwatch unwraps, and that of the terminal view.
_LIBRARIES = ("flax", "equinox", "optax", "orbax-checkpoint", "textual")
_SECRET = frozenset(option.variable for option in config.OPTIONS.values() if option.is_secret)
FOLDERS = ("event_log", "sd_dir", "hlo_dir")
_MAX_VALUE = 80


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: a line of the output."""

    name: str
    status: Status
    text: str


def machine() -> Iterator[Check]:
    """Processors and memory."""
    import platform

    try:
        import psutil

        memory = psutil.virtual_memory()
        size = f", {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB of memory available"
    except Exception:  # the other checks still run
        size = ""
    yield Check("machine", "ok", f"{os.cpu_count()} CPUs{size}; {platform.platform()}")


def libraries() -> Iterator[Check]:
    """Versions of the installed libraries that jitwatch knows."""
    # Lazy: it takes 12 ms to import.
    from importlib import metadata

    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    yield Check("libraries", "ok", ", ".join(found) or f"none of {', '.join(_LIBRARIES)}")


def variables() -> Iterator[Check]:
    """The variables that configure jitwatch and JAX. Secrets are not shown."""
    invalid, unknown = config.invalid_variables(), config.unknown_variables()
    own = {name: value for name, value in os.environ.items() if name.startswith("JITWATCH_")}
    own = {name: value for name, value in own.items() if name not in invalid and name not in unknown}
    shown = [f"{name}={'…' if name in _SECRET else _short(value)}" for name, value in sorted(own.items())]
    if shown or not (invalid or unknown):
        yield Check("options", "ok", " ".join(shown) or "no JITWATCH_* variable is set")
    for reason in invalid.values():
        yield Check("environment", "fail", f"{reason}; the agent does not start with this value")
    if unknown:
        yield Check("environment", "warn", f"{', '.join(unknown)}: unknown and ignored; check the spelling")
    others = sorted(name for name in os.environ if name.startswith(("JAX_", "XLA_", "LIBTPU_")))
    if others:
        yield Check("jax options", "ok", " ".join(f"{name}={_short(os.environ[name])}" for name in others))


def folders(settings: config.Config) -> Iterator[Check]:
    """Whether the folders that the options name are writable."""
    for name in FOLDERS:
        value = getattr(settings, name)
        if value is None:
            continue
        folder = _nearest(Path(value))
        if _can_be_written(folder):
            yield Check(name, "ok", f"{value} is writable")
        else:
            yield Check(name, "fail", f"{value}: {folder} is not writable; name another folder")


def automatic() -> Iterator[Check]:
    """Whether the agent is installed automatically in processes of this environment."""
    if is_active():
        is_set = "set here" if os.environ.get("JITWATCH_AUTOINSTALL") == "1" else "not set here"
        yield Check("autoinstall", "ok", f"active in processes with JITWATCH_AUTOINSTALL=1 ({is_set}), by {pth_file()}")
    elif os.environ.get("JITWATCH_AUTOINSTALL", "1") != "1":
        value = _short(os.environ["JITWATCH_AUTOINSTALL"])
        yield Check("autoinstall", "warn", f"JITWATCH_AUTOINSTALL={value} has no effect: set it to 1, or unset it")
    elif os.environ.get("JITWATCH_AUTOINSTALL") == "1":
        yield Check(
            "autoinstall",
            "warn",
            f"JITWATCH_AUTOINSTALL=1 has no effect yet; run: {sys.executable} -m jitwatch activate",
        )


def _nearest(path: Path) -> Path:
    """The nearest existing folder of a path."""
    for folder in (path, *path.absolute().parents):
        if folder.is_dir():
            return folder
    return Path("/")


def _can_be_written(folder: Path) -> bool:
    """Try with an unnamed file: permissions say little if the user is root or the disk is full."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"jitwatch")
    except OSError:
        return False
    return True


def _short(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"
