"""Options are declared once: what repeats a declaration, because people and tools read it there, agrees with it."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap

import pytest

import jitwatch
from jitwatch.cli.options import add_agent_options, agent_options
from jitwatch.config import OPTIONS, SWITCHES, Config, Option
from jitwatch.option_types import PATH, SWITCH
from tests.checkout import ROOT

ARGUMENTS = [option for option in OPTIONS.values() if option.is_argument]


def documented() -> dict[str, str]:
    """The entries under `Args:` of `install()`, each as one line, by the name of the argument."""
    entries = inspect.getdoc(jitwatch.install).partition("Args:\n")[2].partition("\n\n")[0]
    parts = re.split(r"^(\w+): ", textwrap.dedent(entries), flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def annotation_of(option: Option) -> str:
    """The type of an argument: that of the value, and what is converted to it."""
    if option.type is PATH:
        return "str | os.PathLike[str]"
    kept = Config.__annotations__[option.name].removesuffix(" | None")
    return "str | list[str] | tuple[str, ...]" if kept == "tuple[str, ...]" else kept


def test_defaults_are_valid_values():
    """Each default that is not None is what its own type would parse."""
    wrong = {
        o.name: o.default for o in OPTIONS.values() if o.default not in (None, ()) and o.parse(o.default) != o.default
    }
    assert {} == wrong, "jitwatch/config.py: these defaults are not what their type parses"


def test_signature_of_install_is_that_of_the_declarations():
    """Names, order and types, keyword-only, each None by default."""
    parameters = inspect.signature(jitwatch.install).parameters
    actual = {name: (str(one.annotation), one.default, one.kind) for name, one in parameters.items()}
    expected = {o.name: (f"{annotation_of(o)} | None", None, inspect.Parameter.KEYWORD_ONLY) for o in ARGUMENTS}

    differing = sorted(name for name in {*actual, *expected} if actual.get(name) != expected.get(name))
    assert [] == differing, (
        f"install() in jitwatch/agent.py differs from jitwatch/config.py in {differing}: edit it there"
    )
    assert list(expected) == list(actual), "install() in jitwatch/agent.py: expected the order of Config"


def test_docstring_of_install_is_that_of_the_declarations():
    """Each argument is described by the sentence and the default of its declaration."""
    actual, expected = documented(), {o.name: f"{o.summary}." for o in ARGUMENTS}

    differing = {name: expected.get(name) for name in {*actual, *expected} if actual.get(name) != expected.get(name)}
    assert {} == differing, "install() in jitwatch/agent.py: write these texts (None: no entry) under 'Args:'"


def test_variables_that_files_name_are_declared():
    """No page, example, rule, image or compose file of the project names a variable that does not exist."""
    known = {option.variable for option in OPTIONS.values()} | SWITCHES
    places = [ROOT.glob("*"), (ROOT / "docs").rglob("*"), (ROOT / "dashboards").rglob("*")]
    paths = [path for place in places for path in place if path.suffix in (".md", ".yml", ".sbatch")]
    named = {
        (name, str(path.relative_to(ROOT)))
        for path in paths
        if path.name != "CHANGELOG.md"
        for name in re.findall(r"\bJITWATCH_[A-Z_]*[A-Z]\b(?!_)", path.read_text(encoding="utf-8"))
    }

    assert {"JITWATCH_DISABLE", "JITWATCH_HOST", "JITWATCH_SD_DIR"} <= {name for name, _ in named}
    assert [] == sorted((name, path) for name, path in named if name not in known)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """A parser with the flags of the agent only."""
    parser = argparse.ArgumentParser()
    add_agent_options(parser)
    return parser


def test_flags_are_those_of_the_declarations(parser):
    """Each declared flag is there under the name of its option, and no other."""
    flags = {action.dest for action in parser._actions} - {"help"}  # argparse has no public list

    assert {"host", "port", "event_log", "run", "detail", "strict", "allowed_hosts"} == flags
    assert {option.name for option in OPTIONS.values() if option.is_flag} == flags


@pytest.mark.parametrize("option", [o for o in OPTIONS.values() if o.is_flag], ids=lambda option: option.name)
def test_flag_is_parsed_as_the_argument_is(parser, option):
    """A flag gives the value that `install()` would have made of the text, and nothing where it was not given."""
    flag = f"--{option.name.replace('_', '-')}"
    text = option.type.choices[-1] if option.type.choices else "7"
    given = [flag] if option.type is SWITCH else [flag, text]

    assert {option.name: option.parse("yes" if option.type is SWITCH else text)} == agent_options(
        parser.parse_args(given)
    )
    assert {} == agent_options(parser.parse_args([]))


def test_flag_with_an_invalid_value_is_refused_as_the_argument_is(parser, capsys):
    """The message names the flag, what was expected and what was given."""
    for arguments, message in (
        (["--port", "abc"], "argument --port: expected a port number from 0 to 65535, got 'abc'"),
        (["--detail", "much"], "argument --detail: expected 'full' or 'summary', got 'much'"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(arguments)
        assert message in capsys.readouterr().err


def test_config_has_each_option_as_a_typed_attribute():
    """What code reads: `config.port` is an int."""
    assert list(OPTIONS) == list(Config.__annotations__)
    assert (10431, "int") == (Config().port, Config.__annotations__["port"])
