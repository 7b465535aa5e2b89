"""`jitwatch activate` and `deactivate`: the agent in processes whose code nobody can touch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jitwatch.autoinstall import PTH_LINE
from jitwatch.errors import ConfigError

_NAME = "jitwatch.pth"
_DESCRIPTION = """Put a line into this Python environment that installs the agent in every process which is
started with JITWATCH_AUTOINSTALL=1 and imports jax: workers of Ray or of a process pool, jobs of a scheduler, code
that you cannot change. Without the variable the line does nothing. Options of the agent are variables, too:
JITWATCH_<NAME>."""
_UNDO = "Take the line of `jitwatch activate` out of this Python environment."


def add_to(parsers: Any) -> None:
    """Register both commands."""
    parser = parsers.add_parser(
        "activate", help="install the agent where JITWATCH_AUTOINSTALL=1 is set", description=_DESCRIPTION
    )
    parser.set_defaults(call=_activate)
    parser = parsers.add_parser("deactivate", help="undo activate", description=_UNDO)
    parser.set_defaults(call=_deactivate)


def pth_file() -> Path:
    """Where the line goes: into the packages of this environment."""
    import sysconfig

    return Path(sysconfig.get_path("purelib")) / _NAME


def is_active() -> bool:
    """Whether the line is there, and is that of this version."""
    try:
        return pth_file().read_text(encoding="utf-8") == PTH_LINE
    except OSError:
        return False


def _activate(options: argparse.Namespace) -> int:
    path = pth_file()
    try:
        path.write_text(PTH_LINE, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}); use an environment of your own: python -m venv"
        ) from None
    print(f"{path} is written. Start a job with JITWATCH_AUTOINSTALL=1 to have the agent in all of its processes:")
    print("  JITWATCH_AUTOINSTALL=1 JITWATCH_EVENT_LOG=logs/ python train.py")
    print("Undo it with: jitwatch deactivate")
    return 0


def _deactivate(options: argparse.Namespace) -> int:
    path = pth_file()
    try:
        path.unlink()
    except FileNotFoundError:
        print(f"{path} is not there: nothing to undo.")
        return 0
    except OSError as error:
        raise ConfigError(f"{path} cannot be removed ({error.strerror}); remove it by hand") from None
    print(f"{path} is removed. Processes that run already keep their agent.")
    return 0
