"""A real terminal for the tests: a shell in a tmux server of its own, which is ended with the test."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.integration.conftest import need
from tests.waiting import wait_until

WAIT_S = 60
_MARK = "ready>"


class Terminal:
    """A shell on a screen of so many columns and rows."""

    def __init__(self, program: str, socket: str, sockets: str) -> None:
        self._environment = {**os.environ, "TMUX_TMPDIR": sockets}
        self._command = [program, "-u", "-L", socket, "-f", "/dev/null"]

    def tmux(self, *arguments: str) -> str:
        """Run a command of tmux."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=20,
        )
        return done.stdout

    def type(self, line: str) -> None:
        """Type a line into the shell."""
        self.tmux("send-keys", "-l", line)
        self.tmux("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Press keys, by the names of tmux."""
        self.tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size while the program runs."""
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def lines(self, *, styles: bool = False) -> list[str]:
        """What is on the screen."""
        return self.tmux("capture-pane", "-p", *(["-e"] if styles else [])).split("\n")[:-1]

    def flag(self, name: str) -> str:
        """A variable of the pane, such as `alternate_on`."""
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip()

    def wait_for(self, pattern: str, *, seconds: float = WAIT_S) -> list[str]:
        """Wait until a line of the screen matches; the whole screen."""
        seen: list[str] = []

        def matches() -> bool:
            seen[:] = self.lines()
            # The same twice: it was not caught in the middle of being drawn.
            return any(re.search(pattern, line) for line in seen) and seen == self.lines()

        try:
            wait_until(matches, timeout_s=seconds, what=pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen was:\n" + "\n".join(seen)) from None
        return seen

    def wait_for_picture(self, rows: int, pattern: str) -> list[str]:
        """Wait until a whole picture of so many rows has a line that matches; the picture."""
        seen: list[str] = []

        def is_there() -> bool:
            seen[:] = self.lines()
            is_whole = len(seen) == rows and seen[-1].startswith(" q quit") and seen == self.lines()
            return is_whole and any(re.search(pattern, line) for line in seen)

        try:
            wait_until(is_there, timeout_s=WAIT_S, what=f"a picture of {rows} rows with {pattern}")
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen was:\n" + "\n".join(seen)) from None
        return seen

    def wait_for_shell(self) -> None:
        """Wait until the shell has the screen again, on the normal one and with a cursor."""
        wait_until(
            lambda: (self.flag("alternate_on"), self.flag("cursor_flag")) == ("0", "1"),
            timeout_s=WAIT_S,
            what="the screen of the shell",
        )


@contextlib.contextmanager
def running_terminal(folder: Path, columns: int = 80, rows: int = 24, **environment: str) -> Iterator[Terminal]:
    """A shell without configuration, in this folder and with these variables."""
    program = need("tmux")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JITWATCH_", "TMUX"))}
    variables = {"LC_ALL": "C.UTF-8", "PS1": _MARK, "PS2": "", "HISTFILE": "", **environment}
    sockets = tempfile.mkdtemp(prefix="tmux-")  # tmp_path may be too long for the path of a socket
    terminal = Terminal(program, f"jitwatch-{uuid.uuid4().hex}", sockets)
    shell = shlex.join(["env", *(f"{name}={value}" for name, value in variables.items()), "sh"])
    subprocess.run(
        [*terminal._command, "new-session", "-d", "-x", str(columns), "-y", str(rows), "-c", str(folder), shell],
        env={**kept, "TMUX_TMPDIR": sockets},
        check=True,
        capture_output=True,
        timeout=20,
    )
    try:
        terminal.tmux("set-option", "-g", "status", "off")
        terminal.resize(columns, rows)
        terminal.wait_for(_MARK)
        yield terminal
    finally:
        terminal.tmux("kill-server")
        shutil.rmtree(sockets)
