"""The command line itself: arguments, help texts, exit codes, and the text of the summary."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

import pytest

import jitwatch
from jitwatch import cli
from jitwatch.cli import run
from jitwatch.cli.options import agent_options
from jitwatch.render import summary

COMMANDS = ("run", "demo", "top", "doctor")
AGENT_OPTIONS = ("--host", "--port", "--event-log", "--run", "--detail")


def state(**totals: Any) -> dict[str, Any]:
    """A snapshot of a minute with nothing in it but these totals."""
    none = {
        "compiles": 0,
        "recompiles": 0,
        "failures": 0,
        "compile_seconds": 0.0,
        "lost_seconds": 0.0,
        "jax_compiles": 0,
        "busy_ratio": 0.0,
    }
    return {
        "totals": {**none, **totals},
        "uptime_seconds": 60.0,
        "persistent_cache": {"hits": 0, "misses": 0, "unwritten": {}},
        "functions": [],
        "call_sites": [],
        "pitfalls": [],
    }


def function(name: str, **fields: Any) -> dict[str, Any]:
    """A function of a snapshot that compiled once."""
    return {
        "function": name,
        "location": f"/home/user/{name}.py:7",
        "compiles": 1,
        "recompiles": 0,
        "failures": 0,
        "seconds": 1.5,
        "lost_seconds": 0.0,
        "lost_ratio": 0.0,
        "causes": {},
        **fields,
    }


def run_parser() -> argparse.ArgumentParser:
    """The parser of `jitwatch run`."""
    parsers = argparse.ArgumentParser().add_subparsers()
    run.add_to(parsers)
    return parsers.choices["run"]


class TestMain:
    """Exit codes and texts of the command itself."""

    def test_main_without_a_command_shows_the_help_and_returns_2(self, capsys):
        """As other commands with commands do."""
        assert 2 == cli.main([])
        text = capsys.readouterr().out
        assert [] == [command for command in COMMANDS if f"jitwatch {command}" not in text]

    def test_main_shows_the_version(self, capsys):
        """On stdout, with exit code 0."""
        with pytest.raises(SystemExit) as caught:
            cli.main(["--version"])

        assert 0 == caught.value.code
        assert f"jitwatch {jitwatch.__version__}\n" == capsys.readouterr().out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_main_has_help_for_each_command(self, capsys, command):
        """The usage begins with the command as it is typed."""
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--help"])
        text = capsys.readouterr().out

        assert 0 == caught.value.code
        assert text.startswith(f"usage: jitwatch {command} ")
        assert (command in ("run", "demo")) == all(option in text for option in AGENT_OPTIONS)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["walk"], "walk"),
            (["doctor", "--jsno"], "--jsno"),
            (["top", "--interval", "0.1"], "expected seconds from 0.2 to 3600, got 0.1"),
            (["top", "--interval", "nan"], "expected seconds from 0.2 to 3600, got nan"),
            (["top", "--interval", "soon"], "expected seconds from 0.2 to 3600, got soon"),
            (["run"], "expected a script: its path"),
            (["run", "--quiet"], "expected a script: its path"),
            (["run", "--"], "expected a script: its path"),
            (["run", "-m"], "expected a script: its path"),
            (["run", "--port"], "--port: expected one argument"),
            (["run", "--detail", "much", "train.py"], "--detail"),
            (["run", "--qui", "train.py"], "--qui"),
            (["demo", "--steps", "0"], "expected at least 1 step, got 0"),
            (["demo", "--steps", "2.5"], "expected at least 1 step, got 2.5"),
            (["demo", "--seconds", "0"], "expected seconds above 0 and up to a day, got 0"),
            (["demo", "--seconds", "nan"], "expected seconds above 0 and up to a day, got nan"),
            (["demo", "--seconds", "soon"], "expected seconds above 0 and up to a day, got soon"),
        ],
    )
    def test_main_refuses_bad_arguments_with_2(self, capsys, arguments, reason):
        """The message says which, on stderr."""
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        output = capsys.readouterr()

        assert (2, "") == (caught.value.code, output.out)
        assert reason in output.err

    def test_main_returns_1_for_an_error_of_ours(self, capsys, monkeypatch):
        """One line that says what to do, and no traceback."""
        monkeypatch.setenv("JITWATCH_PORT", "abc")
        assert 1 == cli.main(["demo", "--steps", "1"])
        expected = "jitwatch: JITWATCH_PORT: expected a port number from 0 to 65535, got 'abc'; correct or unset it\n"
        assert expected == capsys.readouterr().err

    def test_main_returns_130_for_a_ctrl_c_and_nothing_else(self, capsys, monkeypatch):
        """Of commands that do not note it themselves; a script's own goes on to its traceback."""

        def interrupted(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(jitwatch, "install", interrupted)
        monkeypatch.setattr(run, "prepared", interrupted)
        handler = signal.getsignal(signal.SIGINT)

        assert 130 == cli.main(["demo"])
        assert ("", "") == capsys.readouterr()
        assert handler is signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            cli.main(["run", "job.py"])

    @pytest.mark.parametrize("command", ["demo", "run"])
    def test_main_refuses_a_bad_option(self, capsys, command):
        """Before anything starts, by the name that was typed."""
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--port", "abc", "there/is/no.py"])
        assert 2 == caught.value.code
        assert "error: argument --port: expected a port number from 0 to 65535, got 'abc'\n" in capsys.readouterr().err

    def test_main_starts_no_demo_that_is_disabled(self, capsys, monkeypatch):
        """It would show nothing."""
        monkeypatch.setenv("JITWATCH_DISABLE", "1")

        assert 1 == cli.main(["demo"])
        assert "unset it for the demo" in capsys.readouterr().err

    def test_main_returns_2_for_a_script_that_is_not_there(self, capsys, tmp_path):
        """And leaves the interpreter as it was."""
        before = list(sys.path), list(sys.argv), sys.modules["__main__"]

        assert 2 == cli.main(["run", str(tmp_path / "nope.py")])
        assert before == (list(sys.path), list(sys.argv), sys.modules["__main__"])
        assert (
            f"jitwatch: can't open file {str(tmp_path / 'nope.py')!r}: [Errno 2] No such file or directory\n"
            == capsys.readouterr().err
        )


class TestSplit:
    """Where our own options end and the job begins."""

    @pytest.mark.parametrize(
        ("arguments", "own", "job"),
        [
            ([], [], []),
            (["train.py", "--port", "1"], [], ["train.py", "--port", "1"]),
            (["--port", "0", "train.py", "--lr", "1"], ["--port", "0"], ["train.py", "--lr", "1"]),
            (["--port=0", "train.py"], ["--port=0"], ["train.py"]),
            (["--quiet", "--strict", "train.py"], ["--quiet", "--strict"], ["train.py"]),
            (["-m", "train", "--lr", "1"], [], ["-m", "train", "--lr", "1"]),
            (["--run", "-m", "-m", "train"], ["--run", "-m"], ["-m", "train"]),
            (["-mtrain", "a"], [], ["-mtrain", "a"]),
            (["--quiet", "--", "--odd.py", "--"], ["--quiet"], ["--odd.py", "--"]),
            (["train.py", "--", "a"], [], ["train.py", "--", "a"]),
            (["-h"], ["-h"], []),
            (["--port"], ["--port"], []),
        ],
    )
    def test_split_parts_options_from_the_job(self, arguments, own, job):
        """Nothing behind the script or the module is ours."""
        assert (own, job) == run.split(arguments)

    def test_split_knows_every_option_without_a_value(self):
        """An option added to the parser alone would swallow the script's name."""
        parser = run_parser()
        flags = {
            option for action in parser._actions if action.nargs == 0 for option in action.option_strings
        }  # argparse has no public list

        assert run._SWITCHES == flags


class TestOptions:
    """The command line's options are those of `install()`."""

    def test_agent_options_are_those_that_were_given(self):
        """Variables decide about the others."""
        options = run_parser().parse_args(["--port", "0", "--run", "r", "--event-log", "x/", "--strict"])

        assert {"port": 0, "run": "r", "event_log": "x/", "strict": True} == agent_options(options)

    def test_agent_options_are_none_by_default(self):
        """`--quiet` is no option of the agent."""
        assert {} == agent_options(run_parser().parse_args(["--quiet"]))


class TestSummary:
    """The text that `run` and `demo` end with."""

    @pytest.mark.parametrize(
        ("totals", "expected"),
        [
            (
                {},
                "0 compiles (0 recompiles) took 0.0 s; compiling took 0 % of 60.0 s, including 0 programs of JAX's own",
            ),
            (
                {"compiles": 1, "recompiles": 1, "compile_seconds": 2.25, "busy_ratio": 0.25, "jax_compiles": 3},
                "1 compile (1 recompile) took 2.2 s; compiling took 25 % of 60.0 s, including 3 programs of JAX's own",
            ),
            (
                {"compiles": 12, "failures": 2, "compile_seconds": 900.0, "busy_ratio": 1.0},
                "12 compiles (0 recompiles, 2 failed) took 15.0 min; compiling took "
                "100 % of 60.0 s, including 0 programs of JAX's own",
            ),
        ],
    )
    def test_one_line_counts_and_adds_up(self, totals, expected):
        """Singular and plural, seconds and minutes, failures only where there are any."""
        assert expected == summary.one_line(state(**totals))

    def test_text_without_functions_is_the_one_line(self):
        """No head of an empty table."""
        assert summary.one_line(state()) == summary.text(state())

    def test_text_has_a_row_for_each_of_the_costliest_functions(self):
        """Eight of them, with the file's name; those that never compiled are left out."""
        functions = [function("train"), function("other", location=None, failures=2)]
        functions += [function("idle", compiles=0)] + [function(f"f{number}") for number in range(8)]

        lines = summary.text(state(compiles=10) | {"functions": functions}).splitlines()

        assert summary.one_line(state(compiles=10)) == lines[0]
        assert "  seconds  compiles  recompiles     lost    of run  function" == lines[2]
        assert "     1.50         1           0        -         -  train (train.py:7)" == lines[3]
        assert "     1.50         1           0        -         -  other: 2 failed" == lines[4]
        assert (8, "and 2 more functions") == (len(lines[3:-1]), lines[-1])
        assert not any("idle" in line for line in lines)


def test_unknown_option_of_run_is_named_and_not_the_script(capsys):
    """The message blames the option, and says where the script's own go."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "--bogus=1", "train.py"])
    assert 2 == stopped.value.code
    text = capsys.readouterr().err
    assert "jitwatch run has no option --bogus=1; options of the script follow its path" in text
    assert "train.py" not in text
