"""Completion of the command line: it is that of the parser, and bash understands it."""

from __future__ import annotations

import pytest

from jitwatch.cli import main
from jitwatch.cli.completion import SHELLS
from tests import completions


def test_committed_completions_are_those_of_the_parser():
    """Whoever changes a command also writes them: python -m tests.completions."""
    assert [] == [
        name for name, text in completions.written().items() if (completions.FOLDER / name).read_text() != text
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_printed_for_each_shell(capsys, shell):
    """As it is, to be put where the shell looks."""
    assert 0 == main(["completion", shell])
    assert (completions.FOLDER / f"jitwatch.{shell}").read_text() == capsys.readouterr().out


def test_unknown_shell_is_an_error_that_names_the_known(capsys):
    """Exit code 2, as for every wrong argument."""
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "tcsh"])
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err.replace("bash, zsh, fish", "'bash', 'zsh', 'fish'")
