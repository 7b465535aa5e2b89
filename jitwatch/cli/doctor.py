"""`jitwatch doctor`: checks whether jitwatch works in this environment, and how to fix what does not."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from jitwatch import config
from jitwatch._version import __version__
from jitwatch.cli import surroundings
from jitwatch.cli.surroundings import Check
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
        print(json.dumps({"parts": parts, "reason": "" if watch.is_active else "it does not start"}))
except jitwatch.JitwatchError as error:
    print(json.dumps({"parts": {}, "reason": str(error)}))
"""


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser(
        "doctor", help="check whether jitwatch works in this environment", description=_DESCRIPTION
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON, for a bug report or a script")
    parser.set_defaults(call=_doctor)


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
    yield from surroundings.machine()
    yield from _packages()
    yield from surroundings.libraries()
    yield from _jax()
    yield from surroundings.variables()
    yield from surroundings.automatic()
    yield from _port()
    yield _responds("prometheus", "http://127.0.0.1:9090/-/ready")
    yield _responds("grafana", "http://127.0.0.1:3000/api/health")


def _packages() -> Iterator[Check]:
    for package, module in (
        ("prometheus-client", "prometheus_client"),
        ("psutil", "psutil"),
        ("structlog", "structlog"),
    ):
        if importlib.util.find_spec(module) is None:
            yield Check(package, "fail", f"is not installed; run: {sys.executable} -m pip install {package}")
        else:
            yield Check(package, "ok", compat.version_of(package) or "installed")


def _jax() -> Iterator[Check]:
    version = compat.version_of("jax")
    if not compat.is_installed() or version is None:
        yield Check("jax", "fail", f"is not installed; run: {sys.executable} -m pip install 'jax>=0.6.2'")
        return
    unsupported = compat.too_old(version) or compat.newer_than_tested(version)
    yield Check(
        "jax", "warn" if unsupported else "ok", unsupported or f"{version}, jaxlib {compat.version_of('jaxlib')}"
    )
    try:
        missing, absent = compat.missing_hooks(), compat.absent_hooks()
    except Exception as error:
        yield Check("hooks", "fail", f"jax cannot be imported: {error}")
        return
    if missing:
        yield Check("hooks", "warn", "; ".join(missing.values()) + "; compiles are counted under JAX's names only")
    elif absent:
        yield Check("hooks", "warn", "; ".join(absent))
    else:
        yield Check("hooks", "ok", "all private names of JAX that jitwatch replaces were found")
    yield from _trial()


def _trial() -> Iterator[Check]:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-c", _TRIAL],
            # Without the options of the environment: they may turn the agent off, or name an event log.
            env={name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")},
            capture_output=True,
            text=True,
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
        seen = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        yield Check(
            "backend",
            "fail",
            f"compiling one function took over {_TRIAL_TIMEOUT_S} s; is the accelerator in use by another process?",
        )
        return
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Check("backend", "fail", f"compiling one function with the agent installed failed: {last}")
        return
    devices = seen["devices"]
    names = ", ".join(f"{one['name']} ({one['kind']})" for one in devices[:8])
    more = f" and {len(devices) - 8} more" if len(devices) > 8 else ""
    yield Check("backend", "ok", f"{seen['backend']}: {names}{more}")
    silent = [one["name"] for one in devices if not one["statistics"]]
    if silent:
        yield Check(
            "device memory",
            "warn",
            f"{silent[0]} has no memory statistics; the bytes of its live arrays are used instead",
        )
    else:
        yield Check("device memory", "ok", "every device has memory statistics")
    yield Check("compilation cache", "ok", seen["cache"] or "none (jax_compilation_cache_dir is not set)")
    for name, probe in seen["probes"].items():
        yield Check(f"probe {name}", "ok" if probe["up"] else "warn", "up" if probe["up"] else probe["reason"])
    if seen["compiles"] == 1:
        yield Check("trial", "ok", "one function was compiled and one compile was counted")
    else:
        yield Check("trial", "warn", f"one function was compiled, but {seen['compiles']} compiles were counted")


def _start() -> Iterator[Check]:
    """Start an agent with the options of this environment, except for those that would leave files behind."""
    excluded = {
        "JITWATCH_DISABLE",
        "JITWATCH_AUTOINSTALL",
        *(config.OPTIONS[name].variable for name in surroundings.FOLDERS),
    }
    done = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-c", _START],
        env={name: value for name, value in os.environ.items() if name not in excluded},
        capture_output=True,
        text=True,
        timeout=_TRIAL_TIMEOUT_S,
        check=False,
    )
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        found = {"parts": {}, "reason": f"starting the agent failed: {last}"}
    if found["reason"]:
        yield Check("start", "fail", f"{found['reason']}; the agent does not start with these options")
    for part, reason in found["parts"].items():
        yield Check("start", "warn", f"{reason}; the agent starts without {part}")


def _port() -> Iterator[Check]:
    if config.invalid_variables():
        return  # reported with the variables
    try:
        settings = config.load(
            {}, {name: value for name, value in os.environ.items() if name not in config.unknown_variables()}
        )
    except ConfigError as error:
        yield Check("environment", "fail", str(error))
        return
    yield from surroundings.folders(settings)
    yield from _start()
    if config.is_disabled():
        yield Check("environment", "warn", "JITWATCH_DISABLE is set: install() does nothing")
    yield _endpoint(settings)


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
