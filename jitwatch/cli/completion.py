"""`jitwatch completion SHELL`: prints a completion script."""

from __future__ import annotations

import argparse
import pkgutil
from typing import Any

from jitwatch.cli.options import add_command

SHELLS = ("bash", "zsh", "fish")
_DESCRIPTION = "Print a shell completion script, which completes commands, options and file names."
_EPILOG = """examples:
  jitwatch completion bash > ~/.local/share/bash-completion/completions/jitwatch
  jitwatch completion zsh > ~/.zfunc/_jitwatch          with ~/.zfunc in fpath, before compinit
  jitwatch completion fish > ~/.config/fish/completions/jitwatch.fish"""


def add_to(parsers: Any) -> None:
    """Register the command."""
    text = "print a shell completion script"
    parser = add_command(parsers, "completion", _completion, text, _DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("shell", choices=SHELLS, help="the shell: bash, zsh or fish")


def _completion(options: argparse.Namespace) -> int:
    script = pkgutil.get_data("jitwatch.cli", f"completions/jitwatch.{options.shell}")
    print((script or b"").decode(), end="")
    return 0
