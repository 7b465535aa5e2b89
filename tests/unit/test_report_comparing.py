"""Two runs beside each other."""

from __future__ import annotations

import pytest

from jitwatch.model.function import Function
from jitwatch.report import compare, html, terminal
from tests.unit.logs import (
    LOSS,
    compiled,
    document_of,
    ended,
    exhausted,
    failed,
    installed,
    leaking,
    measured,
    pitfall,
    recompiled,
    unsteady,
    used_after,
)

CALM = (compiled(), compiled(LOSS), ended())


def compared(tmp_path, now, before) -> dict:
    return compare.compare(
        document_of(tmp_path, *now, run="new", name="now.jsonl"),
        document_of(tmp_path, *before, run="old", name="before.jsonl"),
    )


def test_comparing_finds_no_difference(tmp_path):
    """The same run twice."""
    events = (compiled(), recompiled(), pitfall(), used_after(), ended())
    found = compared(tmp_path, events, events)

    assert "No difference from old." == found["verdict"]
    assert ([], [], [], [], []) == tuple(found[name] for name in ("worse", "better", "functions", "new", "gone"))
    assert (0, 0.0) == (found["more_recompiles"], found["more_lost_seconds"])


def test_comparing_reports_more_recompiles(tmp_path):
    """In one sentence, by function, in the totals."""
    found = compared(tmp_path, (*CALM, recompiled(), recompiled(5)), CALM)

    assert "Worse than old: 2 more recompiles, 4.00 s more lost." == found["verdict"]
    assert ["train.step: recompiles 0 → 2, lost 0 s → 4.00 s, new cause shape"] == found["worse"]
    assert (2, 4.0) == (found["more_recompiles"], found["more_lost_seconds"])
    totals = {row["name"]: (row["before"], row["now"]) for row in found["totals"]}
    assert (0, 2) == totals["recompiles"]


def test_comparing_reports_fewer_recompiles(tmp_path):
    """The same the other way round."""
    found = compared(tmp_path, CALM, (*CALM, recompiled()))

    assert "Better than old: 1 fewer recompile, 2.00 s less lost." == found["verdict"]
    assert ["train.step: recompiles 1 → 0, lost 2.00 s → 0 s, cause shape no longer occurs"] == found["better"]


def test_comparing_reports_more_and_fewer_recompiles(tmp_path):
    """One function is better, another worse."""
    found = compared(tmp_path, (*CALM, recompiled()), (*CALM, recompiled(function=LOSS)))

    assert found["verdict"].startswith("Partly worse, partly better than old")
    assert (1, 1) == (len(found["worse"]), len(found["better"]))


def test_comparing_reports_a_new_cause_of_equally_many_recompiles(tmp_path):
    """It is another mistake."""
    found = compared(tmp_path, (*CALM, recompiled(causes=("dtype",))), (*CALM, recompiled()))

    assert ["train.step: new cause dtype, cause shape no longer occurs"] == found["worse"]


def test_comparing_reports_slower_recompiles_only_beyond_noise(tmp_path):
    """A tenth of a second, and a tenth of the whole, are noise."""
    base = (*CALM, recompiled(compile_s=10.0))

    assert [] == compared(tmp_path, (*CALM, recompiled(compile_s=11.0)), base)["worse"]
    assert ["train.step: lost 11.0 s → 13.0 s"] == (
        compared(tmp_path, (*CALM, recompiled(compile_s=12.0)), base)["worse"]
    )
    assert ["train.step: lost 11.0 s → 2.00 s"] == compared(tmp_path, (*CALM, recompiled()), base)["better"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (exhausted(), "New out-of-memory error in train.step at train.py:88"),
        (leaking(), "New memory leak (host)"),
        (failed(), "New failed compile (TypeError) in loss at train.py:91"),
        (used_after(), "New donation violation (use_after_donate) in step at train.py:90"),
        (unsteady(), "New steady-state violation in step at train.py:88"),
        (pitfall(), "New pitfall (shape_churn) in step at train.py:88"),
    ],
    ids=lambda one: getattr(one, "kind", ""),
)
def test_comparing_reports_what_is_new_and_gone(tmp_path, event, expected):
    """Whatever went wrong in one run only."""
    new = compared(tmp_path, (*CALM, event), CALM)
    gone = compared(tmp_path, CALM, (*CALM, event))

    assert ([expected], []) == (new["worse"], new["better"])
    assert ([], [expected.replace("New", "Gone:")]) == (gone["worse"], gone["better"])
    assert (new["verdict"].split()[0], gone["verdict"].split()[0]) == ("Worse", "Better")


def test_comparing_counts_what_is_new_in_the_verdict(tmp_path):
    """By kind."""
    found = compared(tmp_path, (*CALM, pitfall(), pitfall("dtype_flip"), leaking()), CALM)

    assert "Worse than old: 1 new memory leak, 2 new pitfalls." == found["verdict"]


def test_comparing_reports_a_violation_once(tmp_path):
    """Not as its pitfall as well."""
    found = compared(tmp_path, (*CALM, used_after(), pitfall("use_after_donate", lost_s=0.0)), CALM)

    assert ["donation violation"] == [one["kind"] for one in found["new"]]


def lambda_at(line: int, file: str = "train.py") -> Function:
    return Function(f"train.<lambda>@{file}:{line}", "<lambda>", f"/home/ada/{file}:{line}")


