"""What is said of a job: which facts lead to which sentence, and that a calm job is called calm."""

from __future__ import annotations

import dataclasses

import pytest

from jitwatch.diagnosis.health import Facts, Health, health
from jitwatch.model.taxonomy import JAX_LABEL

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


def running(*functions: tuple[str, float]) -> list[dict]:
    return [{"function": name, "phase": "compile", "for_s": age, "thread": ""} for name, age in functions]


@pytest.mark.parametrize(
    ("given", "level", "sentence"),
    [
        pytest.param({"totals": {"compiles": 0}}, "good", "Healthy: nothing of yours was compiled yet.", id="nothing"),
        pytest.param({}, "good", "Healthy: nothing was compiled twice.", id="calm"),
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
            "Healthy: the last recompile was 5 s ago, of train_step: for a reason that is not known.",
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
            "The newest: batch int32[8] → int32[6].",
            id="storm",
        ),
        pytest.param(
            {"storms": ["a.f", "a.<lambda>@a.py:3", "a.g", "a.h", "a.i"]},
            "bad",
            "f, <lambda>@a.py:3, g and 2 more are in a recompile storm: quiet for a minute.",
            id="many storms",
        ),
        pytest.param(
            {"storms": ["a.f", STEP], "recent": {STEP: 5, "a.f": 1}, "newest": RECOMPILED},
            "bad",
            "train_step and f are in a recompile storm: 6 recompiles in the last minute. The newest of train_step: "
            "batch int32[8] → int32[6].",
            id="two storms",
        ),
        pytest.param(
            {"recent": {STEP: 1}, "newest": RECOMPILED},
            "warn",
            "train_step recompiled once in the last minute. The newest: batch int32[8] → int32[6].",
            id="a recompile",
        ),
        pytest.param(
            {"recent": {"a.f": 1, STEP: 4, "a.g": 2}, "newest": RECOMPILED},
            "warn",
            "train_step, g and 1 more recompiled 7 times in all in the last minute. The newest of train_step: batch "
            "int32[8] → int32[6].",
            id="recompiles of several",
        ),
        pytest.param(
            {"running": running((STEP, 605.0))},
            "warn",
            "train_step has been compiling for 10.1 min.",
            id="stuck",
        ),
        pytest.param(
            {"pressure": ["gpu:0 (78 GiB of 80 GiB)", "host"]},
            "warn",
            "Memory is nearly full: gpu:0 (78 GiB of 80 GiB) and host.",
            id="nearly full",
        ),
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
            "target was donated twice in one call of train_step 20 s ago.",
            id="double donation",
        ),
        pytest.param(
            {"last": {"donation.violation": ({"kind": "unusable", "function": STEP}, 1.0)}},
            "good",
            "Healthy: nothing was compiled twice.",
            id="an unusable donation harms nobody",
        ),
        pytest.param(
            {"last": {"jit.steady_violation": ({"function": STEP}, 30.0)}},
            "warn",
            "train_step compiled although warm-up is over, 30 s ago.",
            id="after warm-up",
        ),
        pytest.param(
            {"lost_s": 12.0, "dearest": (STEP, 6.0, SIZES)},
            "warn",
            "Recompiles have cost 12 % of the run (12.0 s), most of it train_step: batch int32[8] → int32[6].",
            id="losing",
        ),
        pytest.param(
            {"lost_s": 12.0, "dearest": (STEP, 1.2, f"{SIZES}; labels float32 → int32")},
            "warn",
            "Recompiles have cost 12 % of the run (12.0 s), 10 % of that train_step: batch int32[8] → int32[6] and "
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
            "Healthy: nothing was compiled twice, but there is advice on 2 mistakes.",
            id="calm with advice",
        ),
        pytest.param({"running": running((STEP, 1.5))}, "good", "Healthy: nothing was compiled twice.", id="short"),
        pytest.param(
            {"broken": ["memory"]},
            "warn",
            "jitwatch cannot see everything: memory is down. `jitwatch doctor` says why.",
            id="a probe is down",
        ),
        pytest.param(
            {"broken": ["memory", "donation"]},
            "warn",
            "jitwatch cannot see everything: memory and donation are down. `jitwatch doctor` says why.",
            id="probes are down",
        ),
    ],
)
def test_health_says(given, level, sentence):
    """These facts, that sentence."""
    assert (Health(level, sentence),) == health(facts(**given))


@pytest.mark.parametrize(
    ("kind", "record"), [("memory.oom", {}), ("donation.violation", USED), ("jit.steady_violation", {})]
)
def test_health_forgets_what_is_long_ago(kind, record):
    """Ten minutes later a job that goes on well is healthy again."""
    recent = {kind: (record, 599.0)}
    past = {kind: (record, 600.0)}

    assert "good" != health(facts(last=recent))[0].level
    assert "good" == health(facts(last=past))[0].level


def test_health_forgets_what_recompiles_cost_when_the_run_is_long_enough():
    """Under a fiftieth of it they are no news."""
    assert ["warn"] == [one.level for one in health(facts(lost_s=12.0, uptime_s=600.0))]
    assert ["good"] == [one.level for one in health(facts(lost_s=12.0, uptime_s=601.0))]


def test_health_tells_everything_the_worst_first():
    """With everything wrong at once: what is bad, what is worth a worry in the order of its weight, what compiles."""
    everything = facts(
        lost_s=12.0,
        running=running((STEP, 5.0)),
        storms=[STEP],
        pressure=["gpu:0"],
        broken=["memory"],
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
        ("warn", "train_step compiled although"),
        ("warn", "Recompiles have cost"),
        ("warn", "jitwatch cannot see"),
        ("busy", "Compiling train_step, for"),
    ] == [(one.level, " ".join(one.sentence.split()[:3])) for one in health(everything)]


def test_functions_of_one_name_are_told_by_their_labels():
    """Not as 'apply and apply'."""
    found = health(facts(recent={"model.Encoder.apply": 3, "model.Decoder.apply": 2, "train.step": 1}))
    assert found[0].sentence.startswith("model.Encoder.apply, model.Decoder.apply and 1 more recompiled")


def test_temporaries_of_the_program_that_ran_out_of_memory_are_told():
    """Against its arguments, where they are the larger part."""
    program = {"function": STEP, "temporary_bytes": 12 << 30, "argument_bytes": 1 << 20}
    record = {"function": STEP, "executables": [program]}
    told = health(facts(last={"memory.oom": (record, 3.0)}))[0].sentence
    assert "its program needs 12 GiB for temporaries and 1 MiB for arguments" in told
    # An error that names no function is about the program that needs as much as could not be allocated.
    for message, is_it in (("allocating 8000000000 bytes", True), ("trying to allocate 99000000000 bytes", False)):
        record = {"function": None, "executables": [program], "message": f"Out of memory {message}."}
        told = health(facts(last={"memory.oom": (record, 3.0)}))[0].sentence
        assert is_it == (f"the program of {STEP} needs 12 GiB for temporaries" in told)
    record = {"function": STEP, "executables": [program | {"temporary_bytes": 0}]}
    assert "Memory ran out in train_step 3 s ago." == health(facts(last={"memory.oom": (record, 3.0)}))[0].sentence
