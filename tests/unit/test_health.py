"""The health of a job: which facts lead to which finding and sentence, and that a calm job is healthy."""

from __future__ import annotations

import dataclasses

import pytest

from jitwatch.diagnosis.findings import FIGURES, Facts, Finding, figure_levels, findings, function_levels
from jitwatch.diagnosis.pressure import FullMemory
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import health as render

STEP = "train.train_step"
CHANGE = {"path": "batch", "kind": "shape", "before": "int32[8]", "after": "int32[6]"}
SIZES = "batch int32[8] → int32[6]"
RECOMPILED = {"function": STEP, "causes": ["shape"], "changes": [CHANGE], "reason": SIZES}
USED = {
    "kind": "use_after_donate",
    "function": "train.evaluate",
    "leaf": "params['w']",
    "donated_by": STEP,
    "donated_leaf": "state['w']",
}
TWICE = {"kind": "double_donation", "function": STEP, "leaf": "target"}


def facts(**more) -> Facts:
    calm = Facts(totals={"compiles": 3, "lost_seconds": 0.0}, uptime_s=100.0, last={})
    return dataclasses.replace(calm, **more)


def told(given: Facts) -> list[tuple[str, str]]:
    """Level and sentence of each finding."""
    return [(one.level, render.sentence(one, given)) for one in findings(given)]


def running(*functions: tuple[str, float]) -> list[dict]:
    return [{"function": name, "phase": "compile", "for_s": age, "thread": ""} for name, age in functions]


