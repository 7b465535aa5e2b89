"""The report for a terminal."""

from __future__ import annotations

import re

from jitwatch.model.events import StormStarted
from jitwatch.model.function import Function
from jitwatch.report import compare, html, sentences, terminal
from tests.unit.logs import (
    ADD,
    LOSS,
    STEP,
    compiled,
    document_of,
    ended,
    exhausted,
    failed,
    installed,
    leaking,
    lines,
    measured_buffers,
    misfit,
    pitfall,
    pressed,
    read,
    recompiled,
    unsteady,
    used_after,
    written,
)


def rendered(tmp_path, *events) -> str:
    return terminal.render(document_of(tmp_path, *events))


def section(report: str, title: str) -> str:
    """What stands below a heading, in one line."""
    found = re.search(rf"^{title}:\n(.*?)(?:\n\n|\Z)", report, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def test_text_begins_with_the_verdict(tmp_path):
    """What was lost, by whom, what else went wrong; then which run that was."""
    first, second, third, *_ = rendered(
        tmp_path, installed(), compiled(), recompiled(), recompiled(5), pitfall(), failed(), ended(100.0)
    ).splitlines()

    assert "2 recompiles: 4.00 s lost, 4 % of the run, the most in step; 1 failed compile, 1 pitfall." == first
    assert "Run r1: 1.7 min, from 2025-03-01 12:00:01 to 2025-03-01 12:00:07 UTC, JAX 0.10, Python 3.11." == (
        f"{second} {third.strip()}" if second.endswith("JAX") else second
    )


def test_text_of_a_run_without_recompiles(tmp_path):
    """That is the verdict."""
    assert "No function recompiled." == rendered(tmp_path, compiled(), ended()).splitlines()[0]
    assert "No function compiled." == rendered(tmp_path, installed(), ended()).splitlines()[0]
    assert (
        "1 recompile, no time lost: planned, or a first use under grad, vmap or another transformation."
        == (rendered(tmp_path, compiled(), recompiled(expected="warm-up"), ended()).splitlines()[0])
    )


def test_text_has_the_table_and_the_advice_of_the_summary(tmp_path):
    """The same words as `jitwatch run` has at its end."""
    churn = recompiled(pitfall="shape_churn")
    report = rendered(tmp_path, compiled(), churn, recompiled(line=7), pitfall(), ended(100.0))

    assert "  seconds  compiles  recompiles     lost    of run  function" in report
    assert "     5.75         3           2     4.00       4 %  train.step (train.py:10): 2 shape" in report
    assert (
        "shape_churn in step (train.py:10) at train.py:88: batch had 9 sizes in 10 compiles. 1 recompile: 2.00 s "
        "lost, 2 % of the run. Pad it to 8. step recompiled at train.py:7: batch int32[8] → int32[6]. 2.00 s lost. "
        "If that is the last batch of an epoch, drop the remainder or pad it to 8." == section(report, "Advice")
    )


def test_text_has_phases_and_compiles_of_jax(tmp_path):
    """Where the time went, and what JAX compiled for itself."""
    report = rendered(tmp_path, compiled(), recompiled(), compiled(ADD), compiled(ADD, nth=2))

    assert "By phase: trace 0.50 s, lower 1.25 s, compile 2.00 s.\n" in report
    assert "JAX's own compiles: 3.50 s, most often add (2 times).\n" in report
    assert "By phase" not in rendered(tmp_path, ended())


def test_text_has_caches(tmp_path):
    """Where a function keeps many programs."""
    assert "Jit caches: 40 entries, most in train.step (40)." in rendered(tmp_path, recompiled(cache_entries=40))


def test_text_has_donations(tmp_path):
    """Which call donated, where it was used, how often; each kind in its own words."""
    report = rendered(
        tmp_path,
        used_after(),
        used_after(),
        used_after(violation="double_donation", leaf="target"),
        used_after(violation="unusable", leaf="batch"),
        used_after(donated_by="unknown", donated_at=None, leaf="x"),
    )
    told = section(report, "Donation violations")

    assert (
        "state['w'] (float32[64,64]) was used at train.py:90 after it was donated to step at train.py:88; "
        "2 times." in told
    )
    assert (
        "The buffer of target (float32[64,64]) was passed twice to a call of step at train.py:90 that donates it; once."
        in told
    )
    assert (
        "was donated to step at train.py:90, which has no result that could reuse its buffer; 16 KiB are not reused"
        in told
    )
    assert "x (float32[64,64]) was used at train.py:90 after it was donated to an unknown call; once." in told


def test_text_has_memory(tmp_path):
    """Shortages with what was largest, leaks, pressure."""
    told = section(rendered(tmp_path, exhausted(), leaking(), pressed()), "Memory")

    assert (
        "Out of memory in train.step at train.py:88: RESOURCE_EXHAUSTED: Out of memory allocating 4 GiB. Largest "
        "arrays: 3 × float32[1024,1024], 3 GiB together. Largest programs: train.step 4 GiB. Once. Memory leak: "
        "Host memory grows by 1 MB a second. Once. gpu:0 was nearly full, 95 % of 100 GiB; once." == told
    )


def test_text_shows_what_the_program_that_ran_out_of_memory_needs(tmp_path):
    program = {"function": "train.step", "total_bytes": 2**32, "temporary_bytes": 2**32, "argument_bytes": 2**20}
    told = section(rendered(tmp_path, exhausted(executables=(program,))), "Memory")
    assert "Its program needs 4 GiB for temporaries and 1 MiB for arguments; process it in parts" in told
    odd = program | {"temporary_bytes": "x"}
    assert "temporaries" not in section(rendered(tmp_path, exhausted(executables=(odd,))), "Memory")


def test_text_has_programs_that_will_not_fit(tmp_path):
    """Once for each function and device, with the largest buffers; none of them is a device that was nearly full."""
    told = section(rendered(tmp_path, misfit(), misfit(), misfit(function="train.loss")), "Memory")

    assert (
        "Will not fit: train.step needs 30 GiB more, but gpu:0 has 20 GiB of 80 GiB left. Its largest buffers are "
        "1 GiB f32[16384,16384] dot_general at model.py:8 and 512 MiB f32[8192,16384] argument state['w']. Donate "
        "arguments that are not used again, use a smaller batch, or use jax.checkpoint. 2 times." in told
    )
    assert "Will not fit: train.loss" in told
    assert "nearly full" not in told


def test_text_has_what_the_largest_programs_need(tmp_path):
    """Those of 64 MiB and more, the largest first; of each function the largest."""
    small = measured_buffers(peak=63 * 2**20, function=LOSS)
    events = (compiled(), measured_buffers(), measured_buffers(peak=2**20, temporaries=0), compiled(LOSS), small)
    document = document_of(tmp_path, *events)
    told = section(terminal.render(document), "Memory")

    assert (
        "step needs 2 GiB at its peak: 1 GiB f32[16384,16384] dot_general at model.py:8 and 512 MiB f32[8192,16384] "
        "argument state['w']." == told
    )
    row = next(row for row in document["functions"] if row["function"] == STEP.label)
    assert (2**31, list(measured_buffers().peak_buffers)) == (
        row["executable"]["peak_bytes"],
        row["executable"]["peak_buffers"],
    )
    assert "dot_general at model.py:8" in html.render(document)


def test_text_of_a_shortage_has_the_largest_buffers(tmp_path):
    """Those of the error, or else those of the function's program."""
    buffers = measured_buffers().peak_buffers
    said = exhausted(peak_buffers=buffers[:1], allocation_bytes=2**30)
    program = {"function": "train.step", "total_bytes": 2**32, "peak_bytes": 2**31, "peak_buffers": list(buffers)}

    assert "Its largest buffers are 1 GiB f32[16384,16384] dot_general at model.py:8. Largest arrays" in section(
        rendered(tmp_path, said), "Memory"
    )
    assert "Its program needs 2 GiB at its peak: 1 GiB f32[16384,16384] dot_general at model.py:8 and" in section(
        rendered(tmp_path, exhausted(executables=(program,))), "Memory"
    )
    (row,) = document_of(tmp_path, said)["memory"]["out_of_memory"]
    assert (2**30, [buffers[0]]) == (row["allocation_bytes"], row["peak_buffers"])


def test_text_has_failures_and_steady_state_violations(tmp_path):
    """Where, why, how often, what it cost."""
    report = rendered(tmp_path, failed(), unsteady(), unsteady())

    assert (
        "loss did not compile at train.py:91: TypeError in trace (add got incompatible shapes); once, 0.50 s spent."
        == section(report, "Failed compiles")
    )
    assert (
        "step compiled at train.py:88 in the steady state (batch int32[8] → int32[6]); 2 times, 4.00 s spent."
        == section(report, "Steady-state violations")
    )


def test_text_has_storms(tmp_path):
    """Functions that recompiled again and again, and whether they still do."""
    report = rendered(tmp_path, recompiled(), StormStarted(function=STEP, recompiles=20, within_s=60.0))

    assert "train.step: 1 recompile storm; the last one had not ended when the log ended." == section(report, "Storms")


def test_text_names_odd_and_open_processes(tmp_path):
    """Which compiled more, of which function, and which have no end."""
    for index in range(3):
        more = [compiled(Function("train.odd", "odd"))] * (2 * (index == 1))
        end = [] if index == 2 else [ended()]
        written(tmp_path / f"e.p{index}.jsonl", lines(installed(), compiled(), *more, *end, index=index))
    report = terminal.render(read(tmp_path))

    assert (
        "Process 1 compiled 3 times, compared with 1 for the median process of its run; difference by function: "
        "train.odd +2. Killed or still running (the log has no end): process 2." == section(report, "Processes")
    )
    assert "3 processes, 1.7 min at most, 3.4 min together" in " ".join(report.split())


def test_text_names_a_process_without_an_index_by_its_log(tmp_path):
    """There is nothing else."""
    document = document_of(tmp_path, compiled())

    assert ["Killed or still running (the log has no end): the process of events.jsonl."] == (
        sentences.processes(document)
    )


def test_text_fits_into_its_columns(tmp_path):
    """A hundred, also where names are long; a long name keeps its end."""
    long = Function(f"{'package.' * 12}train.<locals>.token_loss@train.py:99", "token_loss", "/home/ada/train.py:99")
    report = rendered(tmp_path, recompiled(function=long), recompiled(causes=("shape", "dtype", "layout")), ended())

    assert [] == [line for line in report.splitlines() if len(line) > 100]
    assert re.search(r"  …\S+<locals>.token_loss@train.py:99:\n {52}1 shape\n", report)


def test_text_shows_nothing_that_moves_the_cursor(tmp_path):
    """Names and messages may hold anything."""
    evil = "\x1b[2J\x07\x9b31m\u202eevil\u2066\rx\ny"
    function = Function(f"train.{evil}", evil)
    content = lines(recompiled(function=function), pitfall(message=evil, advice=evil), failed(message=evil))
    # Half of a pair of surrogates can be written only as its escape.
    content += [lines(pitfall(message="halved"))[0].replace(b"halved", b"\\ud800")]
    report = terminal.render(read(written(tmp_path / "a.jsonl", content)))

    assert "evil" in report
    assert [] == [one for one in report if (ord(one) < 32 and one != "\n") or 0x7F <= ord(one) < 0xA0]
    assert not set("\u202e\u2066\r") & set(report)
    assert report.encode()


def test_text_shows_a_few_of_many(tmp_path):
    """And how many more there are, and where."""
    report = rendered(tmp_path, *(used_after(leaf=f"state[{number}]") for number in range(12)))

    assert section(report, "Donation violations").endswith("once. And 4 more; --format json lists all.")


def test_text_of_a_comparison_begins_with_its_verdict(tmp_path):
    """Then the totals of both, what is worse, what is better, and the run itself."""
    now = document_of(tmp_path, compiled(), recompiled(), ended(), name="now.jsonl")
    before = document_of(tmp_path, compiled(), pitfall(), ended(), run="r0", name="before.jsonl")
    report = terminal.render(now, compare.compare(now, before))

    assert (
        "Partly worse, partly better than r0: 1 more recompile, 2.00 s more lost, 1 gone pitfall."
        == (report.splitlines()[0])
    )
    assert "recompiles                          0            1           +1" in report
    assert "failed compiles                     0            0            =" in report
    assert "seconds lost                     0.00         2.00        +2.00" in report
    assert "train.step: recompiles 0 → 1, lost 0 s → 2.00 s, new cause shape" == section(report, "Worse")
    assert "Gone: pitfall (shape_churn) in step at train.py:88" == section(report, "Better")
    assert "1 recompile: 2.00 s lost" in section(report, "The run")
