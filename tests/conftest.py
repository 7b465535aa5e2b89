"""Every test leaves the process as it found it: JAX's names, listeners, threads, sockets, files."""

from __future__ import annotations

import atexit
import gc
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

from tests.waiting import wait_until

# What XLA makes of the programs is looked at nowhere; how long that takes decides how long the tests take. In the
# environment, so that the jobs that tests start do the same.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Until all is imported nothing is garbage; see `pytest_collection_finish`. Nor is it looked for when all has ended:
# registered before anything that is imported below registers what it does at the exit.
gc.disable()
atexit.register(gc.freeze)

import hypothesis
import jax
import pytest
from jaxlib._jax import PjitFunction
from packaging.specifiers import SpecifierSet

import jitwatch
from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.server import http
from jitwatch.server.http import Request, Response, Server
from tests import serving
from tests.serving import echo, our_threads

HOOKS = (
    compat.infer_hook(),
    compat.LOWER,
    compat.COMPILE,
    compat.CREATE,
    compat.CLEAR_ALL,
    compat.CLEAR_ONE,
    compat.EXECUTE,
)
HOOKS += (compat.CHECK_DELETED, compat.BLOCK, compat.BLOCK_ALL, compat.MLIR_WARNINGS)
HOOKS += (compat.jit_implementation_hook(), compat.CALL_PYTHON, compat.FASTPATH, compat.LOWERED_COMPILE)
if compat.has_pmap_path():
    HOOKS += (compat.PMAP_LOWER, compat.PMAP_COMPILE, compat.PMAP_CREATE)
#: Property tests try the same examples each time, unless `FUZZ_EXAMPLES` asks for more.
hypothesis.settings.register_profile(
    "tests", derandomize="FUZZ_EXAMPLES" not in os.environ, database=None, deadline=None
)
hypothesis.settings.load_profile("tests")
pytest.register_assert_rewrite("tests.golden", "tests.recompiles", "tests.integration.launching")

#: Two, so that shardings and devices can differ; JAX makes them when the first test computes something.
jax.config.update("jax_num_cpu_devices", 2)
# jax may have been imported before this file was: by a plugin of pytest.
jax.config.update("jax_disable_most_optimizations", True)


#: What runs, by the names that the marker `versions` uses.
VERSIONS = {"python": platform.python_version(), "jax": jax.__version__}
#: Ways to compile small programs faster, and the versions of JAX that have been seen to know them: XLA ends a process
#: that has an unknown flag.
FAST_COMPILES = {
    "--xla_cpu_use_fusion_emitters=false": ">=0.7,<0.11",
    "--xla_cpu_parallel_codegen_split_count=1": "<0.13",
}
# Read when the first program is compiled. What the user has set comes last, so that it counts.
known = [flag for flag, jaxs in FAST_COMPILES.items() if SpecifierSet(jaxs).contains(VERSIONS["jax"], prereleases=True)]
os.environ["XLA_FLAGS"] = " ".join([*known, os.environ.get("XLA_FLAGS", "")])


def is_for_these_versions(item: pytest.Item) -> bool:
    """Whether every marker `versions` of a test allows the Python and the JAX that run."""
    markers = [{**marker.kwargs} for marker in item.iter_markers("versions")]
    assert all(marker.pop("reason", None) for marker in markers), f"{item.nodeid}: versions(...) needs a reason"
    return all(
        SpecifierSet(allowed).contains(VERSIONS[name], prereleases=True)
        for marker in markers
        for name, allowed in marker.items()
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of other versions. They are not skipped: a skipped test is one that could run here."""
    others = [item for item in items if not is_for_these_versions(item)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: what it needs should be there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI_REQUIRE_SERVERS"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} is skipped, which CI_REQUIRE_SERVERS forbids: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that is skipped as a whole."""
    report = yield
    if report.skipped and os.environ.get("CI_REQUIRE_SERVERS"):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} is skipped, which CI_REQUIRE_SERVERS forbids: {report.longrepr}"
    return report


