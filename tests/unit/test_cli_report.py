"""The command `jitwatch report`: formats, exit codes, messages."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from jitwatch.cli import main, report
from jitwatch.model.function import Function
from jitwatch.system import files
from tests.unit.hostile import harm_in
from tests.unit.logs import compiled, ended, lines, pitfall, recompiled, written


@pytest.fixture
def log(tmp_path):
    return written(tmp_path / "now" / "a.jsonl", lines(compiled(), recompiled(), pitfall(), ended(100.0)))


@pytest.fixture
def old(tmp_path):
    return written(tmp_path / "old" / "a.jsonl", lines(compiled(), ended(100.0), run="r0"))


def test_report_writes_text(log, capsys):
    """To the standard output, and nothing to the other."""
    assert 0 == main(["report", log])
    found = capsys.readouterr()

    assert found.out.startswith("1 recompile: 2.00 s lost, 2 % of the run, the most in step; 1 pitfall.\n")
    assert "" == found.err


def test_report_writes_json(log, old, capsys):
    """One object; a comparison is one more key of it."""
    assert 0 == main(["report", log, "--format", "json"])
    alone = json.loads(capsys.readouterr().out)
    assert 0 == main(["report", log, "--format", "json", "--against", old])
    compared = json.loads(capsys.readouterr().out)

    assert 1 == alone["report"] == alone["totals"]["recompiles"]
    assert alone == {name: value for name, value in compared.items() if name != "comparison"}
    assert 1 == compared["comparison"]["more_recompiles"]


def test_report_json_has_the_documented_keys(log, capsys):
    """A script relies on them."""
    main(["report", log, "--format", "json"])
    document = json.loads(capsys.readouterr().out)

    assert [
        "report",
        "jitwatch",
        "runs",
        "started",
        "ended",
        "versions",
        "wall_seconds",
        "process_seconds",
        "totals",
        "functions",
        "functions_left_out",
        "call_sites",
        "call_sites_left_out",
        "pitfalls",
        "persistent_cache",
        "programs",
        "donation_violations",
        "steady_violations",
        "failures",
        "memory",
        "processes",
        "processes_left_out",
        "first_divergence",
        "odd_processes",
        "jax_own",
        "probes_failed",
        "log",
    ] == list(document)
    assert {
        "compiles",
        "recompiles",
        "failures",
        "compile_seconds",
        "lost_seconds",
        "lost_ratio",
        "lost_steps",
        "storms",
        "steady_violations",
        "pitfalls",
        "donation_violations",
        "out_of_memory",
        "leaks",
        "pressure",
        "jax_compiles",
        "jax_compile_seconds",
        "busy_seconds",
        "busy_ratio",
        "processes",
        "missing_events",
        "persistent_cache_hits",
        "persistent_cache_misses",
        "phases",
    } == set(document["totals"])


def test_report_writes_html_to_a_file(log, tmp_path, capsys):
    """And nothing to the standard output."""
    page = tmp_path / "page.html"

    assert 0 == main(["report", log, "--format", "html", "--output", str(page)])
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert ("", "") == capsys.readouterr()


def test_report_takes_folders_and_several_logs(log, old, tmp_path, capsys):
    """All of them together."""
    assert 0 == main(["report", str(tmp_path / "now"), old, "--format", "json"])

    assert ["r1", "r0"] == json.loads(capsys.readouterr().out)["runs"]


def test_report_compares(log, old, capsys):
    """The verdict is the first line, in both directions."""
    assert 0 == main(["report", log, "--against", old])
    worse = capsys.readouterr().out
    assert 0 == main(["report", old, "--against", log])
    better = capsys.readouterr().out

    assert "Worse than r0: 1 more recompile, 2.00 s more lost, 1 new pitfall." == worse.splitlines()[0]
    assert "Better than r1: 1 fewer recompile, 2.00 s less lost, 1 gone pitfall." == better.splitlines()[0]


def test_report_fails_on_a_condition(log, old, capsys):
    """Any that holds; each is named with its value, after the report."""
    conditions = ["--fail-on", "recompiles > 0", "--fail-on", "oom > 0", "--fail-on", "step:compiles >= 2"]

    assert 1 == main(["report", log, *conditions])
    found = capsys.readouterr()
    assert found.out.startswith("1 recompile: ")
    assert [
        "jitwatch: condition 'recompiles > 0' is met: the value is 1",
        "jitwatch: condition 'step:compiles >= 2' is met: 2 in train.step",
    ] == found.err.splitlines()
    assert 0 == main(["report", old, *conditions])
    assert 1 == main(["report", log, "--against", old, "--fail-on", "more_recompiles > 0"])


def test_report_says_that_a_condition_is_about_nobody(log, capsys):
    """A function that was renamed must not pass in silence; that it never compiled may be just what is asked."""
    assert 2 == main(["report", log, "--fail-on", "train.stepp:recompiles > 2"])

    assert (
        "jitwatch: --fail-on 'train.stepp:recompiles > 2' matches no function. No function named 'train.stepp' "
        "has been jitted or compiled in these logs. Did you mean train.step? Known: train.step.\n"
        == capsys.readouterr().err
    )
    assert 1 == main(["report", log, "--fail-on", "train.stepp:compiles == 0"])
    assert "condition 'train.stepp:compiles == 0' is met: 0 in train.stepp\n" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_report_writes_through_nothing_that_somebody_planted(log, tmp_path, capsys, monkeypatch, kind):
    """In a folder where everybody writes: a foreign link is an error, another name of a file loses that name."""
    victim, page = tmp_path / "victim", tmp_path / "page.html"
    victim.write_text("precious")
    page.symlink_to(victim) if kind == "symlink" else page.hardlink_to(victim)
    monkeypatch.setattr(files, "is_trusted", lambda uid: False)

    code = main(["report", log, "--output", str(page)])

    assert ("precious", 2 if kind == "symlink" else 0) == (victim.read_text(), code)
    if kind == "symlink":
        assert "cannot be written to " in capsys.readouterr().err


def test_report_that_cannot_be_written_leaves_what_was_there(log, tmp_path, capsys):
    """A full disk does not cost the report of yesterday, and is an error."""
    assert 2 == main(["report", log, "--output", "/dev/full"])
    assert "(No space left on device)" in capsys.readouterr().err
    page = tmp_path / "page.html"
    page.write_text("yesterday")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert 2 == main(["report", log, "--output", str(page)])
    assert "yesterday" == page.read_text()
    assert 0 == main(["report", log, "--output", str(page)])
    assert "yesterday" != page.read_text()


def test_report_takes_a_script_for_its_module(tmp_path, capsys):
    """What a script defines is called `__main__.step`; a condition may call it by the script's name."""
    function = Function("__main__.step", "step", "/home/ada/train.py:10")
    path = str(written(tmp_path / "a.jsonl", lines(compiled(function), ended())))

    for name in ("train.step", "train.*", "step", "__main__.step"):
        assert 1 == main(["report", path, "--fail-on", f"{name}:compiles > 0"]), name
    assert 2 == main(["report", path, "--fail-on", "eval.*:compiles > 0"])


