"""Options: sources, precedence, and messages for invalid values."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from pathlib import Path

import pytest

from jitwatch.config import Config, is_disabled, load
from jitwatch.errors import ConfigError

TOKEN = "hunter2-correct-horse"

HOSTS = "host names without http:// and path, or patterns such as '*.example.org', separated by commas"

#: Option, text of its variable, value as an argument, value in the config.
GOOD = [
    ("host", "0.0.0.0", "0.0.0.0", "0.0.0.0"),
    ("host", " ::1 ", " ::1 ", "::1"),
    ("port", "0", 0, 0),
    ("port", "65535", 65535, 65535),
    ("port", " 9000 ", "9000", 9000),
    ("event_log", "/logs/run.jsonl", Path("/logs/run.jsonl"), "/logs/run.jsonl"),
    ("run", "baseline", "baseline", "baseline"),
    ("run", "a b/c:d", "a b/c:d", "a-b-c-d"),
    ("probes", "compile, cache,", ["compile", " cache "], ("compile", "cache")),
    ("probes", "all", ("all",), ("all",)),
    ("detail", "Summary", "summary", "summary"),
    ("detail", "full", "FULL", "full"),
    ("strict", "1", True, True),
    ("strict", "Off", False, False),
    ("token_file", "/run/token", Path("/run/token"), "/run/token"),
    ("allowed_hosts", "*.example.org, Node7:443", ["*.example.org", "Node7"], ("*.example.org", "Node7")),
    ("allowed_hosts", "*", ("*",), ("*",)),
    ("allowed_hosts", "::1", "::1", ("::1",)),
    ("sample_interval_s", "0.1", 0.1, 0.1),
    ("sample_interval_s", "3600", 3600, 3600.0),
    ("storm_threshold", "1", 1, 1),
    ("storm_threshold", "1000000", "1000000", 1_000_000),
    ("storm_window_s", "1", 1.0, 1.0),
    ("storm_window_s", "86400", 86_400, 86_400.0),
    ("ignore", "train.eval_*, warm_up", ["train.eval_*", "warm_up"], ("train.eval_*", "warm_up")),
    ("redact", "yes", True, True),
    ("sd_dir", "/shared/sd", Path("/shared/sd"), "/shared/sd"),
    ("hlo_dir", "/logs/hlo", Path("/logs/hlo"), "/logs/hlo"),
    ("profile_compiles", "30", 30, 30.0),
    ("cache_index", "/logs/index", Path("/logs/index"), "/logs/index"),
    ("mark_donated", "no", False, False),
    ("log_level", "DEBUG", "debug", "debug"),
]

#: Option, a value that cannot be used, what the message says was expected.
BAD = [
    ("host", "  ", "a non-empty string"),
    ("port", "65536", "a port number from 0 to 65535"),
    ("port", "-1", "a port number from 0 to 65535"),
    ("port", "http", "a port number from 0 to 65535"),
    ("port", "1.5", "a port number from 0 to 65535"),
    ("event_log", "", "a path"),
    ("run", "", "a non-empty string"),
    ("probes", " , ", "probe names separated by commas, or 'all'"),
    ("detail", "brief", "'full' or 'summary'"),
    ("strict", "maybe", "yes or no (1, true, yes, on / 0, false, no, off)"),
    ("redact", "maybe", "yes or no (1, true, yes, on / 0, false, no, off)"),
    ("sd_dir", "", "a path"),
    ("hlo_dir", "", "a path"),
    ("profile_compiles", "-1", "a number of seconds from 0 to 86400"),
    ("cache_index", "", "a path"),
    ("mark_donated", "maybe", "yes or no (1, true, yes, on / 0, false, no, off)"),
    ("tls_cert", "", "a path"),
    ("tls_key", "", "a path"),
    ("tls_client_ca", "", "a path"),
    ("token_file", "", "a path"),
    ("allowed_hosts", ",", HOSTS),
    ("allowed_hosts", "https://example.org", HOSTS),
    ("allowed_hosts", "a b", HOSTS),
    ("sample_interval_s", "0", "a number of seconds from 0.1 to 3600"),
    ("sample_interval_s", "3601", "a number of seconds from 0.1 to 3600"),
    ("sample_interval_s", "nan", "a number of seconds from 0.1 to 3600"),
    ("sample_interval_s", "inf", "a number of seconds from 0.1 to 3600"),
    ("sample_interval_s", "5s", "a number of seconds from 0.1 to 3600"),
    ("storm_threshold", "0", "a whole number from 1 to 1000000"),
    ("storm_threshold", "2.5", "a whole number from 1 to 1000000"),
    ("storm_window_s", "0.5", "a number of seconds from 1 to 86400"),
    ("storm_window_s", "1e9", "a number of seconds from 1 to 86400"),
    ("ignore", ",", "function names or patterns such as 'train.eval_*', separated by commas"),
    ("log_level", "loud", "'debug' or 'info' or 'warning' or 'error' or 'critical'"),
]

#: Arguments of a type that no variable can have.
BAD_TYPES = [
    ("host", 1, "a non-empty string"),
    ("port", True, "a port number from 0 to 65535"),
    ("port", 80.0, "a port number from 0 to 65535"),
    ("event_log", 7, "a path"),
    ("event_log", b"/logs", "a path"),
    ("run", 7, "a non-empty string"),
    ("probes", 7, "probe names separated by commas, or 'all'"),
    ("storm_threshold", True, "a whole number from 1 to 1000000"),
    ("storm_threshold", 2.0, "a whole number from 1 to 1000000"),
    ("ignore", 7, "function names or patterns such as 'train.eval_*', separated by commas"),
    ("allowed_hosts", 7, HOSTS),
    ("probes", [], "probe names separated by commas, or 'all'"),
    ("detail", 1, "'full' or 'summary'"),
    ("strict", 2, "yes or no"),
    ("sample_interval_s", True, "a number of seconds from 0.1 to 3600"),
    ("sample_interval_s", [5], "a number of seconds from 0.1 to 3600"),
    pytest.param("sample_interval_s", 10**400, "a number of seconds from 0.1 to 3600", id="too-big-for-a-float"),
]


def variable(option: str) -> str:
    return f"JITWATCH_{option.upper()}"


def test_load_without_options_gives_the_defaults():
    """Nothing given: loopback, the documented port, all probes, full detail, no log and no secrets."""
    loaded = load({}, {"SLURM_JOB_ID": "7"})

    assert Config(run="7") == loaded
    assert ("127.0.0.1", 10431, None, ("all",), "full", False) == (
        loaded.host,
        loaded.port,
        loaded.event_log,
        loaded.probes,
        loaded.detail,
        loaded.strict,
    )


def test_config_is_frozen():
    """Options do not change while an agent runs with them."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(("option", "text", "argument", "expected"), GOOD)
