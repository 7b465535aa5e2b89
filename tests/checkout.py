"""Where the files of the repository are: in a checkout or an sdist, while the package may be installed elsewhere."""

from __future__ import annotations

from pathlib import Path

import jitwatch

ROOT = Path(__file__).parents[1]
PACKAGE = Path(jitwatch.__file__).parent


def path_of(name: str) -> Path:
    """The file or folder with this path in the repository; what belongs to the package is that which is imported."""
    return PACKAGE.parent / name if name.partition("/")[0] == "jitwatch" else ROOT / name