def test_comparing_knows_a_function_that_moved(tmp_path):
    """A lambda in another line is the same where there is no other in its file."""
    found = compared(
        tmp_path,
        (compiled(lambda_at(40)), recompiled(function=lambda_at(40)), pitfall(function=lambda_at(40)), ended()),
        (compiled(lambda_at(30)), recompiled(function=lambda_at(30)), pitfall(function=lambda_at(30)), ended()),
    )

    assert "No difference from old." == found["verdict"]


def test_comparing_does_not_guess_among_several(tmp_path):
    """Two that came and two that went: nobody knows which is which."""
    found = compared(
        tmp_path,
        [recompiled(function=lambda_at(line)) for line in (40, 41)],
        [recompiled(function=lambda_at(line)) for line in (30, 31)],
    )

    assert [True, True] == [row["is_new"] for row in found["functions"] if row["recompiles_now"]]
    assert 4 == len(found["functions"])


def test_comparing_leaves_jax_out(tmp_path):
    """Its own compiles are no functions of the job."""
    from tests.unit.logs import ADD

    found = compared(tmp_path, (*CALM, compiled(ADD), compiled(ADD, nth=2)), CALM)

    assert [] == found["functions"]


def test_comparing_warns_of_runs_of_different_length(tmp_path):
    """Their figures cannot be compared as they are."""
    head = compare.head_of(compared(tmp_path, (compiled(), ended(600.0)), (compiled(), ended(60.0))))

    assert ["No difference from old.", "The runs differ in length: 60.0 s before, 10.0 min now."] == head
    assert 1 == len(compare.head_of(compared(tmp_path, (compiled(), ended(80.0)), (compiled(), ended(60.0)))))


def test_comparing_finds_memory_of_a_function(tmp_path):
    """In a sentence with the version that the other run did not have, and none for what is hardly more."""
    before = (installed(jaxlib="0.10.2"), compiled(), measured(), compiled(LOSS), measured(LOSS), ended())
    more = measured(temporaries=(64 << 20) + (2 << 30), outputs=(4 << 20) + 1_000)
    now = (installed(jaxlib="0.12.0"), compiled(), more, compiled(LOSS), measured(LOSS, arguments=9), ended())
    found = compared(tmp_path, now, before)

    expected = "train.step needs 2 GiB more temporaries under jaxlib 0.12.0: 64 MiB → 2.06 GiB"
    assert [expected] == found["worse"]
    assert ["train.loss needs 8 MiB less for arguments under jaxlib 0.12.0: 8 MiB → 9 bytes"] == found["better"]
    assert "Partly worse, partly better than old: memory of 2 functions changed." == found["verdict"]
    (step, loss) = found["programs"]
    assert [{"kind": "temporaries", "before": 64 << 20, "now": (64 << 20) + (2 << 30), "more": 2 << 30}] == step[
        "memory"
    ]
    assert ("train.step", "train.loss", None) == (step["function"], loss["function"], step["are_equal"])


@pytest.mark.parametrize(
    ("sizes", "is_told"),
    [
        ({"temporaries": 66 << 20}, False),
        ({"temporaries": 68 << 20}, True),
        ({"outputs": (4 << 20) + (1 << 19)}, False),
        ({"outputs": 5 << 20}, True),
        ({"flops": 1.04e9}, False),
        ({"flops": 1.1e9}, True),
        ({"flops": None}, False),
        ({"code": 1 << 30}, False),
    ],
)
def test_small_difference_in_memory_is_not_told(tmp_path, sizes, is_told):
    """A mebibyte and five percent."""
    found = compared(tmp_path, (compiled(), measured(**sizes)), (compiled(), measured()))
    assert is_told == bool(found["programs"])


def test_comparing_finds_other_programs(tmp_path):
    """By their fingerprints, whatever their order; without fingerprints nothing is said."""
    first, second, third = (compiled(program=name) for name in ("aa", "bb", "cc"))
    assert [] == compared(tmp_path, (first, second), (second, first))["programs"]
    assert [] == compared(tmp_path, (first, second), (compiled(), compiled()))["programs"]
    found = compared(tmp_path, (first, third), (first, second))

    assert "Different programs than old: step; no other difference." == found["verdict"]
    assert ["train.step compiled different programs: 1 only now, 1 only before"] == compare.program_sentences(found)
    (row,) = found["programs"]
    assert (["aa", "bb"], ["aa", "cc"], False) == (row["programs_before"], row["programs_now"], row["are_equal"])


def test_programs_are_in_text_and_page(tmp_path):
    """Memory under what is worse, FLOPs and fingerprints under programs."""
    documents = [
        document_of(
            tmp_path, compiled(program=name), measured(temporaries=size, flops=flops), run=name, name=f"{name}.jsonl"
        )
        for name, size, flops in (("bb", 640 << 20, 3e9), ("aa", 64 << 20, 1e9))
    ]
    comparison = compare.compare(*documents)
    text = terminal.render(documents[0], comparison)
    page = html.render(documents[0], comparison)

    assert "Worse:\ntrain.step needs 576 MiB more temporaries: 64 MiB → 640 MiB\n" in text
    assert "Programs:\ntrain.step needs 200 % more FLOPs: 1e+09 → 3e+09\ntrain.step compiled different programs" in text
    assert "576 MiB more temporaries" in page
    assert '<h2 id="programs">' in page
