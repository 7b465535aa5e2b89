"""The command `jitwatch diff`: programs, compiles and runs; formats, exit codes, messages."""

from __future__ import annotations

import gzip
import json
import os
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from jitwatch.cli import main
from tests.unit.hostile import harm_in
from tests.unit.logs import LOSS, compiled, ended, installed, lines, measured, recompiled, written
from tests.waiting import wait_until


def lowered(rate, **options) -> str:
    """The text of a small program."""

    def step(w, x):
        return w - rate * jnp.sin(x).sum()  # the line of the constant

    return jax.jit(step, **options).lower(jnp.ones(3), jnp.ones(5)).as_text(debug_info=True)


@pytest.fixture
def files(tmp_path):
    """Two programs that differ by a constant."""
    paths = []
    for name, rate in (("old.mlir", 0.001), ("new.mlir", 0.002)):
        (tmp_path / name).write_text(lowered(rate))
        paths.append(str(tmp_path / name))
    return paths


@pytest.fixture
def log(tmp_path):
    """A log with three compiles, and the folder of their programs."""
    folder = tmp_path / "run" / "hlo"
    folder.mkdir(parents=True)
    for number, text in enumerate((lowered(0.001), lowered(0.001), lowered(0.002, donate_argnums=0)), 1):
        (folder / f"train.step-{number:04}.mlir").write_text(text)
    events = [
        installed(hlo_dir=str(folder)),
        compiled(hlo="train.step-0001.mlir"),
        measured(),
        recompiled(nth=2, hlo="train.step-0002.mlir"),
        compiled(LOSS),
        recompiled(nth=3, hlo="train.step-0003.mlir", program="ab"),
        measured(temporaries=96 << 20),
        ended(),
    ]
    return written(tmp_path / "run" / "r1.jsonl", lines(*events))


def run(capsys, *arguments, code=0) -> str:
    """The output of the command on stdout."""
    assert code == main(["diff", *arguments])
    found = capsys.readouterr()
    assert "" == found.err
    return found.out


def has_measured(watch, number) -> bool:
    """Whether the memory of so many programs was reported."""
    return number == sum(one["event"] == "program.measured" for one in watch.events())


def refused(capsys, *arguments) -> str:
    """The output on stderr when the command exits with 2."""
    assert 2 == main(["diff", *arguments])
    found = capsys.readouterr()
    assert "" == found.out
    return found.err


# Two programs


def test_text_begins_with_the_difference_in_one_sentence(files, capsys):
    """The first differing operation of both programs follows, with its source line."""
    text = run(capsys, *files)

    assert text.startswith("The constant 0.001 changed to 0.002.\n")
    assert re.search(r"before +%cst\S* = stablehlo.constant dense<1.000000e-03> : tensor<f32>\n", text)
    assert re.search(r"now +%cst\S* = stablehlo.constant dense<2.000000e-03> : tensor<f32>\n", text)
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(source, 1) if "the line of the constant" in line)
    assert 2 == text.count(f"test_cli_diff.py:{number}, line ")
    # It is the only one: not listed again.
    assert "Only before" not in text


def test_equal_programs_end_with_zero(files, capsys):
    """With and without the option."""
    assert "The programs are equal.\n" == run(capsys, files[0], files[0]).split("\n\n")[0] + "\n"
    run(capsys, files[0], files[0], "--exit-code")


def test_exit_code_is_one_only_with_the_option(files, capsys):
    """As `report`, which fails only on what --fail-on names."""
    run(capsys, *files)
    run(capsys, *files, "--exit-code", code=1)
    run(capsys, *files, "--json", "--exit-code", code=1)


def test_json_has_the_documented_keys(files, capsys):
    """A script relies on them."""
    document = json.loads(run(capsys, *files, "--json"))

    assert [
        "diff", "jitwatch", "kind", "is_equal", "summary", "before", "now", "difference", "sentences", "values",
        "functions", "notes",
    ] == list(document)  # fmt: skip
    assert (1, "programs", False) == (document["diff"], document["kind"], document["is_equal"])
    assert {"name": files[0], "file": files[0], "compile": None} == document["before"]
    difference = document["difference"]
    assert [
        "is_equal", "changes", "left_out", "same", "old_total", "new_total", "before", "after", "only_before",
        "only_after",
    ] == list(difference)  # fmt: skip
    (change,) = difference["changes"]
    assert {"kind", "what", "before", "after", "count"} == set(change)
    assert {"text", "line", "function", "source"} == set(difference["before"])


