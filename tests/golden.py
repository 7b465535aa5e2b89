"""Texts that are compared as a whole, one file for each surface in `tests/golden`.

`REFRESH_GOLDEN=1 python -m pytest tests/unit/test_golden.py` writes them anew; the difference is then to be read.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).with_suffix("")


def assert_golden(name: str, text: str) -> None:
    """Compare a text with the file of this name."""
    path = FOLDER / name
    if "REFRESH_GOLDEN" in os.environ:
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    assert path.read_text(encoding="utf-8").splitlines() == text.splitlines()
