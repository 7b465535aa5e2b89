"""`python -m jitwatch` is the command `jitwatch`."""

from __future__ import annotations

import sys

from jitwatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
