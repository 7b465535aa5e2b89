"""`python -m jitwatch` is the command `jitwatch`."""

from __future__ import annotations

import sys

from jitwatch.cli import main

if __name__ == "__main__":
    code = main()
    if code:  # without an exception `python -i` shows no SystemExit after a job of `jitwatch run`
        sys.exit(code)
