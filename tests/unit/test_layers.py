"""Who may import whom: read from the source, imports for the type checker and inside functions included."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import jitwatch

ROOT = Path(jitwatch.__file__).parent

#: Packages and top-level modules from the bottom up; a file imports only from its own package and from lower ones.
#: `demo` is a user's program and stands apart: it imports nothing of jitwatch but itself.
LAYERS = (
    {"_version", "errors", "model"},
    {"guard", "system"},
    {"option_types", "state"},
    {"config"},
    {"programs"},
    {"diagnosis", "render"},
    {"jaxhooks", "report"},
    {"probes"},
    {"exporters", "server"},
    {"agent_parts"},
    {"runtime"},
    {"agent"},
    {"__init__"},
    {"demo", "autoinstall"},
    {"top"},
    {"cli"},
    {"testing"},
    {"__main__"},
)
#: Third-party packages that a package may import; those not named here may import none of them.
OUTSIDE = {"jax", "jaxlib", "prometheus_client", "psutil", "structlog", "textual"}
MAY_IMPORT = {
    "exporters": {"prometheus_client", "structlog"},
    "probes": {"psutil"},
    "cli": {"psutil"},
    "demo": {"jax"},
    "top": {"textual"},
}
#: What may import `jaxhooks`.
USE_HOOKS = {"jaxhooks", "probes", "agent_parts", "runtime", "autoinstall", "cli"}
#: Packages of one layer that must not import each other.
APART = [("exporters", "server"), ("jaxhooks", "report")]
#: An installed package also has the files of `jitwatch dashboards`, which are no part of it.
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] != "dashboards")


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(("jitwatch", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@functools.cache
def imports_of(source: str) -> set[str]:
    """Full names of what a file imports, at whatever depth, those for the type checker included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(source: str, path: Path) -> list[str]:
    """What a file imports and must not."""
    package = package_of(path)
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    found = []
    for name in sorted(imports_of(source)):
        first, *rest = name.split(".")
        if first in OUTSIDE and first not in MAY_IMPORT.get(package, set()):
            found.append(f"{package} imports {first}")
        if first == "jitwatch":
            other = rest[0] if rest and rest[0] in level else "__init__"
            if level[other] > level[package] or (package, other) in APART or (other, package) in APART:
                found.append(f"{package} imports {other}")
            if other == "jaxhooks" and package not in USE_HOOKS:
                found.append(f"{package} imports jaxhooks")
    return found


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Modules that import each other, directly or by way of others.

    Args:
        sources: Source text by module name.
    """
    graph = {}
    for module, source in sources.items():
        imported = {one if one in sources else one.rpartition(".")[0] for one in imports_of(source)}
        graph[module] = (imported & sources.keys()) - {module}
    # What imports nothing of the rest, or is imported by nothing of it, is in no circle.
    while True:
        imported = set().union(*graph.values()) if graph else set()
        kept = {module: found & graph.keys() for module, found in graph.items()}
        kept = {module: found for module, found in kept.items() if found and module in imported}
        if kept.keys() == graph.keys():
            return [sorted(graph)] if graph else []
        graph = kept


def test_files_import_only_downward():
    """Probes import no exporter, exporters import no jax, nothing imports a layer above."""
    assert [] == [
        f"{path.relative_to(ROOT)}: {violation}" for path in FILES for violation in violations(path.read_text(), path)
    ]


def test_no_files_import_each_other():
    """No circle of files, imports for the type checker and inside functions included."""
    assert [] == circles({module_of(path): path.read_text() for path in FILES})


@pytest.mark.parametrize(
    ("place", "line", "expected"),
    [
        ("probes/x.py", "from jitwatch.exporters import prometheus", "probes imports exporters"),
        ("probes/x.py", "import prometheus_client", "probes imports prometheus_client"),
        ("exporters/x.py", "import jax", "exporters imports jax"),
        ("exporters/x.py", "def f():\n    from jitwatch.server import http", "exporters imports server"),
        ("state/store.py", "from jitwatch.probes.probe import Probe", "state imports probes"),
        ("state/store.py", "if TYPE_CHECKING:\n    from jitwatch.probes import Probe", "state imports probes"),
        ("server/x.py", "from jitwatch.jaxhooks import compat", "server imports jaxhooks"),
        ("model/events.py", "import jitwatch", "model imports __init__"),
    ],
)
def test_forbidden_import_is_found(place, line, expected):
    """The check of layers notices each kind of forbidden import."""
    assert expected in violations(line, ROOT / place)


@pytest.mark.parametrize(
    "back",
    ["from jitwatch.a import A", "if TYPE_CHECKING:\n    from jitwatch import a", "def f():\n    import jitwatch.a"],
)
def test_circle_of_files_is_found(back):
    """The check of circles notices one of three files, whichever kind of import closes it, and names no other file."""
    sources = {"jitwatch": "", "jitwatch.a": "from jitwatch.b import B", "jitwatch.b": "import jitwatch.c"}
    sources |= {"jitwatch.d": "from jitwatch.a import A"}
    assert [] == circles(sources | {"jitwatch.c": ""})
    assert [["jitwatch.a", "jitwatch.b", "jitwatch.c"]] == circles(sources | {"jitwatch.c": back})


def test_private_names_of_jax_are_in_one_package():
    """No other file spells a private name of JAX."""
    marks = (r"\bjax\._src\b", r"\bjaxlib\._jax\b", r"\._cache_size\b", r"\._fun\b", r"\._jit_info\b")
    offenders = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in FILES
        for mark in marks
        if package_of(path) != "jaxhooks" and re.search(mark, path.read_text())
    ]
    assert [] == offenders


def test_every_file_has_a_layer():
    """A new package must be put into the list."""
    known = set().union(*LAYERS)
    assert set() == {package_of(path) for path in FILES} - known
