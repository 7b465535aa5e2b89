"""The options of the agent, each declared once, and `load()`, the only reader of `JITWATCH_*`.

A field of `Config` declares an option: its name, type, default and description. Everything else follows from it: the
variable `JITWATCH_<NAME>`, the flag of `jitwatch run` and `jitwatch demo`, the shell completions and the table in
`docs/options.md`. A test compares the signature and docstring of `install()`, which type checkers and editors read.

Precedence: an argument of `install()` (a flag is one), then the variable, then the default.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from jitwatch.errors import ConfigError
from jitwatch.option_types import (
    COUNT,
    FALSE_WORDS,
    HOST,
    HOST_NAMES,
    NAME,
    PATH,
    PORT,
    SWITCH,
    TEXT,
    TRUE_WORDS,
    OptionType,
    choice,
    names,
    seconds,
)
from jitwatch.system import launchers
from jitwatch.system.launchers import safe_name

logger = logging.getLogger("jitwatch")

ALL_PROBES = "all"
_PREFIX = "JITWATCH_"
#: Variables that are not options of `install()`.
SWITCHES = frozenset({f"{_PREFIX}DISABLE", f"{_PREFIX}AUTOINSTALL", launchers.INHERITED_RUN})
#: What Kubernetes injects into every pod when a service is named 'jitwatch'.
_KUBERNETES = re.compile(r"^(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|\w+_SERVICE_\w+)$")
_SERVICE_URL = re.compile(r"^(tcp|udp|sctp)://")
#: Unknown variables that were already logged.
_logged: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """The declaration of one option.

    Attributes:
        name: Name of the argument of `install()` and of the field of `Config`.
        description: What it does: one sentence without its full stop, in Markdown.
        default_text: The default in words, where the value does not say it.
        details: Further sentences for `docs/options.md`, in Markdown.
        is_argument: Whether `install()` accepts it; otherwise it is set by its variable only.
        is_flag: Whether `jitwatch run` and `jitwatch demo` have a flag for it.
        is_secret: Whether messages and `repr()` hide the value.
    """

    name: str
    default: Any
    type: OptionType
    description: str
    default_text: str = ""
    details: str = ""
    is_argument: bool = True
    is_flag: bool = False
    is_secret: bool = False

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return _PREFIX + self.name.upper()

    @property
    def shown_default(self) -> str:
        """The default in words."""
        if self.default_text:
            return self.default_text
        if self.default is None or self.default == ():
            return "none"
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return ", ".join(self.default) if isinstance(self.default, tuple) else str(self.default)

    @property
    def summary(self) -> str:
        """Description and default in one sentence, for the docstring of `install()` and for help texts."""
        default = self.shown_default
        return self.description if default == "none" else f"{self.description} (default: {default})"

    def parse(self, value: Any) -> Any:
        """The value as `Config` has it; raises ValueError with the message 'expected WHAT, got VALUE'."""
        try:
            return self.type.parse(value)
        except (ValueError, TypeError, OverflowError):
            shown = "***" if self.is_secret else repr(value)
            raise ValueError(f"expected {self.type.expected}, got {shown}") from None


def _option(default: Any, kind: OptionType, description: str, **declaration: Any) -> Any:
    """A field of `Config`: its default, and the attributes of its `Option`, except for the name."""
    return field(default=default, metadata={"type": kind, "description": description, **declaration})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Valid values of all options, as built by `load()`. Each field is the declaration of an option, see `OPTIONS`."""

    host: str = _option("127.0.0.1", HOST, "Address to listen on", is_flag=True)
    port: int = _option(
        10431,
        PORT,
        "First port to try; 0 selects any free port",
        default_text="10431, plus the local rank under a launcher",
        details="If it is in use, the next free one of the following 63 is used.",
        is_flag=True,
    )
    event_log: str | None = _option(
        None,
        PATH,
        "File or folder of the event log",
        details="In a folder each process creates its own file, `jitwatch-<run>[.p<rank>].jsonl`, and never writes to "
        "an existing one. `jitwatch run` writes to the working directory unless this is set. See "
        "[Event log](event-log.md).",
        is_flag=True,
    )
    run: str = _option(
        "run",
        NAME,
        "Name of the run, in every event",
        default_text="the scheduler's job ID, else time, host and process ID",
        is_flag=True,
    )
    probes: tuple[str, ...] = _option(
        (ALL_PROBES,),
        names("probe names separated by commas, or 'all'"),
        "Names of the probes to start",
        details="Available: `compile`, `cache`, `donation`, `memory`, `process`, `divergence`.",
    )
    detail: str = _option(
        "full", choice("full", "summary"), "`full`, or `summary` to drop every series by function", is_flag=True
    )
    strict: bool = _option(
        False,
        SWITCH,
        "Fail if a probe, the endpoint or another part cannot start, instead of continuing without it",
        is_flag=True,
    )
    tls_cert: str | None = _option(None, PATH, "PEM file with the certificate of the endpoint, which then uses TLS")
    tls_key: str | None = _option(None, PATH, "PEM file with the private key of `tls_cert`")
    tls_client_ca: str | None = _option(
        None, PATH, "PEM file with a CA certificate; clients must present a certificate that it signed"
    )
    token_file: str | None = _option(
        None,
        PATH,
        "File with the bearer token that clients must send",
        details="A browser asks for a user name, which may be anything, and a password, which is the token.",
    )
    token: str | None = _option(
        None,
        TEXT,
        "The bearer token itself, as an alternative to `token_file`",
        details="It can be set by the variable only, so that it is in no argument list.",
        is_argument=False,
        is_secret=True,
    )
    allowed_hosts: tuple[str, ...] = _option(
        (),
        HOST_NAMES,
        "Additional host names under which the endpoint may be requested, separated by commas: names or patterns such "
        "as `*.example.org`, or `*` for any",
        details="The names of this machine are always allowed; those of a proxy or of a container network are not.",
        is_flag=True,
    )
    sample_interval_s: float = _option(
        5.0, seconds(0.1, 3600), "Seconds between two samples of memory, caches, the process and the machine"
    )
    storm_threshold: int = _option(
        5,
        COUNT,
        "Recompiles of a function within `storm_window_s` that are a storm",
        default_text="5, but 20 in the minute after its first compile",
    )
    storm_window_s: float = _option(
        600.0,
        seconds(1, 86_400),
        "Length of the storm window in seconds; a storm ends after the same time without a recompile",
    )
    ignore: tuple[str, ...] = _option(
        (),
        names("function names or patterns such as 'train.eval_*', separated by commas"),
        "Patterns of function names, such as `train.eval_*`, for which no storm, pitfall or violation is reported",
        details="Their compiles are still counted.",
    )
    redact: bool = _option(False, SWITCH, "Show no values of static arguments in any event, page or log")
    sd_dir: str | None = _option(
        None,
        PATH,
        "Folder for the service discovery entry of this process (`file_sd_configs`), removed when the process ends",
        details="See [Many jobs](dashboards.md#many-jobs). Needs a `host` that Prometheus can reach: `127.0.0.1` "
        "suffices only on the same machine.",
    )
    hlo_dir: str | None = _option(
        None,
        PATH,
        "Folder for the lowered program (StableHLO text) of every compile",
        details="The event names the file, and [`jitwatch diff`](cli.md#jitwatch-diff) compares two of them. "
        "At most 1,000 files and 1 GiB.",
    )
    profile_compiles: float = _option(
        0.0,
        seconds(0, 86_400),
        "Seconds of compiles of the job's functions that are profiled with JAX's profiler; 0 profiles none",
        default_text="0",
        details="XLA's phases and passes are then in the event `jit.compile_profiled`, on JAX 0.8.3 and later; see "
        "[Compile time](compile-time.md#xlas-phases-and-passes).",
    )
    cache_index: str | None = _option(
        None,
        PATH,
        "Folder of the index that shows why JAX's persistent cache did not have a program",
        default_text="`jitwatch-cache-index` in the folder of the event log; without an event log there is none",
        details="See [Persistent cache](persistent-cache.md). Processes, jobs and machines may share it.",
    )
    mark_donated: bool = _option(
        True,
        SWITCH,
        "On JAX ≤ 0.10, raise JAX's own `RuntimeError` whenever a donated array is used again, as newer JAX does",
        details="Without it: `ValueError` in a cached call on one device, and a hang or a crash on several.",
    )
    log_level: str | None = _option(
        None,
        choice("debug", "info", "warning", "error", "critical"),
        "Level of the logger `jitwatch`",
        default_text="unchanged",
    )

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in OPTIONS}
        hidden = {name: "***" for name, option in OPTIONS.items() if option.is_secret and shown[name]}
        return f"Config({', '.join(f'{name}={value!r}' for name, value in {**shown, **hidden}.items())})"


