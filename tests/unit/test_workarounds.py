"""The table of version-dependent code in `docs/hooks.md` is complete and correct."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.checkout import PACKAGE, ROOT

#: The cells of each row: place, versions, why, source, until.
WORKAROUNDS = [
    [cell.strip() for cell in row.strip("|").split(" | ")]
    for row in (ROOT / "docs" / "hooks.md")
    .read_text(encoding="utf-8")
    .partition("## Branches on versions")[2]
    .splitlines()
    if row.startswith("| `")
]
PLACES = [row[0].strip("`") for row in WORKAROUNDS]


@pytest.mark.parametrize("row", WORKAROUNDS, ids=PLACES)
def test_workaround_is_found_at_its_place(row):
    """Code that was removed is removed from the table, too."""
    module, name = row[0].strip("`"), []
    while True:
        module, _, last = module.rpartition(".")
        name.insert(0, last)
        try:
            found = importlib.import_module(f"jitwatch.jaxhooks.{module}")
            break
        except ModuleNotFoundError:
            assert module
    for part in name:
        found = getattr(found, part)
    assert 5 == len(row)
    assert all(row)


def test_every_module_that_compares_versions_is_in_the_table():
    """Code that asks for a version of JAX or Python has a row."""
    asking = re.compile(r"parse_version\(|sys\.version_info|__version_info__|_CHECKS_ITSELF|INFER_0_9_0\.missing")
    folder = PACKAGE / "jaxhooks"
    listed = {place.rpartition(".")[0] for place in PLACES} | set(PLACES)
    assert listed
    for path in folder.rglob("*.py"):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        if asking.search(path.read_text()):
            assert any(place == name or place.startswith(f"{name}.") for place in listed), name
