"""Completion of the command line: it is that of the parser, and bash understands it."""

from __future__ import annotations

import subprocess

import pytest

from jitwatch.cli import main
from jitwatch.cli.completion import FOLDER, SHELLS
from tests import completions

#: Asks bash what it would offer for the words of a line, the last of which is being typed.
ASK = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$(complete -p jitwatch | sed 's/.*-F \\([^ ]*\\).*/\\1/')" jitwatch "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_committed_completions_are_those_of_the_parser():
    """Whoever changes a command also writes them: python -m tests.completions."""
    assert [] == [name for name, text in completions.written().items() if (FOLDER / name).read_text() != text]


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_printed_for_each_shell(capsys, shell):
    """As it is, to be put where the shell looks."""
    assert 0 == main(["completion", shell])
    assert (FOLDER / f"jitwatch.{shell}").read_text() == capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jitwatch", "re"], {"report"}),
        (["jitwatch", "d"], {"demo", "doctor", "dashboards", "deactivate"}),
        (["jitwatch", "report", "--for"], {"--format"}),
        (["jitwatch", "report", "--format", ""], {"text", "json", "html"}),
        (["jitwatch", "completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_offers_what_fits(words, expected):
    """Commands, options and their values."""
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", FOLDER / "jitwatch.bash", *words], capture_output=True, text=True, timeout=30
    )

    assert expected == set(done.stdout.split()), done.stderr


def test_unknown_shell_is_an_error_that_names_the_known(capsys):
    """Exit code 2, as for every wrong argument."""
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "tcsh"])
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err.replace("bash, zsh, fish", "'bash', 'zsh', 'fish'")