#: All options by name, in the order of `Config`.
OPTIONS = {one.name: Option(name=one.name, default=one.default, **one.metadata) for one in fields(Config)}


def load(options: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Join arguments of `install()`, environment and defaults; raises ConfigError for an invalid or unknown option."""
    for variable in unknown_variables(environ):
        if variable not in _logged:
            _logged.add(variable)
            known = ", ".join(sorted(option.variable for option in OPTIONS.values()))
            # Without its value: it may be a misspelt secret.
            logger.warning("jitwatch: %s is unknown and ignored; known: %s", variable, known)
    texts = _texts_by_name(environ)
    values = {name: _parse(OPTIONS[name], text, is_variable=True) for name, text in texts.items() if name in OPTIONS}
    for name, value in (options or {}).items():
        option = OPTIONS.get(name)
        if option is None or not option.is_argument:
            known = ", ".join(sorted(name for name, one in OPTIONS.items() if one.is_argument))
            raise ConfigError(f"install() has no option {name!r}; known: {known}")
        if value is not None:
            values[name] = _parse(option, value, is_variable=False)
    values.setdefault("run", default_run(environ))
    return _checked(Config(**values))


def is_disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `JITWATCH_DISABLE` turns the agent off."""
    return environ.get(f"{_PREFIX}DISABLE", "").strip().lower() not in FALSE_WORDS


def is_strict(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `JITWATCH_STRICT` is set, even if other variables are invalid."""
    return environ.get(OPTIONS["strict"].variable, "").strip().lower() in TRUE_WORDS


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names of variables that look like options but are none."""
    return [_PREFIX + name.upper() for name in _texts_by_name(environ) if name not in OPTIONS]


def invalid_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The message about each variable with an invalid value, by its name."""
    found = {}
    for name, text in _texts_by_name(environ).items():
        if name in OPTIONS:
            try:
                _parse(OPTIONS[name], text, is_variable=True)
            except ConfigError as error:
                found[OPTIONS[name].variable] = str(error)
    return found


def default_run(environ: Mapping[str, str] = os.environ) -> str:
    """Name of a run without a given name: the scheduler's job ID, the parent's run, or a new name."""
    found = launchers.job_id(environ) or launchers.inherited_run(environ)
    from socket import gethostname  # lazy: `import jitwatch` does not need it

    return safe_name(found or f"{time.strftime('%Y%m%d-%H%M%S')}-{gethostname()}-{os.getpid()}")


def _texts_by_name(environ: Mapping[str, str]) -> dict[str, str]:
    """Values of the variables `JITWATCH_*` by option name, without switches and what Kubernetes injects."""
    found = {}
    for variable, text in environ.items():
        name = variable.removeprefix(_PREFIX)
        is_injected = _KUBERNETES.match(name) or (name == "PORT" and _SERVICE_URL.match(text))
        if variable.startswith(_PREFIX) and variable not in SWITCHES and not is_injected:
            found[name.lower()] = text
    return found


def _parse(option: Option, value: Any, *, is_variable: bool) -> Any:
    try:
        return option.parse(value)
    except ValueError as error:
        if is_variable:
            raise ConfigError(f"{option.variable}: {error}; correct or unset it") from None
        raise ConfigError(f"install({option.name}=…): {error}; correct or omit it") from None


def _checked(config: Config) -> Config:
    if bool(config.tls_cert) != bool(config.tls_key):
        missing, given = ("tls_key", "tls_cert") if config.tls_cert else ("tls_cert", "tls_key")
        raise ConfigError(f"{missing}: expected a path, because {given} is set, got none; set both or neither")
    if config.tls_client_ca and not config.tls_cert:
        raise ConfigError("tls_cert: expected a path, because tls_client_ca is set, got none; set tls_cert and tls_key")
    if config.token and config.token_file:
        raise ConfigError("token_file: expected none, because JITWATCH_TOKEN is set, got a path; set only one of them")
    return config
