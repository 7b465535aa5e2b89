"""`jitwatch completion SHELL`: prints a completion script."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jitwatch.cli.options import add_command

FOLDER = Path(__file__).with_name("completions")
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
    print((FOLDER / f"jitwatch.{options.shell}").read_text(encoding="utf-8"), end="")
    return 0
