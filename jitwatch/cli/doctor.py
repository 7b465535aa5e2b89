"""`jitwatch doctor`: checks whether jitwatch works in this environment, and how to fix what does not."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jitwatch import config
from jitwatch._version import __version__
from jitwatch.cli.activate import is_active, pth_file
from jitwatch.cli.options import add_command
from jitwatch.errors import ConfigError, ServerError
from jitwatch.jaxhooks import compat
from jitwatch.model.cleaning import clean
from jitwatch.server.access import is_loopback
from jitwatch.server.listener import NoPortError, listen

_DESCRIPTION = """Check this environment: Python, JAX, its backend and devices, all hooks, options, folders and the
port, and whether a Prometheus or Grafana responds on this machine. JAX is tested in a separate process. The exit code
is 1 if the agent cannot work here. Attach the output to a bug report."""
_MARKS = {"ok": "ok  ", "warn": "note", "fail": "FAIL"}
_TRIAL_TIMEOUT_S = 120
_HTTP_TIMEOUT_S = 1.0
#: Compiles once with the agent installed and prints the state. Run in a process of its own.
_TRIAL = """
import json, jitwatch
watch = jitwatch.install(port=0)
import jax
jax.jit(lambda x: x + 1)(1.0)
state = watch.snapshot()
devices = [{"name": f"{d.platform}:{d.id}", "kind": d.device_kind, "statistics": bool(d.memory_stats())}
           for d in jax.local_devices()]
cache = jax.config.jax_compilation_cache_dir
print(json.dumps({"backend": jax.default_backend(), "devices": devices, "cache": cache,
                  "probes": state["probes"], "compiles": state["totals"]["compiles"]}))
"""
#: Prints why the agent does not start, or which of its parts do not.
_START = """
import json, jitwatch
try:
    with jitwatch.install(port=0) as watch:
        probes = watch.snapshot().get("probes", {})
        parts = {name: probes[name]["reason"] for name in ("endpoint", "event_log", "sampler", "discovery", "programs")
                 if name in probes}
        print(json.dumps({"parts": parts, "reason": "" if watch.is_active else "install() returned an inactive Watch"}))
except jitwatch.JitwatchError as error:
    print(json.dumps({"parts": {}, "reason": str(error)}))
"""
#: Libraries whose wrappers jitwatch unwraps, and that of the terminal view.
_LIBRARIES = ("flax", "equinox", "optax", "orbax-checkpoint", "textual")
#: The packages that jitwatch needs, each with a module and a name in it that exist if the package can be used.
_USES = {
    "prometheus-client": ("jitwatch.exporters.prometheus", "Exposition"),
    "psutil": ("psutil", "virtual_memory"),
    "structlog": ("structlog", "processors"),
}
_PIP = f"{sys.executable} -m pip"
_SECRET = frozenset(option.variable for option in config.OPTIONS.values() if option.is_secret)
_FOLDERS = ("event_log", "sd_dir", "hlo_dir")
_MAX_VALUE = 80

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: a line of the output."""

    name: str
    status: Status
    text: str


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = add_command(parsers, "doctor", _doctor, "check whether jitwatch works in this environment", _DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print the results as JSON, for a bug report or a script")


def _doctor(options: argparse.Namespace) -> int:
    checks = []
    for check in _checks():
        checks.append(check)
        if not options.json:
            print(f"{_MARKS[check.status]}  {check.name:<17} {clean(check.text)}", flush=True)
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    return int(any(check.status == "fail" for check in checks))


def _checks() -> Iterator[Check]:
    yield Check("jitwatch", "ok", f"{__version__} in {sys.prefix}")
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _machine()
    yield from _packages()
    yield from _jax()
    yield from _variables()
    yield from _automatic()
    yield from _options()
    yield _responds("prometheus", "http://127.0.0.1:9090/-/ready")
    yield _responds("grafana", "http://127.0.0.1:3000/api/health")


# The environment


def _machine() -> Check:
    try:
        import psutil

        memory = psutil.virtual_memory()
        size = f", {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB of memory available"
    except Exception:  # the other checks still run
        size = ""
    return Check("machine", "ok", f"{os.cpu_count()} CPUs{size}; {platform.platform()}")


def _packages() -> Iterator[Check]:
    """The packages that jitwatch needs, and those that it knows."""
    for package in _USES:
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            yield Check(package, "fail", f"is not installed; run: {_PIP} install {package}")
        elif (problem := _problem_with(package)) is not None:
            yield Check(package, "fail", problem)
        else:
            yield Check(package, "ok", compat.version_of(package) or "installed")
    found = [f"{name} {version}" for name in _LIBRARIES if (version := compat.version_of(name)) is not None]
    yield Check("libraries", "ok", ", ".join(found) or f"none of {', '.join(_LIBRARIES)}")


def _problem_with(package: str) -> str | None:
    """Why jitwatch cannot use an installed package, and what to do: another version, or a user's file of its name."""
    module, name = _USES[package]
    try:
        getattr(importlib.import_module(module), name)
    except Exception as error:
        spec = importlib.util.find_spec(package.replace("-", "_"))
        # A folder without `__init__.py` has no origin.
        place = "" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), "")
        return f"{place} cannot be used: {error}; {_remedy(package, place)}"
    return None


