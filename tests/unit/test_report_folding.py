"""Events folded together: the same figures as the job itself has, over whatever number of processes."""

from __future__ import annotations

import json

import pytest

from jitwatch.model.events import StormEnded, StormStarted, Uninstalled
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.report import sentences
from jitwatch.report.decode import decode
from jitwatch.report.processes import Processes
from tests.unit.logs import (
    ADD,
    LOSS,
    STEP,
    Writer,
    compiled,
    document_of,
    ended,
    exhausted,
    failed,
    installed,
    leaking,
    lines,
    pitfall,
    pressed,
    read,
    recompiled,
    sampled,
    unsteady,
    used_after,
    written,
)

EVERYTHING = (
    installed(),
    compiled(),
    compiled(LOSS, 3.0, persistent_cache="hit"),
    compiled(ADD, 0.1),
    compiled(ADD, 0.2),
    recompiled(5, cache_entries=2),
    recompiled(4, cache_entries=3, causes=("shape", "dtype"), persistent_cache="miss"),
    recompiled(3, causes=("transform",)),
    recompiled(2, expected="another phase"),
    recompiled(function=LOSS, line=7, constant_bytes=2**22),
    failed(),
    pitfall(),
    StormStarted(function=STEP, recompiles=20, within_s=60.0),
    StormEnded(function=STEP, recompiles=30, lasted_s=9.0, lost_s=3.0),
    unsteady(),
    used_after(),
    used_after(violation="unusable"),
)


def row_of(document: dict, label: str = "train.step") -> dict:
    return next(row for row in document["functions"] if row["function"] == label)


def test_folding_agrees_with_the_state_of_the_job(tmp_path):
    """Totals, functions and lines are those of `snapshot()`, as far as a log can tell."""
    writer = Writer()
    document = read(written(tmp_path / "a.jsonl", writer.lines(*EVERYTHING)))
    state = writer.store.snapshot()

    for name in ("compiles", "recompiles", "failures", "storms", "steady_violations", "donation_violations"):
        assert state["totals"][name] == document["totals"][name], name
    for name in ("compile_seconds", "lost_seconds", "jax_compiles", "jax_compile_seconds"):
        assert pytest.approx(state["totals"][name]) == document["totals"][name], name
    shown = ("function", "location", "compiles", "recompiles", "failures", "causes", "pitfalls", "storms")
    more = ("is_in_storm", "steady_violations", "donation_violations", "captured_constant_bytes", "phases")
    for expected, row in zip(state["functions"], document["functions"], strict=True):
        assert {name: expected[name] for name in shown + more} == {name: row[name] for name in shown + more}
        assert pytest.approx(expected["lost_seconds"]) == row["lost_seconds"]
    names = ("call_site", "function", "causes", "paths", "recompiles", "lost_seconds", "explanation", "pitfall")
    assert [{name: one[name] for name in names} for one in state["call_sites"]] == [
        {name: one[name] for name in names} for one in document["call_sites"]
    ]
    names = ("pitfall", "subject", "recompiles", "lost_seconds")
    assert sorted([one[name] for name in names] for one in state["pitfalls"]) == sorted(
        [one[name] for name in names] for one in document["pitfalls"]
    )


def test_folding_keeps_jax_apart(tmp_path):
    """Its compiles are in a row and totals of their own, by name, and cost the job no recompiles."""
    document = document_of(tmp_path, compiled(), compiled(ADD, 0.25), compiled(ADD, 0.25, nth=2))

    assert (1, 0, 2) == tuple(document["totals"][name] for name in ("compiles", "recompiles", "jax_compiles"))
    assert [{"name": "add", "compiles": 2, "seconds": 2.0}] == document["jax_own"]
    assert (2, 0.0) == (row_of(document, JAX_LABEL)["compiles"], row_of(document, JAX_LABEL)["lost_seconds"])