def test_page_is_written_besides_the_text(files, tmp_path, capsys):
    """The page is self-contained: it has no script and loads nothing."""
    page = tmp_path / "d.html"
    text = run(capsys, *files, "--html", str(page))
    html = page.read_text()

    assert text.startswith("The constant 0.001 changed to 0.002.")
    assert "<h1>The constant 0.001 changed to 0.002.</h1>" in html
    assert "stablehlo.constant dense&lt;1.000000e-03&gt;" in html
    assert "<script" not in html
    assert "default-src 'none'" in html


def test_compressed_text_is_read(files, tmp_path, capsys):
    """Like logs, texts may be compressed with gzip."""
    path = tmp_path / "old.mlir.gz"
    path.write_bytes(gzip.compress((tmp_path / "old.mlir").read_bytes()))
    assert "The programs are equal." in run(capsys, str(path), files[0])


def test_hostile_program_harms_no_output(files, tmp_path, capsys):
    """A program may have any text in names and strings."""
    evil = 'module @m {\n  func.func public @main(%a: tensor<f32> {x = "<script>\x1b[31m\u202e"} loc("<b>\x07")) {\n'
    evil += '    %0 = stablehlo.custom_call @"<img>\x1b"(%a) {y = "</code><script>"} : tensor<f32> loc("\x1b":1:1)\n'
    path, page = tmp_path / "evil.mlir", tmp_path / "evil.html"
    path.write_text(evil)
    text = run(capsys, files[0], str(path), "--html", str(page))

    assert [] == harm_in(text)
    assert "<script" not in page.read_text()
    assert "<img" not in page.read_text()


# Two compiles of a function


def test_compiles_of_a_log_are_compared_by_their_files(log, capsys):
    """The folder is in the log; without a number, the last compile is used."""
    assert run(capsys, f"{log}:train.step#1", f"{log}:train.step#2").startswith("The programs are equal.\n")
    text = run(capsys, f"{log}:step#1", f"{log}:step")

    assert text.startswith("Argument w is donated now, and the constant 0.001 changed to 0.002.\n")
    assert "compile 1 of 3" in text
    assert "compile 3 of 3" in text


def test_values_of_the_log_are_beside_the_difference(log, capsys):
    """A measurement belongs to the compile before it; small differences are not marked."""
    values = json.loads(run(capsys, f"{log}:step#1", f"{log}:step#3", "--json"))["values"]
    by_name = {row["name"]: (row["before"], row["now"], row["differs"]) for row in values}

    assert (64 << 20, 96 << 20, True) == by_name["temporaries"]
    assert (8 << 20, 8 << 20, False) == by_name["arguments"]
    assert ("", "ab", True) == by_name["fingerprint"]
    assert (1.0, 1.0, False) == by_name["compile seconds"]
    unmeasured = json.loads(run(capsys, f"{log}:step#2", f"{log}:step#3", "--json"))["values"]
    assert None is {row["name"]: row["before"] for row in unmeasured}["temporaries"]


def test_folder_beside_the_log_is_found_after_both_moved(log, tmp_path, capsys):
    """The folder of the log and of the programs was copied to another machine."""
    os.rename(tmp_path / "run", tmp_path / "copy")
    moved = str(tmp_path / "copy" / "r1.jsonl")
    assert "The programs are equal." in run(capsys, f"{moved}:step#1", f"{moved}:step#2")
    assert "The programs are equal." in run(capsys, f"{tmp_path / 'copy'}:step#1", f"{moved}:step#2")


def test_other_folder_is_given_by_an_option(log, tmp_path, capsys):
    """If the option is needed, the text says so; without it, fields are compared."""
    os.rename(tmp_path / "run" / "hlo", tmp_path / "elsewhere")
    text = run(capsys, f"{log}:step#1", f"{log}:step#2")
    assert text.startswith("The logs do not show whether the programs are equal.\n")
    assert "name its folder with\n    --hlo-dir" in text or "name its folder with --hlo-dir" in text.replace(
        "\n    ", " "
    )
    run(capsys, f"{log}:step#1", f"{log}:step#2", "--exit-code", code=1)

    folder = str(tmp_path / "elsewhere")
    assert "The programs are equal." in run(capsys, f"{log}:step#1", f"{log}:step#2", "--hlo-dir", folder)