def test_load_option_by_variable_and_by_argument(option, text, argument, expected):
    """Each option can be a variable or an argument, and both mean the same."""
    assert expected == getattr(load({}, {variable(option): text}), option)
    assert expected == getattr(load({option: argument}, {}), option)


def test_load_tls_files_by_variable_and_by_argument():
    """The files of TLS come as a set."""
    files = {"tls_cert": "/c.pem", "tls_key": "/k.pem", "tls_client_ca": "/ca.pem"}
    by_variable = load({}, {variable(name): path for name, path in files.items()})
    by_argument = load({name: Path(path) for name, path in files.items()}, {})

    assert files == {name: getattr(by_variable, name) for name in files}
    assert files == {name: getattr(by_argument, name) for name in files}


def test_every_option_is_tried_here():
    """A new option needs a line in these tests."""
    tried = {line[0] for line in GOOD} | {"tls_cert", "tls_key", "tls_client_ca", "token"}

    assert {field.name for field in dataclasses.fields(Config)} == tried


def test_load_path_with_tilde_is_expanded(monkeypatch):
    """`~` is the home folder, as in a shell."""
    monkeypatch.setenv("HOME", "/home/ada")

    assert "/home/ada/logs" == load({"event_log": "~/logs"}, {}).event_log


def test_load_argument_wins_over_variable():
    """What the code says explicitly beats the environment, for every option."""
    other = {
        "port": "1234",
        "strict": "yes",
        "redact": "no",
        "mark_donated": "yes",
        "detail": "full",
        "sample_interval_s": "77",
        "log_level": "error",
        "profile_compiles": "77",
    }
    other |= {"storm_threshold": "9", "storm_window_s": "77"}
    for option, _, argument, expected in GOOD:
        environ = {variable(option): other.get(option, "other")}
        assert expected == getattr(load({option: argument}, environ), option)


def test_load_argument_none_leaves_the_variable():
    """None means 'not given'."""
    assert 9000 == load({"port": None}, {"JITWATCH_PORT": "9000"}).port