def test_folding_adds_up_processes(tmp_path):
    """Two processes of one run: twice of everything, and the share is of the time of both."""
    for index in range(2):
        written(tmp_path / f"e.p{index}.jsonl", lines(compiled(), recompiled(), pitfall(), ended(50.0), index=index))
    document = read(tmp_path)

    assert (4, 2, 2) == tuple(document["totals"][name] for name in ("compiles", "recompiles", "processes"))
    assert (50.0, 100.0) == (document["wall_seconds"], document["process_seconds"])
    assert pytest.approx(0.04) == document["totals"]["lost_ratio"]
    assert ["r1"] == document["runs"]
    assert [(2, 2)] == [(one["times"], one["processes"]) for one in document["pitfalls"]]
    assert 1 == document["totals"]["pitfalls"]


def test_folding_follows_a_log_through_its_rotation(tmp_path):
    """All parts are of one process."""
    content = lines(installed(), compiled(), recompiled(), recompiled(5), ended())
    written(tmp_path / "a.jsonl.2", content[:2])
    written(tmp_path / "a.jsonl.1", content[2:3])
    path = written(tmp_path / "a.jsonl", content[3:])
    document = read(path)

    assert (2, 1, 0) == tuple(document["totals"][name] for name in ("recompiles", "processes", "missing_events"))


def test_folding_measures_a_killed_job_by_its_timestamps(tmp_path):
    """From the first event to the last, and it is no ended process."""
    document = document_of(tmp_path, installed(), compiled(), recompiled(), recompiled(5))

    assert 3.0 == document["wall_seconds"]
    assert [False] == [one["is_ended"] for one in document["processes"]]
    assert ("2025-03-01T12:00:01.000Z", "2025-03-01T12:00:04.000Z") == (document["started"], document["ended"])
    assert pytest.approx(3.0) == document["totals"]["busy_seconds"]


def test_folding_trusts_the_agents_own_clock(tmp_path):
    """Its sum has seconds, busy seconds, and the length of a step."""
    events = (installed(), recompiled(), ended(200.0, lost_s=2.0, lost_steps=40.0), Uninstalled())
    document = document_of(tmp_path, *events)

    assert (200.0, 10.0) == (document["wall_seconds"], document["totals"]["busy_seconds"])
    assert pytest.approx(0.01) == document["totals"]["lost_ratio"]
    assert pytest.approx(40.0) == document["totals"]["lost_steps"]
    assert [True] == [one["is_ended"] for one in document["processes"]]


def test_folding_adds_up_a_process_whose_agent_was_installed_again(tmp_path):
    """One process, two starts, the time of both."""
    first = Writer(process="node7-1-x").lines(installed(), compiled(), ended(30.0))
    again = Writer(process="node7-1-x").lines(installed(), compiled(), ended(40.0))
    document = read(written(tmp_path / "a.jsonl", first + again))

    assert [(2, 2, 70.0)] == [(one["starts"], one["compiles"], one["seconds"]) for one in document["processes"]]
    assert 0 == document["totals"]["missing_events"]


def test_folding_adds_up_a_job_that_was_started_again_in_logs_of_before(tmp_path):
    """They do not identify their processes: one process, as far as anybody can tell."""
    content = [Writer(is_old=True).lines(installed(), compiled(), ended(seconds)) for seconds in (30.0, 40.0)]
    document = read(written(tmp_path / "a.jsonl", content[0] + content[1]))

    assert [(2, 2, 70.0, None)] == [
        (one["starts"], one["compiles"], one["seconds"], one["process"]) for one in document["processes"]
    ]


def later(writer: Writer, seconds: float) -> Writer:
    writer.now += seconds
    return writer


@pytest.mark.parametrize("is_one_file", [True, False])
def test_folding_keeps_a_job_that_was_started_again_apart(tmp_path, is_one_file):
    """The same run and index, other processes: also where a person named one log for all of them."""
    contents = [
        later(Writer(index=3, process=name), start).lines(installed(), compiled(), ended(30.0), Uninstalled())
        for name, start in (("node7-1-x", 0), ("node8-1-y", 100))
    ]
    if is_one_file:
        written(tmp_path / "a.jsonl", contents[0] + contents[1])
    else:
        written(tmp_path / "a.jsonl", contents[0])
        written(tmp_path / "b.jsonl", contents[1])
    document = read(tmp_path)

    assert [(3, "node7-1-x", 1, 1), (3, "node8-1-y", 1, 1)] == [
        (one["process_index"], one["process"], one["starts"], one["compiles"]) for one in document["processes"]
    ]
    assert (2, 0) == (document["totals"]["processes"], document["totals"]["missing_events"])
    assert ["Process 3 was started 2 times: 2025-03-01 12:00:01 UTC, 2025-03-01 12:01:41 UTC."] == sentences.processes(
        document
    )


