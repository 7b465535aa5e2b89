"""`jitwatch activate` and `deactivate`: the agent in processes whose code cannot be changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jitwatch.autoinstall import PTH_LINE
from jitwatch.cli.options import add_command
from jitwatch.errors import ConfigError

_NAME = "jitwatch.pth"
_DESCRIPTION = """Write a .pth file to this Python environment that installs the agent in every process that is
started with JITWATCH_AUTOINSTALL=1 and imports jax: workers of Ray or of a process pool, jobs of a scheduler, code that
cannot be changed. Without the variable the file has no effect. The options of the agent are set by variables
JITWATCH_<NAME>."""
_WRITTEN = """Start a job with JITWATCH_AUTOINSTALL=1 to install the agent in all of its processes:
  JITWATCH_AUTOINSTALL=1 JITWATCH_EVENT_LOG=logs/ python train.py
Undo it with: jitwatch deactivate"""
_UNDO = "Remove the .pth file that `jitwatch activate` wrote to this Python environment."


def add_to(parsers: Any) -> None:
    """Register both commands."""
    text = "install the agent in processes started with JITWATCH_AUTOINSTALL=1"
    add_command(parsers, "activate", _activate, text, _DESCRIPTION)
    add_command(parsers, "deactivate", _deactivate, "undo 'jitwatch activate'", _UNDO)


def pth_file() -> Path:
    """Path of the .pth file, in the site-packages of this environment."""
    import sysconfig

    return Path(sysconfig.get_path("purelib")) / _NAME


def is_active() -> bool:
    """Whether the .pth file exists and is that of this version."""
    try:
        return pth_file().read_text(encoding="utf-8") == PTH_LINE
    except OSError:
        return False


def _activate(options: argparse.Namespace) -> int:
    path = pth_file()
    try:
        path.write_text(PTH_LINE, encoding="utf-8")
    except OSError as error:
        advice = "use an environment that you can write to: python -m venv"
        raise ConfigError(f"{path} cannot be written ({error.strerror}); {advice}") from None
    print(f"Wrote {path}. {_WRITTEN}")
    return 0


def _deactivate(options: argparse.Namespace) -> int:
    path = pth_file()
    try:
        path.unlink()
    except FileNotFoundError:
        print(f"{path} does not exist: nothing to undo.")
        return 0
    except OSError as error:
        raise ConfigError(f"{path} cannot be removed ({error.strerror}); remove it by hand") from None
    print(f"Removed {path}. Running processes keep their agent.")
    return 0