@pytest.mark.parametrize(("option", "text", "expected"), BAD)
def test_load_bad_value_says_what_was_expected_and_where_it_came_from(option, text, expected):
    """The message names the variable or argument, what can be used, and what was found."""
    with pytest.raises(ConfigError) as by_variable:
        load({}, {variable(option): text})
    with pytest.raises(ConfigError) as by_argument:
        load({option: text}, {})

    assert f"{variable(option)}: expected {expected}, got {text!r}; correct or unset it" == str(by_variable.value)
    assert f"install({option}=…): expected {expected}, got {text!r}; correct or omit it" == str(by_argument.value)


@pytest.mark.parametrize(("option", "value", "expected"), BAD_TYPES)
def test_load_argument_of_wrong_type_says_what_was_expected(option, value, expected):
    """A value of the wrong type is a ConfigError too, never a bare TypeError or OverflowError."""
    with pytest.raises(ConfigError, match=re.escape(f"install({option}=…): expected {expected}")):
        load({option: value}, {})


def test_load_unknown_argument_lists_the_known_ones():
    """A misspelt argument is an error that helps."""
    with pytest.raises(ConfigError, match=r"install\(\) has no option 'prot'; known: .*port.*strict"):
        load({"prot": 1}, {})


def test_load_unknown_variable_warns_and_goes_on(caplog, monkeypatch):
    """A misspelt variable must not keep a job from starting, but is not swallowed either."""
    monkeypatch.setattr("jitwatch.config._logged", set())
    loaded = [load({"run": "x"}, {"JITWATCH_PROT": "9000"}) for _ in range(2)]

    assert 2 * [Config(run="x")] == loaded
    (record,) = caplog.records
    assert ("jitwatch", "WARNING") == (record.name, record.levelname)
    assert re.match(r"jitwatch: JITWATCH_PROT is unknown and ignored; known: .*JITWATCH_PORT", record.getMessage())


def test_load_unknown_variable_value_is_not_shown(caplog, monkeypatch):
    """It may be a misspelt secret."""
    monkeypatch.setattr("jitwatch.config._logged", set())
    load({}, {"JITWATCH_TOKN": TOKEN})

    assert "JITWATCH_TOKN" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("JITWATCH_PORT", "tcp://10.0.0.1:80"),
        ("JITWATCH_PORT", "udp://10.0.0.1:80"),
        ("JITWATCH_SERVICE_HOST", "10.0.0.1"),
        ("JITWATCH_SERVICE_PORT", "80"),
        ("JITWATCH_SERVICE_PORT_METRICS", "80"),
        ("JITWATCH_PORT_10431_TCP", "tcp://10.0.0.1:10431"),
        ("JITWATCH_PORT_10431_TCP_PROTO", "tcp"),
        ("JITWATCH_PORT_10431_TCP_PORT", "10431"),
        ("JITWATCH_PORT_10431_TCP_ADDR", "10.0.0.1"),
        ("JITWATCH_METRICS_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_load_kubernetes_variables_are_ignored_without_warning(name, text, caplog):
    """A service named jitwatch makes Kubernetes inject variables that look like those of jitwatch."""
    assert Config(run="x") == load({"run": "x"}, {name: text})
    assert "" == caplog.text


def test_load_foreign_variables_are_not_looked_at(caplog):
    """Only variables with the prefix `JITWATCH_` are read."""
    foreign = {"PORT": "1", "MY_JITWATCH_PORT": "2", "JITWATCHER": "3", "JITWATCH": "4"}

    assert Config(run="x") == load({"run": "x"}, foreign)
    assert "" == caplog.text


@pytest.mark.parametrize("text", ["1", "true", "YES", " on ", "2", "please"])
def test_is_disabled_by_any_other_text(text):
    """At 3 a.m. whatever one types shall switch it off."""
    assert is_disabled({"JITWATCH_DISABLE": text})


@pytest.mark.parametrize("environ", [{}, *({"JITWATCH_DISABLE": t} for t in ("", " ", "0", "False", "no", "OFF"))])
def test_is_disabled_not_by_a_no(environ):
    """Unset, empty and the words for no leave it on."""
    assert not is_disabled(environ)


def test_load_disable_switch_is_no_unknown_variable(caplog):
    """`JITWATCH_DISABLE` is a switch, not an option, and causes no warning."""
    load({}, {"JITWATCH_DISABLE": "0"})
    assert "" == caplog.text


def test_token_comes_from_the_environment_only():
    """As an argument it would end up in code and tracebacks; the refusal does not repeat it."""
    assert TOKEN == load({}, {"JITWATCH_TOKEN": f" {TOKEN}\n"}).token
    with pytest.raises(ConfigError, match="has no option 'token'") as caught:
        load({"token": TOKEN}, {})
    assert TOKEN not in str(caught.value)


def test_token_is_not_in_repr():
    """A config is printed in logs and tracebacks; its token is not."""
    loaded = load({"run": "x"}, {"JITWATCH_TOKEN": TOKEN})

    assert TOKEN not in f"{loaded!r} {loaded} {[loaded]} {loaded!a}"
    assert "token='***'" in repr(loaded)
    assert "token=None" in repr(Config())


@pytest.mark.parametrize("environ", [{"JITWATCH_TOKEN": "   "}, {"JITWATCH_TOKEN": "\n\t"}])
def test_token_of_blanks_is_refused_without_showing_it(environ):
    """An empty secret would protect nothing; the message hides even that."""
    with pytest.raises(ConfigError) as caught:
        load({}, environ)

    assert "JITWATCH_TOKEN: expected a non-empty string, got ***; correct or unset it" == str(caught.value)


def test_token_is_in_no_error_about_other_options():
    """An error about anything else, or about the pair, keeps the secret."""
    for options in ({"token_file": "/t"}, {"port": "x"}, {"tls_cert": "/c.pem"}, {"nope": 1}):
        with pytest.raises(ConfigError) as caught:
            load(options, {"JITWATCH_TOKEN": TOKEN})
        assert TOKEN not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls_cert": "/c.pem"}, "tls_key: expected a path, because tls_cert is set, got none; set both or neither"),
        ({"tls_key": "/k.pem"}, "tls_cert: expected a path, because tls_key is set, got none; set both or neither"),
        (
            {"tls_client_ca": "/ca.pem"},
            "tls_cert: expected a path, because tls_client_ca is set, got none; set tls_cert ",
        ),
    ],
)
def test_load_half_of_tls_is_refused(options, message):
    """Half a TLS setup would serve plain text or nothing."""
    with pytest.raises(ConfigError, match=message):
        load(options, {})