def test_folding_keeps_processes_apart_that_share_run_index_and_file(tmp_path):
    """Workers of a pool in one task, or two jobs in one allocation, line by line in one file."""
    writers = [Writer("4711", 0, process=f"node7-{number}-x") for number in (1, 2)]
    content = [
        line for _ in range(3) for writer in writers for line in writer.lines(installed(), compiled(), recompiled())
    ]
    document = read(written(tmp_path / "a.jsonl", content))

    assert [("node7-1-x", 6, 3), ("node7-2-x", 6, 3)] == [
        (one["process"], one["compiles"], one["starts"]) for one in document["processes"]
    ]
    assert 0 == document["totals"]["missing_events"]
    told = sentences.processes(document)
    assert "2 processes have the index 0 at the same time: node7-1-x, node7-2-x." in told
    assert any("process 0 (node7-1-x)" in one and "process 0 (node7-2-x)" in one for one in told)


def test_folding_names_processes_of_one_file_without_an_index(tmp_path):
    """By what identifies them, where the log does not."""
    content = [line for _ in range(2) for line in Writer().lines(installed(), compiled())]
    document = read(written(tmp_path / "a.jsonl", content))

    names = [sentences.name_of(one, document) for one in document["processes"]]
    assert [f"the process of a.jsonl ({one['process']})" for one in document["processes"]] == names
    assert ["the process of b.jsonl"] == [
        sentences.name_of(one, alone)
        for alone in [read(written(tmp_path / "b.jsonl", lines(installed())))]
        for one in alone["processes"]
    ]


@pytest.mark.parametrize("is_old", [False, True])
def test_number_of_processes_is_bounded(is_old):
    """However many a file names, and whichever way: what is past the bound counts as one, and is said."""
    known = Processes(limit=3)
    for number in range(5):
        for line in Writer(index=number, is_old=is_old).lines(installed(), compiled()):
            known.count(decode(json.loads(line, parse_int=float), []), 0, "a.jsonl")

    assert (3, 2) == (len(known.all), known.left_out)


@pytest.mark.parametrize("odd", [7, "", None, ["x"], {"a": 1}])
def test_folding_takes_a_strange_identifier_for_none(tmp_path, odd):
    """Then the index tells, as in logs of before."""
    records = [json.loads(line) | {"process": odd} for line in lines(installed(), compiled(), index=1)]
    document = read(written(tmp_path / "a.jsonl", [json.dumps(one).encode() + b"\n" for one in records]))

    assert [(1, None)] == [(one["process_index"], one["process"]) for one in document["processes"]]


def test_folding_gives_events_before_the_index_to_the_same_process(tmp_path):
    """JAX tells a process its index only after the first events."""
    writer = Writer()
    content = writer.lines(installed(), compiled())
    writer.store.set_process_place(3, 8)
    document = read(written(tmp_path / "a.jsonl", content + writer.lines(recompiled())))

    assert [(3, 2)] == [(one["process_index"], one["compiles"]) for one in document["processes"]]


def test_folding_joins_two_logs_of_one_process_of_before(tmp_path):
    """In logs of before only the index tells that it is the same, also where that comes late."""
    written(tmp_path / "a.jsonl", Writer(index=3, is_old=True).lines(installed(), compiled(), ended(10.0)))
    writer = Writer(is_old=True)
    content = writer.lines(installed(), compiled())
    writer.store.set_process_place(3, 8)
    written(tmp_path / "b.jsonl", content + writer.lines(recompiled(), ended(20.0)))
    document = read(tmp_path)

    assert [(3, 3, 2, 30.0)] == [
        (one["process_index"], one["compiles"], one["starts"], one["seconds"]) for one in document["processes"]
    ]