def test_report_refuses_a_bad_condition_before_it_reads(capsys):
    """With the names that there are, and 2 as for every wrong option."""
    with pytest.raises(SystemExit) as caught:
        main(["report", "/there/is/no/log", "--fail-on", "recompiles >> 0"])

    assert 2 == caught.value.code
    assert "error: argument --fail-on: invalid condition 'recompiles >> 0'" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--fail-on", "recompiles > 0"]], ids=["plain", "with a condition"])
def test_report_of_a_log_that_cannot_be_read(tmp_path, options, capsys):
    """One line, and 2: not what a condition that holds returns."""
    assert 2 == main(["report", str(tmp_path / "a.jsonl"), *options])
    found = capsys.readouterr()

    assert "" == found.out
    assert found.err.startswith("jitwatch: the event log ")
    assert 1 == found.err.count("\n")


def test_report_that_cannot_be_written(log, tmp_path, capsys):
    """Says where to write instead."""
    assert 2 == main(["report", log, "--output", str(tmp_path / "missing" / "page.html")])

    assert "cannot be written to" in capsys.readouterr().err


class Terminal(io.StringIO):
    """A standard error that is looked at."""

    def isatty(self) -> bool:
        return True


def shown_by(monkeypatch, stream, seconds: list[float]) -> str:
    """What the bar shows when it is asked at these seconds after its start, a megabyte further each time."""
    monkeypatch.setattr(sys, "stderr", stream)
    times = [0.0]
    bar = report._ProgressBar(10_000_000, clock=lambda: times[-1])
    for number, second in enumerate(seconds):
        times.append(second)
        bar(number * 1_000_000)
    bar.end()
    return stream.getvalue()


def test_report_shows_progress_after_a_second(monkeypatch):
    """On one line, not too often, and the line is empty again at the end."""
    drawn = shown_by(monkeypatch, Terminal(), [0.5, 2.0, 2.1, 3.0])

    assert (
        "\r[###                           ] 1 of 10 MB\r[#########                     ] 3 of 10 MB"
        f"\r{'':<72}\r" == drawn
    )


def test_report_shows_no_progress_of_a_short_log(monkeypatch):
    """It would only flicker."""
    assert "" == shown_by(monkeypatch, Terminal(), [0.5, 0.9])


def test_report_shows_no_progress_to_a_file(monkeypatch):
    """Nobody looks."""
    assert "" == shown_by(monkeypatch, io.StringIO(), [0.5, 2.0])


@pytest.mark.parametrize("form", ["text", "html", "json"])
def test_report_of_files_with_hostile_names(tmp_path, form, capsysbinary):
    """Names of logs and folders are shown cleaned, in the report and in what is said of files that cannot be read."""
    folder = tmp_path / "a\x1b[2J\n\u202e"
    written(folder / "x\x1b]0;t\x07\u2066\udc9b.jsonl", [*lines(recompiled()), b"no\n"])
    os.mkfifo(folder / "y\x9b\u200b.jsonl")
    written(folder / "z\u2028\x1b[31m.jsonl.gz", [b"\x1f\x8b\x08damaged"])

    assert 1 == main(
        ["report", str(folder), "--format", form, "--fail-on", "\u202a*:compiles == 0", "--fail-on", "leaks == 0"]
    )
    for name in ("no\x1b[2J.jsonl", "y\x9b\u200b.jsonl"):
        assert 2 == main(["report", str(folder / name)])
    out, err = (stream.decode() for stream in capsysbinary.readouterr())
    assert [] == harm_in(out) + harm_in(err)
    assert "x?]0;t" in out
