"""Sessions of nox: tests on the supported versions of JAX, style, types, documentation, benchmarks.

nox -l                        list the sessions
nox -s tests                  unit tests on each supported JAX
nox -s "tests(jax='0.6.2')"   on one of them
nox -s lint types docs
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.4"
nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.reuse_existing_virtualenvs = True

#: Oldest, widely used, newest; the oldest is `compat.OLDEST`.
JAX = ("0.6.2", "0.10.2", "newest")


@nox.session
@nox.parametrize("jax", JAX)
def tests(session: nox.Session, jax: str) -> None:
    """Unit tests; arguments after `--` go to pytest instead of `tests/unit`."""
    pinned = ["--upgrade", "jax", "jaxlib"] if jax == "newest" else [f"jax=={jax}", f"jaxlib=={jax}"]
    session.install("-e", ".[test]", *pinned)
    session.run("pytest", "-q", "-n", "auto", *(session.posargs or ["tests/unit"]), env={"JAX_PLATFORMS": "cpu"})


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines and branches that the unit and process tests and those of the commands execute, in all processes."""
    session.install("-e", ".[test]")
    # coverage ends with an error at a file name that is no valid text.
    hostile = "tests/unit/test_compile_watch.py::TestTrace::test_hostile_file_names_are_cleaned"
    commands = [f"tests/integration/test_cli_{name}.py" for name in ("activate", "dashboards", "demo", "doctor", "run")]
    tests = session.posargs or ["tests/unit", "tests/properties", "tests/process", *commands]
    command = ("-m", "pytest", "-q", "-n", "auto", "--deselect", hostile, *tests)
    session.run("coverage", "erase")
    session.run("coverage", "run", *command, env={"JAX_PLATFORMS": "cpu"})
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strict, on the newest JAX."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Generated pages are up to date, and the site builds without a warning."""
    session.install("-e", ".[docs]")
    session.run("python", "docs/generate.py", "--check")
    session.run("mkdocs", "build", "--strict")


@nox.session
def bench(session: nox.Session) -> None:
    """What the agent costs; the name of a script after `--` runs only that one."""
    session.install("-e", ".[test]")
    scripts = session.posargs or ["cached_call", "donating_call", "compile_cost", "startup", "scrape"]
    for name in scripts:
        session.run("python", f"benchmarks/{name}.py", env={"JAX_PLATFORMS": "cpu"})