def test_folding_notices_dropped_events(tmp_path):
    """Numbers that are missing between others; a log that begins late is another matter."""
    content = lines(installed(), compiled(), recompiled(), recompiled(5), recompiled(4), ended())
    document = read(written(tmp_path / "a.jsonl", [content[1], content[2], content[5]]))

    assert 2 == document["totals"]["missing_events"]


def test_folding_notices_compiles_that_are_not_in_the_files(tmp_path):
    """The agent counted more than the files hold."""
    document = document_of(tmp_path, compiled(), ended(compiles=9))

    assert 8 == document["log"]["missing_compiles"]


def test_folding_keeps_the_newest_explanation_of_a_line(tmp_path):
    """By time, not by the order of the files; a planned recompile explains nothing."""
    writer = Writer(run="b")
    written(tmp_path / "b.jsonl", writer.lines(recompiled(7)))
    late = Writer(run="a")
    late.now += 100.0
    written(tmp_path / "a.jsonl", late.lines(recompiled(6), recompiled(5, expected="another phase")))
    document = read(tmp_path)

    assert [(3, "int32[8] → int32[6]" in document["call_sites"][0]["explanation"])] == [
        (one["recompiles"], True) for one in document["call_sites"]
    ]
    assert (["shape"], ["batch"]) == (document["call_sites"][0]["causes"], document["call_sites"][0]["paths"])


def test_folding_keeps_the_last_figures_of_a_pitfall(tmp_path):
    """Those of the agent's sum; what it cost follows its function's recompiles."""
    row = {"pitfall": "shape_churn", "function": "train.step", "location": STEP.location, "lost_s": 9.0}
    row |= {"call_site": "/home/ada/train.py:88", "message": "batch had 99 sizes", "advice": "Pad it to 9"}
    churn = recompiled(pitfall="shape_churn")
    document = document_of(tmp_path, churn, pitfall(), recompiled(5), ended(pitfalls=(row,)))

    assert [("batch had 99 sizes", "Pad it to 9", 4.0, 2.0)] == [
        (one["message"], one["advice"], one["lost_seconds"], one["lost_s"]) for one in document["pitfalls"]
    ]


def test_folding_finds_a_pitfall_whose_line_was_rotated_away(tmp_path):
    """The agent's sum still has it."""
    row = {"pitfall": "shape_churn", "function": "train.step", "location": STEP.location, "lost_s": 9.0}
    row |= {"call_site": None, "message": "m", "advice": "a"}
    document = read(written(tmp_path / "a.jsonl", lines(recompiled(), ended(pitfalls=(row,)))[1:]))

    assert [("shape_churn", "train.step", "m", 9.0)] == [
        (one["pitfall"], one["function"], one["message"], one["lost_seconds"]) for one in document["pitfalls"]
    ]


def test_folding_charges_a_pitfall_with_what_was_rotated_away(tmp_path):
    """One recompile is left of those that cost a minute; of a whole log, each mistake is charged with its own only."""
    content = lines(installed(), recompiled(pitfall="shape_churn"), recompiled(5), pitfall(lost_s=60.0), ended())
    whole = read(written(tmp_path / "whole" / "a.jsonl", content))
    cut = read(written(tmp_path / "cut" / "a.jsonl", content[2:]))

    assert [4.0, 60.0] == [document["pitfalls"][0]["lost_seconds"] for document in (whole, cut)]


def test_folding_distinguishes_pitfalls_of_one_function_by_subject(tmp_path):
    """Two arguments, two mistakes."""
    document = document_of(tmp_path, pitfall(subject="batch"), pitfall(subject="mask"), pitfall(subject="mask"))

    assert [1, 2] == sorted(one["times"] for one in document["pitfalls"])


def test_folding_counts_donations_by_who_took_and_who_used(tmp_path):
    """What is alike is one row."""
    events = (used_after(), used_after(), used_after(call_site="/home/ada/train.py:99"))
    document = document_of(tmp_path, *events)

    assert [(2, "/home/ada/train.py:90", "train.step"), (1, "/home/ada/train.py:99", "train.step")] == [
        (one["times"], one["call_site"], one["donated_by"]) for one in document["donation_violations"]
    ]
    assert {"use_after_donate": 3} == row_of(document)["donation_violations"]