#: So many new objects start a collection of garbage: between two tests, and within a test.
MANY_OBJECTS, MOST_OBJECTS = 50_000, 200_000


def forget_garbage() -> None:
    """Collect garbage. What is left then stays: no later collection looks at it again, which would take 0.1 s."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """What has been imported by now stays, with the little garbage in it. From now on it is collected between tests."""
    gc.freeze()
    gc.set_threshold(MOST_OBJECTS)
    gc.enable()


def pytest_runtest_logfinish() -> None:
    """Collect the garbage of the last tests if there is much."""
    objects, collections, _ = gc.get_count()
    if objects > MANY_OBJECTS or collections:
        forget_garbage()


def pytest_sessionfinish() -> None:
    """For plugins that ask who refers to what."""
    gc.unfreeze()


LISTENER_KINDS = ("scalar", "event_duration_secs", "event")


def patched_names() -> dict[str, object]:
    """The objects behind every name of JAX that the agent touches, and their code; `jax.jit` among them."""
    names: dict[str, object] = {}
    for hook in HOOKS:
        found = names[f"{hook.owner}.{hook.attribute}"] = hook.get()
        while found is not None:
            names[f"{hook.owner}.{hook.attribute} {id(found)}"] = id(getattr(found, "__code__", None))
            found = getattr(found, "__wrapped__", None)
    jitted = {"PjitFunction.clear_cache": PjitFunction.clear_cache}
    return names | jitted | {"jax.jit": jax.jit, "jax.pmap": jax.pmap}


def listeners() -> dict[str, list[object]]:
    """What is registered on jax.monitoring."""
    module = sys.modules["jax._src.monitoring"]
    return {kind: list(getattr(module, f"_{kind}_listeners")) for kind in LISTENER_KINDS}


def open_files() -> dict[str, str]:
    """Open file descriptors of this process and what they point to."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    return found


def open_sockets() -> set[str]:
    """Sockets of this process."""
    return {target for target in open_files().values() if target.startswith("socket:")}


def traces_in_process() -> dict[str, Any]:
    """Everything that an agent changes in the process while it runs."""
    return {
        "names": patched_names(),
        "listeners": listeners(),
        "finders": list(sys.meta_path),
        "monitoring": [sys.monitoring.get_tool(i) for i in range(6)] if hasattr(sys, "monitoring") else [],
        "sockets": open_sockets(),
    }


def own_threads() -> list[str]:
    """Names of living threads that the agent started."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jitwatch")]


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    """Failures of ours are raised, and after the test nothing of the agent is left."""
    monkeypatch.setattr(guard, "reraise", True)
    for name in [name for name in os.environ if name.startswith("JITWATCH_")]:
        monkeypatch.delenv(name)
    before = traces_in_process()
    yield
    jitwatch.uninstall()
    if before != traces_in_process():
        # A socket of the test's own client may only be waiting for the collector, which takes 0.1 s.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        after = traces_in_process()
        assert before["sockets"] >= open_sockets()
        assert {**before, "sockets": None} == {**after, "sockets": None}
    assert [] == own_threads()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Start servers that are closed afterwards, and check that each leaves nothing behind."""
    # No name server is asked, which may take seconds.
    monkeypatch.setattr(http, "names_of_machine", lambda: {"NODE7.cluster.example."})
    before = serving.open_sockets()
    servers: list[Server] = []

    def start(handler: Callable[[Request], Response] = echo, **options: object) -> Server:
        server = Server(handler, **{"host": "127.0.0.1", "port": 0, **options})  # type: ignore[arg-type]
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
    wait_until(lambda: our_threads() == [], what="the end of the threads")
    assert set() == serving.open_sockets(besides=before)


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages."""
    folder = tmp_path / "lib" / "site-packages"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def opened():
    """Open files as separate processes would, and close them."""
    from jitwatch.exporters.eventlog.rotation import RotatingFile  # imports structlog

    made = []

    def open_one(path, **options):
        options = {"max_bytes": 0, "backups": 0} | options
        made.append(RotatingFile(str(path), **options))
        return made[-1]

    yield open_one
    for one in made:
        one.close()