def _remedy(package: str, place: str) -> str:
    """What to do about an installed package whose module, in this file, cannot be used."""
    try:
        installed = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return f"it is not {package}, which is not installed: rename it, and run: {_PIP} install {package}"
    if Path(place).is_relative_to(str(installed.locate_file(""))):
        return f"{package} is installed; run: {_PIP} install --upgrade --force-reinstall {package}"
    return f"it hides the installed {package}: rename it, or remove its folder from PYTHONPATH"


def _variables() -> Iterator[Check]:
    """The variables that configure jitwatch and JAX. Secrets are not shown."""
    invalid, unknown = config.invalid_variables(), config.unknown_variables()
    shown = [
        f"{name}={'…' if name in _SECRET else _short(value)}"
        for name, value in sorted(os.environ.items())
        if name.startswith("JITWATCH_") and name not in invalid and name not in unknown
    ]
    if shown or not (invalid or unknown):
        yield Check("options", "ok", " ".join(shown) or "no JITWATCH_* variable is set")
    for reason in invalid.values():
        yield Check("environment", "fail", f"{reason}; the agent does not start with this value")
    if unknown:
        yield Check("environment", "warn", f"{', '.join(unknown)}: unknown and ignored; check the spelling")
    others = sorted(name for name in os.environ if name.startswith(("JAX_", "XLA_", "LIBTPU_")))
    if others:
        yield Check("jax options", "ok", " ".join(f"{name}={_short(os.environ[name])}" for name in others))


def _automatic() -> Iterator[Check]:
    """Whether the agent is installed automatically in processes of this environment."""
    value = os.environ.get("JITWATCH_AUTOINSTALL")
    if is_active():
        is_set = "set here" if value == "1" else "not set here"
        yield Check("autoinstall", "ok", f"active in processes with JITWATCH_AUTOINSTALL=1 ({is_set}), by {pth_file()}")
    elif value == "1":
        run = f"{sys.executable} -m jitwatch activate"
        yield Check("autoinstall", "warn", f"JITWATCH_AUTOINSTALL=1 has no effect yet; run: {run}")
    elif value is not None:
        text = f"JITWATCH_AUTOINSTALL={_short(value)} has no effect: set it to 1, or unset it"
        yield Check("autoinstall", "warn", text)


def _responds(name: str, url: str) -> Check:
    # Lazy: importing it takes longer than all else of the command line.
    import http.client
    import urllib.request

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=_HTTP_TIMEOUT_S) as answer:
            return Check(name, "ok", f"responds at {url} with status {answer.status}")
    except (OSError, http.client.HTTPException):
        return Check(name, "warn", f"no response at {url}; ignore this unless it should run on this machine")


# JAX


def _jax() -> Iterator[Check]:
    version = compat.version_of("jax")
    if not compat.is_installed() or version is None:
        yield Check("jax", "fail", f"is not installed; run: {sys.executable} -m pip install 'jax>=0.6.2'")
        return
    unsupported = compat.too_old(version) or compat.newer_than_tested(version)
    supported = f"{version}, jaxlib {compat.version_of('jaxlib')}"
    yield Check("jax", "warn" if unsupported else "ok", unsupported or supported)
    try:
        missing, absent = compat.missing_hooks(), compat.absent_hooks()
    except Exception as error:
        yield Check("hooks", "fail", f"jax cannot be imported: {error}")
        return
    lost = [*missing.values(), "compiles are counted under JAX's names only"] if missing else absent
    found = "all private names of JAX that jitwatch replaces were found"
    yield Check("hooks", "warn" if lost else "ok", "; ".join(lost) or found)
    yield from _trial()


