"""`jitwatch completion SHELL`: what a shell needs to complete the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("completions")
SHELLS = ("bash", "zsh", "fish")
_DESCRIPTION = "Print the completion of the command line for a shell. Commands, options and files are completed."
_EPILOG = """examples:
  jitwatch completion bash > ~/.local/share/bash-completion/completions/jitwatch
  jitwatch completion zsh > ~/.zfunc/_jitwatch          with ~/.zfunc in fpath, before compinit
  jitwatch completion fish > ~/.config/fish/completions/jitwatch.fish"""


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "completion",
        help="completion of the command line for a shell",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")
    parser.set_defaults(call=_completion)


def _completion(options: argparse.Namespace) -> int:
    print((FOLDER / f"jitwatch.{options.shell}").read_text(encoding="utf-8"), end="")
    return 0