def test_folding_counts_steady_violations_and_failures(tmp_path):
    """By line, with their seconds."""
    document = document_of(tmp_path, unsteady(), unsteady(), failed(), failed())

    assert [(2, 4.0, "batch int32[8] → int32[6]")] == [
        (one["times"], one["spent_seconds"], one["reason"]) for one in document["steady_violations"]
    ]
    assert [(2, 1.0, "TypeError")] == [
        (one["times"], one["spent_seconds"], one["error"]) for one in document["failures"]
    ]
    assert 1.0 == row_of(document, "train.loss")["phases"]["trace"]


def test_folding_keeps_the_newest_of_equal_records(tmp_path):
    """By time, not by the order of the files."""
    late = Writer(run="a")
    late.now += 100.0
    written(tmp_path / "a.jsonl", late.lines(failed(message="the second")))
    written(tmp_path / "b.jsonl", lines(failed(message="the first"), run="b"))

    assert [("the second", 2)] == [(one["message"], one["processes"]) for one in read(tmp_path)["failures"]]


def test_folding_sums_up_memory(tmp_path):
    """Shortages, leaks, pressure at its highest, the most of each device."""
    events = (exhausted(), leaking(), pressed(), pressed("ended", 0.5), pressed(ratio=0.91), sampled(2**30), sampled(5))
    document = document_of(tmp_path, *events)
    memory = document["memory"]

    assert [("train.step", 1)] == [(one["function"], one["times"]) for one in memory["out_of_memory"]]
    assert [("host", 1)] == [(one["growing"], one["times"]) for one in memory["leaks"]]
    assert [("gpu:0", 0.95, 2)] == [(one["place"], one["ratio"], one["times"]) for one in memory["pressure"]]
    assert {"gpu:0": {"most_bytes": 2**30, "limit_bytes": 2**33}} == memory["devices"]
    assert (1, 1, 2) == tuple(document["totals"][name] for name in ("out_of_memory", "leaks", "pressure"))


def test_folding_keeps_the_most_cache_entries(tmp_path):
    """Of a function in any process, at any time."""
    entries = [recompiled(cache_entries=number) for number in (2, 9, 4)]

    assert 9 == row_of(document_of(tmp_path, *entries))["cache_entries"]


def test_folding_names_differing_versions(tmp_path):
    """A process with another JAX is worth knowing."""
    for number, version in enumerate(("0.10", "0.9")):
        written(tmp_path / f"e.p{number}.jsonl", lines(installed(jax=version), compiled(), index=number))

    assert ["0.10", "0.9"] == read(tmp_path)["versions"]["jax"]


def compiles_of(tmp_path, *numbers: int, run=lambda index: "r1") -> dict:
    """A run of processes with so many compiles of one function."""
    for index, number in enumerate(numbers):
        events = (compiled(LOSS), *(compiled(Function("train.odd", "odd")) for _ in range(number)))
        written(tmp_path / f"e.p{index}.jsonl", lines(*events, run=run(index), index=index))
    return read(tmp_path)


def test_folding_names_the_process_that_compiled_more(tmp_path):
    """Against the median of its run, with the functions that make the difference."""
    odd = compiles_of(tmp_path, 1, 1, 4, 1)["odd_processes"]

    assert [(2, 5, 2, {"train.odd": 3})] == [
        (one["process_index"], one["compiles"], one["usual_compiles"], one["functions"]) for one in odd
    ]


def test_folding_finds_no_odd_process_among_equals(tmp_path):
    """Nor where one compiled less."""
    assert [] == compiles_of(tmp_path, 2, 2, 2, 1)["odd_processes"]


def test_folding_compares_processes_that_name_their_runs_apart(tmp_path):
    """Without a scheduler each has a name of its own; different indices say that they are of one run."""
    odd = compiles_of(tmp_path, 1, 3, run=lambda index: f"host-{index}")["odd_processes"]

    assert [1] == [one["process_index"] for one in odd]


def test_folding_does_not_compare_processes_of_different_runs(tmp_path):
    """Two runs of one process each have nothing to do with each other."""
    for number in (1, 2):
        written(tmp_path / f"{number}.jsonl", lines(*[compiled()] * number, run=f"r{number}"))

    assert [] == read(tmp_path)["odd_processes"]