def test_compiles_without_files_are_compared_by_fingerprint(tmp_path, capsys):
    """Equal fingerprints mean equal programs; without fingerprints, different memory means different programs."""
    events = (compiled(program="aa"), recompiled(nth=2, program="aa"), recompiled(nth=3, program="bb"))
    log = written(tmp_path / "r.jsonl", lines(*events))
    assert run(capsys, f"{log}:step#1", f"{log}:step#2").startswith("The programs are equal.\n")
    assert run(capsys, f"{log}:step#1", f"{log}:step#3").startswith("The programs differ.\n")
    assert "has no program file" in run(capsys, f"{log}:step#1", f"{log}:step#3").replace("\n    ", " ")

    events = (compiled(), measured(), recompiled(nth=2), measured(arguments=9))
    log = written(tmp_path / "s.jsonl", lines(*events))
    assert run(capsys, f"{log}:step#1", f"{log}:step#2").startswith("The programs differ.\n")


def test_other_processes_of_the_run_are_mentioned(tmp_path, capsys):
    """The first process is shown."""
    for index in range(3):
        written(tmp_path / f"r-{index}.jsonl", lines(compiled(program="aa"), index=index))
    text = run(capsys, f"{tmp_path}:step", f"{tmp_path}:step").replace("\n    ", " ")
    assert "2 other processes of the run also compiled the function." in text


def test_log_cannot_name_a_file_elsewhere(tmp_path, capsys):
    """The content of a log is not trusted."""
    (tmp_path / "secret").write_text("module @m {\n}\n")
    (tmp_path / "hlo").mkdir()
    log = written(
        tmp_path / "r.jsonl",
        lines(installed(hlo_dir=str(tmp_path / "hlo")), compiled(hlo="../secret"), recompiled(nth=2, hlo="..")),
    )
    text = run(capsys, f"{log}:step#1", f"{log}:step#2").replace("\n    ", " ")
    assert 2 == text.count("has no program file")


def test_log_cannot_name_a_file_that_is_no_program(tmp_path, capsys):
    """Neither in a folder of its choice: the difference would show what is in it."""
    (tmp_path / "passwd").write_text("root:x:0:0\n")
    log = written(
        tmp_path / "r.jsonl",
        lines(installed(hlo_dir=str(tmp_path)), compiled(hlo="passwd"), recompiled(nth=2, hlo="passwd")),
    )
    text = run(capsys, f"{log}:step#1", f"{log}:step#2").replace("\n    ", " ")
    assert 2 == text.count("has no program file")
    assert "root:x" not in text


def test_label_with_a_colon_is_found(tmp_path, capsys):
    """A lambda has its line in its label."""
    from jitwatch.model.function import Function

    function = Function("train.<lambda>@train.py:88", "<lambda>", "/home/ada/train.py:88")
    log = written(
        tmp_path / "r.jsonl", lines(compiled(function, program="aa"), recompiled(2, function=function, program="aa"))
    )
    name = f"{log}:train.<lambda>@train.py:88"
    assert "The programs are equal." in run(capsys, f"{name}#1", name)


# Two runs


def test_runs_are_compared_by_function(tmp_path, capsys):
    """Functions that differ are listed, with memory, FLOPs and seconds."""
    loss = compiled(LOSS, program="cc")
    old = written(tmp_path / "old" / "a.jsonl", lines(compiled(program="aa"), measured(), loss, ended()))
    events = (compiled(program="bb"), measured(temporaries=1 << 30), loss, ended())
    new = written(tmp_path / "new" / "a.jsonl", lines(*events))
    text = run(capsys, old, os.path.dirname(new))

    assert text.startswith("The programs of 1 of 2 functions differ: train.step.\n")
    assert "- train.step needs 960 MiB more temporaries: 64 MiB → 1 GiB." in text
    assert "- train.step compiled different programs: 1 only now, 1 only before." in text
    assert run(capsys, old, old, "--exit-code").startswith("No difference in the programs of 2 functions.\n")
    run(capsys, old, new, "--exit-code", code=1)
    page = tmp_path / "d.html"
    document = json.loads(run(capsys, old, new, "--json", "--html", str(page)))
    assert ("runs", False) == (document["kind"], document["is_equal"])
    assert ["train.step"] == [row["function"] for row in document["functions"]]
    assert "train.step" in page.read_text()