def test_load_token_twice_is_refused():
    """Two tokens leave open which one counts."""
    with pytest.raises(ConfigError, match="because JITWATCH_TOKEN is set, got a path; set only one of them"):
        load({"token_file": "/t"}, {"JITWATCH_TOKEN": TOKEN})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_JOB_ID": "4711"}, "4711"),
        ({"PBS_JOBID": "12.head.cluster"}, "12.head.cluster"),
        ({"LSB_JOBID": "9"}, "9"),
        ({"LSB_JOBID": "9", "LSB_JOBINDEX": "0"}, "9"),
        ({"LSB_JOBID": "9", "LSB_JOBINDEX": "4"}, "9-4"),
        ({"FLUX_JOB_ID": "ƒ2Zb"}, "ƒ2Zb"),
        ({"TORCHELASTIC_RUN_ID": "a b"}, "a-b"),
        ({"TORCHELASTIC_RUN_ID": "none", "RAY_JOB_ID": "r"}, "r"),
        ({"RAY_JOB_ID": "../../etc"}, "etc"),
        ({"RAY_JOB_ID": "r", "SLURM_JOB_ID": "s"}, "s"),
        ({"SLURM_JOB_ID": "", "RAY_JOB_ID": "r"}, "r"),
        ({"SLURM_JOB_ID": "s", "JITWATCH_RUN": "mine"}, "mine"),
    ],
)
def test_run_default_is_the_job_id_of_the_scheduler(environ, expected):
    """All processes of a job get the same name, which is safe in a file name; a given name wins."""
    assert expected == load({}, environ).run


def test_run_default_without_scheduler_is_time_host_and_process():
    """Outside of a scheduler two runs never share a name."""
    run = load({}, {}).run

    assert re.fullmatch(r"\d{8}-\d{6}-.+", run)
    assert run.endswith(f"-{os.getpid()}")
    assert re.sub(r"[^\w.-]+", "-", socket.gethostname()) in run


@pytest.mark.parametrize(("given", "expected"), [("///", "run"), ("..", "run"), ("x" * 500, "x" * 100)])
def test_run_name_is_usable_in_a_file_name(given, expected):
    """No separators, no dots alone, bounded."""
    assert expected == load({"run": given}, {}).run