@pytest.mark.parametrize(
    ("given", "level", "sentence"),
    [
        pytest.param({"totals": {"compiles": 0}}, "good", "Healthy: no function has compiled yet.", id="nothing"),
        pytest.param({}, "good", "Healthy: no function has recompiled.", id="calm"),
        pytest.param(
            {"last": {"programs.diverged": ({"message": "Process 1 compiled a different program"}, 86400.0)}},
            "bad",
            "Process 1 compiled a different program.",
            id="other programs, long ago",
        ),
        pytest.param(
            {"last": {"jit.recompiled": (RECOMPILED, 7200.0)}},
            "good",
            "Healthy: the last recompile was 2.0 h ago, of train_step: batch int32[8] → int32[6].",
            id="calm after a recompile",
        ),
        pytest.param(
            {
                "last": {
                    "jit.recompiled": (
                        {
                            **RECOMPILED,
                            "changes": [CHANGE] * 3,
                            "reason": f"{SIZES}; labels float32 → int32; and 1 more",
                        },
                        5.0,
                    )
                }
            },
            "good",
            "Healthy: the last recompile was 5 s ago, of train_step: batch int32[8] → int32[6] and more.",
            id="several changes",
        ),
        pytest.param(
            {
                "last": {
                    "jit.recompiled": (
                        {
                            **RECOMPILED,
                            "reason": "the function was jitted again: a new function object for the same code",
                        },
                        5.0,
                    )
                }
            },
            "good",
            "Healthy: the last recompile was 5 s ago, of train_step: the function was jitted again: a new function "
            "object for the same code.",
            id="a reason in words",
        ),
        pytest.param(
            {"last": {"jit.recompiled": ({"function": STEP}, 5.0)}},
            "good",
            "Healthy: the last recompile was 5 s ago, of train_step: unknown cause.",
            id="no reason",
        ),
        pytest.param(
            {"last": {"memory.oom": ({"function": STEP}, 3.0)}},
            "bad",
            "Memory ran out in train_step 3 s ago.",
            id="out of memory",
        ),
        pytest.param(
            {"last": {"memory.oom": ({"function": None}, 0.0)}},
            "bad",
            "Memory ran out just now.",
            id="out of memory somewhere",
        ),
        pytest.param(
            {"storms": [STEP], "recent": {STEP: 5, "train.other": 70}, "newest": RECOMPILED},
            "bad",
            "train_step is in a recompile storm: 5 recompiles in the last minute. "
            "Newest recompile: batch int32[8] → int32[6].",
            id="storm",
        ),
        pytest.param(
            {"storms": ["a.f", "a.<lambda>@a.py:3", "a.g", "a.h", "a.i"]},
            "bad",
            "f, <lambda>@a.py:3, g and 2 more are in a recompile storm: none in the last minute.",
            id="many storms",
        ),
        pytest.param(
            {"storms": ["a.f", STEP], "recent": {STEP: 5, "a.f": 1}, "newest": RECOMPILED},
            "bad",
            "train_step and f are in a recompile storm: 6 recompiles in the last minute. Newest recompile of "
            "train_step: batch int32[8] → int32[6].",
            id="two storms",
        ),
        pytest.param(
            {"recent": {STEP: 1}, "newest": RECOMPILED},
            "warn",
            "train_step recompiled once in the last minute. Newest recompile: batch int32[8] → int32[6].",
            id="a recompile",
        ),
        pytest.param(
            {"recent": {"a.f": 1, STEP: 4, "a.g": 2}, "newest": RECOMPILED},
            "warn",
            "train_step, g and 1 more recompiled 7 times in all in the last minute. Newest recompile of train_step: "
            "batch int32[8] → int32[6].",
            id="recompiles of several",
        ),
        pytest.param(
            {"running": running((STEP, 605.0))},
            "warn",
            "train_step has been compiling for 10.1 min.",
            id="long compile",
        ),
        pytest.param(
            {"running": running((STEP, 3600.0))},
            "bad",
            "train_step has been compiling for 60.0 min.",
            id="stuck",
        ),
        pytest.param(
            {"full": [FullMemory("gpu:0", "bad", 78 << 30, 80 << 30), FullMemory("host", "warn")]},
            "bad",
            "Memory is nearly full: gpu:0 (78 GiB of 80 GiB) and host.",
            id="nearly full",
        ),
        pytest.param({"full": [FullMemory("host", "warn")]}, "warn", "Memory is nearly full: host.", id="host full"),
        pytest.param({"leaks": ["host"]}, "warn", "Host memory keeps growing.", id="leak"),
        pytest.param(
            {"leaks": ["device", "live_arrays"]},
            "warn",
            "Device memory and the memory of live arrays keep growing.",
            id="leaks",
        ),
        pytest.param(
            {"last": {"donation.violation": (USED, 20.0)}},
            "warn",
            "state['w'] was used after it was donated to train_step, 20 s ago.",
            id="use after donate",
        ),
        pytest.param(
            {"last": {"donation.violation": ({"kind": "use_after_donate", "leaf": "x"}, 20.0)}},
            "warn",
            "x was used after it was donated to a function, 20 s ago.",
            id="use after donate to nobody known",
        ),
        pytest.param(
            {"last": {"donation.violation": (TWICE, 20.0)}},
            "warn",
            "The buffer of target was passed twice to a call of train_step that donates it, 20 s ago.",
            id="double donation",
        ),
        pytest.param(
            {"last": {"donation.violation": ({"kind": "unusable", "function": STEP}, 1.0)}},
            "good",
            "Healthy: no function has recompiled.",
            id="an unusable donation harms nobody",
        ),
        pytest.param(
            {"last": {"jit.steady_violation": ({"function": STEP}, 30.0)}},
            "warn",
            "train_step compiled in the steady state, 30 s ago.",
            id="after warm-up",
        ),
        pytest.param(
            {"lost_s": 12.0, "most_lost": (STEP, 6.0, SIZES)},
            "warn",
            "Recompiles have cost 12 % of the run (12.0 s), most of it in train_step: batch int32[8] → int32[6].",
            id="losing",
        ),
        pytest.param(
            {"lost_s": 12.0, "most_lost": (STEP, 1.2, f"{SIZES}; labels float32 → int32")},
            "warn",
            "Recompiles have cost 12 % of the run (12.0 s), 10 % of that in train_step: batch int32[8] → int32[6] and "
            "more.",
            id="losing everywhere",
        ),
        pytest.param(
            {"running": running((JAX_LABEL, 1.0), (STEP, 2.5))},
            "busy",
            "Compiling train_step, for 2.50 s so far.",
            id="compiling",
        ),
        pytest.param(
            {"running": running((JAX_LABEL, 3.0))},
            "busy",
            "Compiling an operation outside of jit, for 3.00 s so far.",
            id="compiling for itself",
        ),
        pytest.param(
            {"running": [{"function": STEP, "phase": "trace", "for_s": 4.0, "is_again": True}]},
            "busy",
            "Compiling train_step again, for 4.00 s so far.",
            id="compiling again",
        ),
        pytest.param(
            {"totals": {"compiles": 3, "pitfalls": 2}},
            "good",
            "Healthy: no function has recompiled, but there is advice on 2 pitfalls.",
            id="calm with advice",
        ),
        pytest.param({"running": running((STEP, 1.5))}, "good", "Healthy: no function has recompiled.", id="short"),
        pytest.param(
            {"down": ["memory"]},
            "warn",
            "Some data is missing: probe memory is down. `jitwatch doctor` shows the reason.",
            id="a probe is down",
        ),
        pytest.param(
            {"down": ["memory", "donation"]},
            "warn",
            "Some data is missing: probes memory and donation are down. `jitwatch doctor` shows the reason.",
            id="probes are down",
        ),
    ],
)
def test_facts_lead_to_one_finding(given, level, sentence):
    """These facts, that level and sentence."""
    assert [(level, sentence)] == told(facts(**given))