def test_programs_of_runs_are_compared_by_their_files(log, files, tmp_path, capsys):
    """The last compile of each function is compared; a function without files is not reported as equal."""
    (tmp_path / "other").mkdir()
    os.rename(files[0], tmp_path / "other" / "x.mlir")
    events = (installed(hlo_dir=str(tmp_path / "other")), compiled(hlo="x.mlir"), measured(temporaries=96 << 20))
    other = written(tmp_path / "other" / "r0.jsonl", lines(*events))
    text = run(capsys, other, log).replace("\n    ", " ")

    assert text.startswith("The programs of 1 of 1 function differ: train.step.\n")
    expected = "train.step, last compile: argument w is donated now, and the constant 0.001 changed to 0.002."
    assert f"- {expected}" in text
    document = json.loads(run(capsys, other, log, "--json"))
    assert "donation" == document["functions"][0]["difference"]["changes"][0]["kind"]
    run(capsys, other, other, "--exit-code")
    # The log also has a function without a file.
    text = run(capsys, log, log, "--exit-code", code=1).replace("\n    ", " ")
    assert text.startswith(
        "No difference in memory and FLOPs, but the logs do not show whether the programs are equal."
    )
    assert "The programs of train.loss are not known" in text


def test_runs_without_a_common_function_are_not_equal(tmp_path, capsys):
    """Nothing was compared."""
    old = written(tmp_path / "a.jsonl", lines(compiled()))
    new = written(tmp_path / "b.jsonl", lines(compiled(LOSS)))
    assert "The runs have no function in common." in run(capsys, old, new)
    run(capsys, old, new, "--exit-code", code=1)


# Bad input


def test_missing_file_is_an_error_with_the_next_step(files, capsys, tmp_path):
    """The argument is neither a file nor LOG:FUNCTION."""
    assert "is not a file. Name a file with StableHLO text, an event log" in refused(
        capsys, str(tmp_path / "no"), files[0]
    )
    assert f"neither is '{tmp_path}/no'" in refused(capsys, f"{tmp_path}/no:step#1", files[0])


def test_program_and_run_are_not_compared(files, log, capsys):
    """The message says how to name a compile of the run."""
    found = refused(capsys, files[0], log)
    assert f"is one program, but {log!r} is a run" in found
    assert f"{log}:FUNCTION#1" in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"HloModule jit_f, entry_computation_layout={}\n", "has the HLO text of a compiled program"),
        (b"ML\xefR\x01StableHLO", "is MLIR bytecode"),
        (b"import jax\n", "has no StableHLO text"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (bytes(range(256)), "has no StableHLO text"),
    ],
)
def test_file_that_is_no_program_is_an_error(files, tmp_path, capsys, content, message):
    """Each message names the next step."""
    path = tmp_path / "x.mlir"
    path.write_bytes(content)
    found = refused(capsys, str(path), files[0])
    assert message in found
    assert re.search("write|use|check", found)


def test_device_and_fifo_are_not_opened(files, tmp_path, capsys):
    """Both could block."""
    os.mkfifo(tmp_path / "fifo")
    assert "is a FIFO" in refused(capsys, str(tmp_path / "fifo"), files[0])
    assert "is a device" in refused(capsys, "/dev/zero", files[0])


def test_unknown_function_and_number_are_errors_that_name_the_known(log, capsys):
    """The messages are those of `explain`."""
    assert "Did you mean train.step?" in refused(capsys, f"{log}:stepp", f"{log}:step")
    assert "has no compile #9" in refused(capsys, f"{log}:step#9", f"{log}:step")
    assert "it compiled 3 times" in refused(capsys, f"{log}:step#9", f"{log}:step")
    assert "matches train.step and train.loss" in refused(capsys, f"{log}:train.*", f"{log}:step")
    assert "name a function after the colon" in refused(capsys, f"{log}:#3", f"{log}:step")


def test_page_that_cannot_be_written_is_an_error(files, tmp_path, capsys):
    """Nothing is printed then."""
    assert "the page cannot be written to" in refused(capsys, *files, "--html", str(tmp_path / "no" / "d.html"))


# With an agent


def test_job_with_hlo_dir_can_be_compared(tmp_path, capsys):
    """The agent names the folder in the log, writes locations, and logs the memory of each program once."""
    rate = 0.001

    def step(x):
        return jnp.tanh(x) * rate

    log = str(tmp_path / "r.jsonl")
    with jitwatch.install(port=0, event_log=log, hlo_dir=str(tmp_path / "hlo"), sample_interval_s=0.1) as watch:
        function = jax.jit(step)
        for size in (3, 4):
            function(jnp.ones(size))
            wait_until(partial(has_measured, watch, size - 2), what="the memory of the program")
    text = run(capsys, f"{log}:step#1", f"{log}:step#2")

    assert text.startswith("Argument x changed from float32[3] to float32[4], ")
    assert "test_cli_diff.py:" in text
    values = json.loads(run(capsys, f"{log}:step#1", f"{log}:step#2", "--json"))["values"]
    assert (12, 16) == next((row["before"], row["now"]) for row in values if row["name"] == "arguments")
