"""The agent's options: one frozen `Config`, and the only code that reads `JITWATCH_*`.

An option is an argument of `install()` or the variable `JITWATCH_<NAME>`; the argument wins.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from jitwatch.errors import ConfigError
from jitwatch.system import inherited, launchers
from jitwatch.system.launchers import safe_name

logger = logging.getLogger("jitwatch")

_PREFIX = "JITWATCH_"
#: Unknown variables that the log has named; once is enough.
_told_of: set[str] = set()
#: Switches that are not options of `install()`.
_SWITCHES = frozenset({"DISABLE", "AUTOINSTALL", inherited.VARIABLE.removeprefix(_PREFIX)})
#: What Kubernetes injects into every pod when a service is named 'jitwatch'.
_KUBERNETES = re.compile(r"^(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|\w+_SERVICE_\w+)$")
_SERVICE_URL = re.compile(r"^(tcp|udp|sctp)://")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
ALL_PROBES = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every option of the agent, checked. Build it with `load()`.

    Attributes:
        host: Address that the endpoint listens on.
        port: First port to try; 0 lets the system choose.
        event_log: File or folder of the event log, or None for none.
        run: Name of the run, in every event.
        probes: Names of the probes to start, or `("all",)`.
        detail: `full`, or `summary` to leave out every series by function.
        strict: Raise where a probe cannot start, instead of going on without it.
        tls_cert, tls_key, tls_client_ca: PEM files of the endpoint's TLS.
        token_file: File whose text is the bearer token of the endpoint.
        allowed_hosts: Names, or patterns of names, by which the endpoint may be called besides those of its machine.
        token: The token itself; only from `JITWATCH_TOKEN`, so that it is in no argument list.
        sample_interval_s: Seconds between two samples of the slow probes.
        storm_threshold: Recompiles of a function within the window that make a storm.
        storm_window_s: Length of that window, seconds.
        ignore: Patterns of function labels that never alarm.
        redact: Show no values of static arguments, in no event, page or log.
        sd_dir: Folder for an entry that tells Prometheus where the process is (`file_sd_configs`), or None.
        hlo_dir: Folder for the lowered program of every compile of a user's function, or None.
        mark_donated: Send every later use of a donated array to JAX's own clean error (JAX ≤ 0.10).
        log_level: Level of the logger `jitwatch`, or None to leave it alone.
    """

    host: str = "127.0.0.1"
    port: int = 10431
    event_log: str | None = None
    run: str = "run"
    probes: tuple[str, ...] = (ALL_PROBES,)
    detail: str = "full"
    strict: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    token_file: str | None = None
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    sample_interval_s: float = 5.0
    storm_threshold: int = 5
    storm_window_s: float = 600.0
    ignore: tuple[str, ...] = ()
    redact: bool = False
    sd_dir: str | None = None
    hlo_dir: str | None = None
    mark_donated: bool = True
    log_level: str | None = None

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown["token"] = "***" if self.token else None
        return f"Config({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def is_disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `JITWATCH_DISABLE` switches the agent off."""
    return environ.get(_PREFIX + "DISABLE", "").strip().lower() not in _FALSE