@pytest.mark.parametrize(
    ("kind", "record"), [("memory.oom", {}), ("donation.violation", USED), ("jit.steady_violation", {})]
)
def test_record_is_reported_for_ten_minutes(kind, record):
    """Ten minutes later a job that goes on well is healthy again."""
    recent = {kind: (record, 599.0)}
    past = {kind: (record, 600.0)}

    assert "good" != findings(facts(last=recent))[0].level
    assert "good" == findings(facts(last=past))[0].level


def test_lost_seconds_are_reported_from_a_fiftieth_of_the_run_on():
    """A smaller share is no finding."""
    assert ["warn"] == [one.level for one in findings(facts(lost_s=12.0, uptime_s=600.0))]
    assert ["good"] == [one.level for one in findings(facts(lost_s=12.0, uptime_s=601.0))]


def test_findings_begin_with_the_worst():
    """With everything wrong at once: what is bad, what is worth a worry in the order of its weight, what compiles."""
    everything = facts(
        lost_s=12.0,
        running=running((STEP, 5.0)),
        storms=[STEP],
        full=[FullMemory("gpu:0", "warn")],
        down=["memory"],
        last={
            "memory.oom": ({}, 1.0),
            "donation.violation": (USED, 1.0),
            "jit.steady_violation": ({"function": STEP}, 1.0),
            "jit.recompiled": (RECOMPILED, 1.0),
        },
    )

    assert [
        ("bad", "Memory ran out"),
        ("bad", "train_step is in"),
        ("warn", "Memory is nearly"),
        ("warn", "state['w'] was used"),
        ("warn", "train_step compiled in"),
        ("warn", "Recompiles have cost"),
        ("warn", "Some data is"),
        ("busy", "Compiling train_step, for"),
    ] == [(level, " ".join(sentence.split()[:3])) for level, sentence in told(everything)]


def test_functions_of_one_name_are_named_by_their_labels():
    """Not as 'apply and apply'."""
    found = told(facts(recent={"model.Encoder.apply": 3, "model.Decoder.apply": 2, "train.step": 1}))
    assert found[0][1].startswith("model.Encoder.apply, model.Decoder.apply and 1 more recompiled")


def test_temporaries_of_the_program_that_ran_out_of_memory_are_reported():
    """Against its arguments, where they are the larger part."""
    program = {"function": STEP, "temporary_bytes": 12 << 30, "argument_bytes": 1 << 20}
    record = {"function": STEP, "executables": [program]}
    assert "its program needs 12 GiB for temporaries and 1 MiB for arguments" in render.out_of_memory(record, 3.0)
    # An error that names no function is about the program that needs as much as could not be allocated.
    for message, is_it in (("allocating 8000000000 bytes", True), ("trying to allocate 99000000000 bytes", False)):
        record = {"function": None, "executables": [program], "message": f"Out of memory {message}."}
        sentence = render.out_of_memory(record, 3.0)
        assert is_it == (f"the program of {STEP} needs 12 GiB for temporaries" in sentence)
    record = {"function": STEP, "executables": [program | {"temporary_bytes": 0}]}
    assert "Memory ran out in train_step 3 s ago." == render.out_of_memory(record, 3.0)