def _trial() -> Iterator[Check]:
    # Without the options of the environment: they may turn the agent off, or name an event log.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
    seen = _run(_TRIAL, environ)
    if isinstance(seen, str):
        yield Check("backend", "fail", f"compiling one function with the agent installed failed: {seen}")
        return
    devices = seen["devices"]
    names = ", ".join(f"{one['name']} ({one['kind']})" for one in devices[:8])
    more = f" and {len(devices) - 8} more" if len(devices) > 8 else ""
    yield Check("backend", "ok", f"{seen['backend']}: {names}{more}")
    silent = next((one["name"] for one in devices if not one["statistics"]), None)
    text = f"{silent} has no memory statistics; the bytes of its live arrays are used instead"
    whole = "every device has memory statistics"
    yield Check("device memory", "warn" if silent else "ok", text if silent else whole)
    yield Check("compilation cache", "ok", seen["cache"] or "none (jax_compilation_cache_dir is not set)")
    for name, probe in seen["probes"].items():
        yield Check(f"probe {name}", "ok" if probe["up"] else "warn", "up" if probe["up"] else probe["reason"])
    count = seen["compiles"]
    counted = " and one compile was counted" if count == 1 else f", but {count} compiles were counted"
    yield Check("trial", "ok" if count == 1 else "warn", f"one function was compiled{counted}")


def _run(program: str, environ: Mapping[str, str]) -> dict[str, Any] | str:
    """Run a program of ours in a process of its own, and return what its last line says, or why it failed."""
    command, seconds = [sys.executable, "-c", program], _TRIAL_TIMEOUT_S
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=seconds, check=False)  # noqa: S603
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return f"it took over {seconds} s; is the accelerator in use by another process?"
    except (IndexError, ValueError):
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return found


# The options


def _options() -> Iterator[Check]:
    """The folders, the start of an agent and the port, with the options of this environment."""
    if config.invalid_variables():
        return  # reported with the variables
    try:
        unknown = config.unknown_variables()
        settings = config.load({}, {name: value for name, value in os.environ.items() if name not in unknown})
    except ConfigError as error:
        yield Check("environment", "fail", str(error))
        return
    for name in _FOLDERS:
        if (value := getattr(settings, name)) is not None:
            yield _folder(name, value)
    yield from _start()
    if config.is_disabled():
        yield Check("environment", "warn", "JITWATCH_DISABLE is set: install() does nothing")
    yield _endpoint(settings)


def _folder(name: str, value: str) -> Check:
    """Whether a folder is writable: permissions say little if the user is root or the disk is full."""
    import tempfile

    path = Path(value)
    folder = next((one for one in (path, *path.absolute().parents) if one.is_dir()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"jitwatch")
    except OSError:
        return Check(name, "fail", f"{value}: {folder} is not writable; name another folder")
    return Check(name, "ok", f"{value} is writable")


def _start() -> Iterator[Check]:
    """Start an agent with the options of this environment, except for those that would leave files behind."""
    excluded = {"JITWATCH_DISABLE", "JITWATCH_AUTOINSTALL", *(config.OPTIONS[name].variable for name in _FOLDERS)}
    found = _run(_START, {name: value for name, value in os.environ.items() if name not in excluded})
    if isinstance(found, str):
        found = {"parts": {}, "reason": f"starting the agent failed: {found}"}
    if found["reason"]:
        yield Check("start", "fail", f"{found['reason']}; the agent does not start with these options")
    for part, reason in found["parts"].items():
        yield Check("start", "warn", f"{reason}; the agent starts without {part}")


def _endpoint(settings: config.Config) -> Check:
    """The port that the agent would use, determined as the agent does."""
    address = f"{settings.host}:{settings.port}"
    try:
        with listen(settings.host, settings.port, backlog=1) as listener:
            ip, port = listener.getsockname()[:2]
    except ServerError as error:
        if settings.strict or not isinstance(error, NoPortError):
            return Check("port", "fail", f"{address} cannot be opened: {error}")
        return Check("port", "warn", f"{error}; until then the agent has no endpoint")
    if port != settings.port and settings.port:
        return Check("port", "warn", f"{address} is in use; the agent would use the next free port, {port}")
    if not (settings.token or settings.token_file or settings.tls_cert or is_loopback(ip)):
        text = f"{address} is free, but would be open to other machines without a token and TLS"
        return Check("port", "warn", f"{text}; see docs/security.md")
    return Check("port", "ok", f"{address} is free")


def _short(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"
