"""`jitwatch completion SHELL`: prints a completion script."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jitwatch.cli.help import HelpFormatter

FOLDER = Path(__file__).with_name("completions")
SHELLS = ("bash", "zsh", "fish")
_DESCRIPTION = "Print a shell completion script, which completes commands, options and file names."
_EPILOG = """examples:
  jitwatch completion bash > ~/.local/share/bash-completion/completions/jitwatch
  jitwatch completion zsh > ~/.zfunc/_jitwatch          with ~/.zfunc in fpath, before compinit
  jitwatch completion fish > ~/.config/fish/completions/jitwatch.fish"""


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "completion",
        help="print a shell completion script",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell: bash, zsh or fish")
    parser.set_defaults(call=_completion)


def _completion(options: argparse.Namespace) -> int:
    print((FOLDER / f"jitwatch.{options.shell}").read_text(encoding="utf-8"), end="")
    return 0
