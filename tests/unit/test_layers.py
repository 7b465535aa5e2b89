"""The rooms of the house: who may import whom. Read from the source, not from running it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import jitwatch

ROOT = Path(jitwatch.__file__).parent

#: Rooms from the bottom up; a file imports only from its own room and from those below.
#: `demo` is a user's program and stands apart: it imports nothing of jitwatch but itself.
LAYERS = (
    {"_version", "errors", "model"},
    {"guard", "system"},
    {"option_types", "state"},
    {"config"},
    {"render"},
    {"diagnosis"},
    {"jaxhooks", "report"},
    {"probes"},
    {"exporters", "server"},
    {"optional_parts", "parts"},
    {"runtime"},
    {"agent"},
    {"__init__"},
    {"demo", "autoinstall"},
    {"top"},
    {"cli"},
    {"testing"},
    {"__main__"},
)
#: Third-party packages that each room may import; rooms not named here may import none of them.
OUTSIDE = {"jax", "jaxlib", "prometheus_client", "psutil", "structlog", "rich"}
MAY_IMPORT = {
    "exporters": {"prometheus_client", "structlog"},
    "probes": {"psutil"},
    "cli": {"psutil"},
    "demo": {"jax"},
    "top": {"rich"},
}
#: Rooms of one layer that must not know each other.
STRANGERS = [("exporters", "server"), ("jaxhooks", "report")]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(source: str, path: Path) -> set[str]:
    """Full names of the modules that a file imports, at whatever depth, those for the type checker left out."""
    found: set[str] = set()
    tree = ast.parse(source, filename=str(path))
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(source: str, path: Path) -> list[str]:
    """What a file imports and must not."""
    room = room_of(path)
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    found = []
    for name in sorted(imports_of(source, path)):
        first, *rest = name.split(".")
        if first in OUTSIDE and first not in MAY_IMPORT.get(room, set()):
            found.append(f"{room} imports {first}")
        if first == "jitwatch":
            other = rest[0] if rest and rest[0] in level else "__init__"
            if level[other] > level[room] or (room, other) in STRANGERS or (other, room) in STRANGERS:
                found.append(f"{room} imports {other}")
            if "jaxhooks" not in (room, other) or room == "jaxhooks":
                continue
            if room not in ("probes", "parts", "runtime", "cli"):
                found.append(f"{room} imports jaxhooks")
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_imports_only_downward(path):
    """Probes import no exporter, exporters import no jax, and no layer imports one above it."""
    assert [] == violations(path.read_text(), path)


@pytest.mark.parametrize(
    ("place", "line", "expected"),
    [
        ("probes/x.py", "from jitwatch.exporters import prometheus", "probes imports exporters"),
        ("probes/x.py", "import prometheus_client", "probes imports prometheus_client"),
        ("exporters/x.py", "import jax", "exporters imports jax"),
        ("exporters/x.py", "def f():\n    from jitwatch.server import http", "exporters imports server"),
        ("state/store.py", "from jitwatch.probes.base import Probe", "state imports probes"),
        ("server/x.py", "from jitwatch.jaxhooks import compat", "server imports jaxhooks"),
        ("model/events.py", "import jitwatch", "model imports __init__"),
    ],
)
def test_layer_test_can_fail(place, line, expected):
    """The check above notices each kind of forbidden import."""
    assert expected in violations(line, ROOT / place)


def test_private_names_of_jax_live_in_one_room():
    """No other file spells a private name of JAX."""
    marks = (r"\bjax\._src\b", r"\bjaxlib\._jax\b", r"\._cache_size\b", r"\._fun\b", r"\._jit_info\b")
    offenders = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in FILES
        for mark in marks
        if room_of(path) != "jaxhooks" and re.search(mark, path.read_text())
    ]
    assert [] == offenders


def test_every_file_has_its_place():
    """A new room must be put into the picture."""
    known = set().union(*LAYERS)
    assert set() == {room_of(path) for path in FILES} - known
