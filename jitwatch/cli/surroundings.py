"""What `jitwatch doctor` says of the machine, of options and of folders: what a bug report needs besides versions."""

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

#: Libraries whose functions jitwatch looks through, and the terminal view's.
_LIBRARIES = ("flax", "equinox", "optax", "orbax-checkpoint", "textual")
_SECRET = frozenset({"JITWATCH_TOKEN"})
FOLDERS = ("event_log", "sd_dir", "hlo_dir")
_MAX_VALUE = 80


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

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
    except Exception:  # a doctor reports what there is
        size = ""
    yield Check("machine", "ok", f"{os.cpu_count()} CPUs{size}; {platform.platform()}")


def libraries() -> Iterator[Check]:
    """Versions of what is installed of the libraries that matter to jitwatch."""
    # Here, and not above: every command would wait 12 ms for it.
    from importlib import metadata

    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    yield Check("libraries", "ok", ", ".join(found) or f"none of {', '.join(_LIBRARIES)}")


def variables() -> Iterator[Check]:
    """The variables that change what JAX or jitwatch do; secrets are not shown."""
    wrong, unknown = config.wrong(), config.unknown()
    own = {name: value for name, value in os.environ.items() if name.startswith("JITWATCH_")}
    own = {name: value for name, value in own.items() if name not in wrong and name not in unknown}
    shown = [f"{name}={'…' if name in _SECRET else _short(value)}" for name, value in sorted(own.items())]
    if shown or not (wrong or unknown):
        yield Check("options", "ok", " ".join(shown) or "no JITWATCH_* variable is set")
    for reason in wrong.values():
        yield Check("environment", "fail", f"{reason}; correct it or unset it, no agent starts with it")
    if unknown:
        yield Check("environment", "warn", f"{', '.join(unknown)}: no option of jitwatch, and ignored; is it misspelt?")
    others = sorted(name for name in os.environ if name.startswith(("JAX_", "XLA_", "LIBTPU_")))
    if others:
        yield Check("jax options", "ok", " ".join(f"{name}={_short(os.environ[name])}" for name in others))


def folders(settings: config.Config) -> Iterator[Check]:
    """Whether the folders of the options can be written."""
    for name in FOLDERS:
        value = getattr(settings, name)
        if value is None:
            continue
        folder = _nearest(Path(value))
        if _can_be_written(folder):
            yield Check(name, "ok", f"{value} can be written")
        else:
            yield Check(name, "fail", f"{value}: {folder} cannot be written; name another folder")


def automatic() -> Iterator[Check]:
    """Whether the agent installs itself in processes of this environment."""
    if is_active():
        now = "and JITWATCH_AUTOINSTALL=1 is set" if os.environ.get("JITWATCH_AUTOINSTALL") == "1" else "but not set"
        yield Check("autoinstall", "ok", f"{pth_file()} is there, for processes with JITWATCH_AUTOINSTALL=1 ({now})")
    elif os.environ.get("JITWATCH_AUTOINSTALL", "1") != "1":
        value = _short(os.environ["JITWATCH_AUTOINSTALL"])
        yield Check("autoinstall", "warn", f"JITWATCH_AUTOINSTALL={value} does nothing: set it to 1, or unset it")
    elif os.environ.get("JITWATCH_AUTOINSTALL") == "1":
        yield Check("autoinstall", "warn", f"JITWATCH_AUTOINSTALL is set, but not heard: run {_own()} activate")


def _own() -> str:
    return f"{sys.executable} -m jitwatch"


def _nearest(path: Path) -> Path:
    """The folder that is there and would have to be written; a file's is the one that it lies in."""
    for folder in (path, *path.absolute().parents):
        if folder.is_dir():
            return folder
    return Path("/")


def _can_be_written(folder: Path) -> bool:
    """Tried, with a file that has no name: rights say little where the user is root or the disk is full."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"jitwatch")
    except OSError:
        return False
    return True


def _short(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"