def is_strict(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `JITWATCH_STRICT` wants a failure rather than a job without its agent."""
    return environ.get(_PREFIX + "STRICT", "").strip().lower() in _TRUE


def checked(name: str, value: Any) -> Any:
    """The value of an option as `load` takes it.

    Raises:
        ValueError: It cannot be used; the message says what was expected.
    """
    return _PARSERS[name](value)


def load(options: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Join arguments, environment and defaults into a `Config`.

    Args:
        options: Arguments of `install()`; a value of None means 'not given'.
        environ: The process environment.

    Raises:
        ConfigError: An option is unknown or has a value that cannot be used.
    """
    values: dict[str, Any] = {}
    for key in unknown(environ):
        if key in _told_of:
            continue
        _told_of.add(key)
        known = ", ".join(sorted(_PREFIX + one.upper() for one in _PARSERS))
        logger.warning("jitwatch: %s is unknown and ignored; known: %s", key, known)
    for name, text in _own(environ).items():
        if name in _PARSERS:
            values[name] = _parse(name, text, _variable(name))
    for name, value in (options or {}).items():
        if name not in _PARSERS or name == "token":
            known = ", ".join(sorted(set(_PARSERS) - {"token"}))
            raise ConfigError(f"install() has no option {name!r}; known: {known}")
        if value is not None:
            values[name] = _parse(name, value, f"install({name}=…)")
    if not values.get("run"):
        values["run"] = default_run(environ)
    config = Config(**values)
    _check_together(config)
    return config


def unknown(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that look like options and are none."""
    return [_variable(name) for name in _own(environ) if name not in _PARSERS]


def wrong(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What was expected of each variable whose value cannot be used, and what it is."""
    found = {}
    for name, text in _own(environ).items():
        try:
            if name in _PARSERS:
                _parse(name, text, _variable(name))
        except ConfigError as error:
            found[_variable(name)] = str(error)
    return found


def _own(environ: Mapping[str, str]) -> dict[str, str]:
    """Values by the names of options; what Kubernetes injects and what is a switch is left out."""
    found = {}
    for key, text in environ.items():
        name = key.removeprefix(_PREFIX)
        if key.startswith(_PREFIX) and name not in _SWITCHES and not _is_foreign(name, text):
            found[name.lower()] = text
    return found


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _is_foreign(name: str, text: str) -> bool:
    return bool(_KUBERNETES.match(name)) or (name == "PORT" and bool(_SERVICE_URL.match(text)))


def _check_together(config: Config) -> None:
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ConfigError("tls_cert and tls_key belong together: give both files, or neither")
    if config.tls_client_ca and not config.tls_cert:
        raise ConfigError("tls_client_ca needs tls_cert and tls_key as well")
    if config.token and config.token_file:
        raise ConfigError("give the token by JITWATCH_TOKEN or by token_file, not by both")


def default_run(environ: Mapping[str, str] = os.environ) -> str:
    """Name of the run where no option gives one: the scheduler's, that of the parent, or a new one."""
    found = launchers.job_id(environ) or inherited.run_of(environ)
    return safe_name(found or f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}")


def _parse(name: str, value: Any, where: str) -> Any:
    try:
        return _PARSERS[name](value)
    except (ValueError, TypeError) as error:
        shown = "***" if name == "token" else repr(value)
        raise ConfigError(f"{where}: expected {error}, got {shown}") from None


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value.strip()


def _path(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise ValueError("a path")
    return os.path.expanduser(value)


def _run_name(value: Any) -> str:
    return safe_name(_text(value))


def _port(value: Any) -> int:
    expected = "a port number from 0 to 65535"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(expected)
    try:
        port = int(value)
    except ValueError:
        raise ValueError(expected) from None
    if not 0 <= port <= 65535:
        raise ValueError(expected)
    return port


def _seconds(lowest: float, highest: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        expected = f"a number of seconds from {lowest:g} to {highest:g}"
        try:
            seconds = float(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(expected) from None
        if isinstance(value, bool) or not math.isfinite(seconds) or not lowest <= seconds <= highest:
            raise ValueError(expected)
        return seconds

    return parse


def _count(value: Any) -> int:
    expected = "a whole number from 1 to 1000000"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(expected)
    try:
        count = int(value)
    except ValueError:
        raise ValueError(expected) from None
    if not 1 <= count <= 1_000_000:
        raise ValueError(expected)
    return count


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("yes or no (1, true, yes, on / 0, false, no, off)")


def _names(expected: str) -> Callable[[Any], tuple[str, ...]]:
    def parse(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in value):
            raise ValueError(expected)
        cleaned = tuple(name.strip() for name in value if name.strip())
        if not cleaned:
            raise ValueError(expected)
        return cleaned

    return parse


_ALLOWED_HOSTS = "host names without http:// and path, or patterns such as '*.example.org', separated by commas"


def _host_names(value: Any) -> tuple[str, ...]:
    names = _names(_ALLOWED_HOSTS)(value)
    if any(re.search(r"[\s/@]", name) for name in names):
        raise ValueError(_ALLOWED_HOSTS)
    # A port is no part of a name, and a request's is not compared.
    return tuple(re.sub(r"^([^:]*):[0-9]*$", r"\1", name) for name in names)


def _choice(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in allowed:
            raise ValueError(" or ".join(repr(one) for one in allowed))
        return text

    return parse


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "host": _text,
    "port": _port,
    "event_log": _path,
    "run": _run_name,
    "probes": _names("probe names separated by commas, or 'all'"),
    "detail": _choice("full", "summary"),
    "strict": _flag,
    "tls_cert": _path,
    "tls_key": _path,
    "tls_client_ca": _path,
    "token_file": _path,
    "token": _text,
    "allowed_hosts": _host_names,
    "sample_interval_s": _seconds(0.1, 3600),
    "storm_threshold": _count,
    "storm_window_s": _seconds(1, 86_400),
    "ignore": _names("function names or patterns such as 'train.eval_*', separated by commas"),
    "redact": _flag,
    "sd_dir": _path,
    "hlo_dir": _path,
    "mark_donated": _flag,
    "log_level": _choice("debug", "info", "warning", "error", "critical"),
}