def test_finding_colours_its_figure_and_its_functions():
    """Functions that a finding names, those that lost a warning share among them, and no others."""
    given = facts(
        storms=["a.f"],
        lost_s=12.0,
        most_lost=(STEP, 6.0, SIZES),
        lost_by_function={STEP: 6.0, "a.f": 4.0, "a.g": 1.9},
        last={"donation.violation": (USED, 20.0)},
        functions={"donation.violation": ["train.evaluate"]},
    )
    found = findings(given)

    assert {"storms_active": "bad", "donation_violations": "warn", "lost_seconds": "warn"} == figure_levels(found)
    assert {
        "a.f": {"storms_active": "bad", "lost_seconds": "warn"},
        "train.evaluate": {"donation_violations": "warn"},
        STEP: {"lost_seconds": "warn"},
    } == function_levels(found)


def test_calm_job_has_no_colours():
    """Nothing is yellow while the sentence says that the job is healthy."""
    assert ({}, {}) == (figure_levels([Finding("calm", "good")]), function_levels([Finding("calm", "good")]))
    # No figure is about the programs of other processes.
    assert {"calm", "programs_diverged"} == set(render._SENTENCES) - set(FIGURES)


def test_memory_notes_have_what_happened_and_what_was_alive():
    """An out-of-memory error with its arrays and programs, what is nearly full, and what grows with its message."""
    record = {
        "function": STEP,
        "message": "RESOURCE_EXHAUSTED: 8 GiB",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "call_site": "train.py:88",
        "live_array_bytes": 3 << 30,
        "arrays": [{"count": 2, "dtype": "float32", "shape": [1024, 8], "bytes": 1 << 20}],
        "executables": [{"function": STEP, "total_bytes": 12 << 30}],
    }
    given = facts(last={"memory.oom": (record, 3.0)}, full=[FullMemory("host", "warn")], leaks=["host", "device"])
    oom, full, *leaks = render.memory_notes(
        given, [{"growing": "host", "message": "host memory is growing by 1 MiB/h"}]
    )

    assert ("bad", "Out of memory in train_step", "RESOURCE_EXHAUSTED: 8 GiB.", "train.py:88") == (
        oom["level"],
        oom["title"],
        oom["sentence"],
        oom["call_site"],
    )
    assert (
        "Live arrays: 3 GiB, the largest 2 × float32[1024,8] (1 MiB). Largest programs: train_step (12 GiB)."
        == oom["detail"]
    )
    assert {"level": "warn", "title": "Nearly full", "sentence": "host."} == full
    assert ["Host memory is growing by 1 MiB/h.", "Device memory is growing."] == [one["sentence"] for one in leaks]
    assert "good" == render.memory_notes(facts(last={"memory.oom": (record, 600.0)}), [])[0]["level"]


def test_memory_notes_have_programs_that_will_not_fit():
    """The newest of each function; a device that is nearly full has its own note."""
    stamp = "2026-01-01T00:00:00.000Z"
    misfit = {"state": "will_not_fit", "function": STEP, "timestamp": stamp}
    pressure = [misfit | {"message": "old"}, {"state": "started", "place": "gpu:0"}, misfit | {"message": "new"}]

    assert [{"level": "warn", "title": "Will not fit", "timestamp": stamp, "sentence": "new."}] == render.memory_notes(
        facts(), [], pressure
    )


def test_out_of_memory_names_the_largest_buffers():
    """After what the temporaries are, if those are the larger part."""
    rows = [{"bytes": 1 << 30, "shape": "f32[8]", "op": "jit(f)/dot_general", "call_site": "/home/me/model.py:88"}]
    record = {"function": STEP, "peak_buffers": rows}

    assert (
        "Memory ran out in train_step 3 s ago. Its largest buffers are 1 GiB f32[8] dot_general at model.py:88."
        == render.out_of_memory(record, 3.0)
    )
    program = {"function": STEP, "temporary_bytes": 2 << 30, "argument_bytes": 1, "peak_bytes": 3 << 30}
    told = render.out_of_memory({"function": STEP, "executables": [program | {"peak_buffers": rows}]}, 3.0)
    assert "for temporaries and" in told
    assert told.endswith("Its program needs 3 GiB at its peak: 1 GiB f32[8] dot_general at model.py:88.")
