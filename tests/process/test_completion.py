"""Completion of the command line, as bash offers it."""

from __future__ import annotations

import subprocess

import pytest

from tests.completions import FOLDER

#: Asks bash what it would offer for the words of a line, the last of which is being typed.
ASK = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$(complete -p jitwatch | sed 's/.*-F \\([^ ]*\\).*/\\1/')" jitwatch "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jitwatch", "re"], {"report"}),
        (["jitwatch", "d"], {"demo", "diff", "doctor", "dashboards", "deactivate"}),
        (["jitwatch", "report", "--for"], {"--format"}),
        (["jitwatch", "report", "--format", ""], {"text", "json", "html"}),
        (["jitwatch", "completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_offers_what_fits(words, expected):
    """Commands, options and their values."""
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", FOLDER / "jitwatch.bash", *words],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert expected == set(done.stdout.split()), done.stderr
