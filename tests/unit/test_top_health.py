"""Whether a job is healthy, in a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jitwatch.diagnosis import words
from jitwatch.events import Change, Compiled, Function
from jitwatch.top.health import reason_of, verdict_of, verdicts_of, without_advice
from jitwatch.top.tracking import Process, Recent
from tests.unit.top_states import URL, function, pitfall, process, site

STORM = function(compiles=13, recompiles=12, is_in_storm=True, lost_seconds=9.0, lost_ratio=0.015)
NEWEST = {"train.train_step": site()["explanation"]}
OOM = {"jitwatch_oom_total": [{"value": 2.0}]}


def memory(**fields):
    device = {"device": "gpu:0", "in_use_bytes": 78 * 2**30, "limit_bytes": 80 * 2**30, "in_use_from": "device"}
    return {"devices": [device], "pressure": [], "leaks": [], **fields}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (process(), ("ok", "healthy: nothing was compiled yet")),
        (process(function()), ("ok", "healthy: every function was compiled once, none again")),
        (process(function(recompiles=1)), ("ok", "healthy: nothing recompiled in the last minute")),
        (
            process(function(recompiles=1), recent=Recent(0.0)),
            ("ok", "healthy: 1 recompile so far, which cost little"),
        ),
        (
            process(in_progress=[{"function": "train.train_step", "phase": "compile", "for_s": 12.0}]),
            ("ok", "healthy: something compiles for the first time"),
        ),
        (
            process(function(), in_progress=[{"function": "train.train_step", "phase": "compile", "for_s": 12.0}]),
            ("warn", "train_step is being compiled again"),
        ),
        (
            process(function("__jax__"), in_progress=[{"function": "__jax__", "phase": "compile", "for_s": 1.0}]),
            ("ok", "healthy: something compiles for the first time"),
        ),
        (
            process(in_progress=[{"function": "train.train_step", "phase": "compile", "for_s": 720.0}]),
            ("warn", "train_step has been compiling for 12.0 min"),
        ),
        (
            process(pitfalls=[pitfall()]),
            ("warn", "nothing is wrong right now, but there is advice on 1 known pitfall below"),
        ),
        (
            process(STORM, recent=Recent(60.0, {"train.train_step": 12}, NEWEST)),
            ("bad", "train_step recompiles: 12 times in the last minute, newest because length 11 → 12"),
        ),
        (
            process(STORM, STORM | {"function": "b"}, recent=Recent(20.4, {"train.train_step": 2, "b": 1})),
            ("bad", "train_step recompiles: twice in the last 20 s; and 1 other function too"),
        ),
        (
            process(STORM, STORM | {"function": "b"}, recent=Recent(20.4, {"train.train_step": 2})),
            ("bad", "train_step recompiles: twice in the last 20 s"),
        ),
        (
            process(STORM, recent=Recent(0.0, {}, NEWEST)),
            ("bad", "train_step recompiles in a storm: 12 times so far, newest because length 11 → 12"),
        ),
        (process(STORM), ("warn", "train_step recompiled 12 times, but not in the last minute")),
        (
            process(function(recompiles=1), recent=Recent(60.0, {"train.train_step": 1}, NEWEST)),
            ("warn", "train_step recompiled once in the last minute, newest because length 11 → 12"),
        ),
        (
            process(function(recompiles=1), recent=Recent(60.0, {"train.train_step": 1}, steady_violations=1)),
            ("bad", "train_step recompiled once in the last minute"),
        ),
        (
            process(function(), recent=Recent(60.0, steady_violations=1)),
            ("bad", "1 compile in the last minute, although the job said that it is steady"),
        ),
        (
            process(function(recompiles=3, lost_seconds=30.0, lost_ratio=0.05)),
            ("warn", "recompiles have cost 5 % of the run (30.0 s) so far, most of it train_step"),
        ),
        (
            process(recent=Recent(60.0, donation_violations=3)),
            ("bad", "donated arrays are misused: 3 times in the last minute"),
        ),
        (process(totals={"donation_violations": 2}), ("warn", "donated arrays were misused twice so far")),
        (process(recent=Recent(60.0, out_of_memory=1)), ("bad", "memory ran out once in the last minute")),
        (process(metrics=OOM), ("warn", "memory ran out twice so far")),
        (
            process(memory=memory(pressure=["gpu:0", "host"])),
            ("bad", "nearly out of memory: gpu:0, host (78.0 of 80.0 GiB)"),
        ),
        (
            process(memory=memory(leaks=["live_arrays", "host"])),
            ("warn", "memory keeps growing: live arrays, host"),
        ),
        (Process(URL, "new"), ("gone", "no answer yet")),
        (Process(URL, "new", problem="nothing listens there"), ("gone", "nothing listens there")),
        (
            replace(process(STORM, status="silent"), quiet_s=12.0, problem="no answer within 5 s"),
            ("warn", "not answering since 12 s: no answer within 5 s"),
        ),
        (
            replace(process(STORM, status="ended"), quiet_s=12.0),
            ("gone", "ended 12 s ago: nothing listens at 127.0.0.1:10431 any more"),
        ),
    ],
)
def test_verdict_says_the_worst_in_plain_words(given, expected):
    """Of each thing that can be wrong, now or before, and of each way to be well."""
    found = verdict_of(given)

    assert expected == (found.level, found.sentence)


def test_verdicts_name_all_that_is_wrong_the_worst_first():
    """A storm does not hide that memory ran out."""
    found = verdicts_of(process(STORM, recent=Recent(60.0, {"train.train_step": 2}, out_of_memory=1), metrics=OOM,
                                totals={"donation_violations": 1}))  # fmt: skip

    assert ["bad", "bad", "warn"] == [one.level for one in found]
    assert found[0].sentence.startswith("memory ran out")
    assert found[1].sentence.startswith("train_step recompiles")


def test_verdict_prefers_what_is_wrong_now_to_what_was():
    """A shortage of yesterday does not hide a storm."""
    found = verdicts_of(process(STORM, recent=Recent(60.0, {"train.train_step": 2}), metrics=OOM))

    assert ["bad", "warn"] == [one.level for one in found]
    assert "train_step recompiles: twice in the last minute" == found[0].sentence


@pytest.mark.parametrize("expected", [None, "a new phase: evaluation"])
@pytest.mark.parametrize("site", [None, "/home/user/train.py:88", "cell:3"])
@pytest.mark.parametrize("nth", [1, 2, 12, 103])
def test_reason_is_read_from_our_own_words(nth, site, expected):
    """Whatever `words.of_recompile` writes, its reason is found again, and so is where the advice begins."""
    event = Compiled(
        function=Function("train.train_step", "train_step"), call_site=site, signature=None, nth=nth, trace_s=0.25,
        lower_s=0.25, compile_s=0.25, causes=("static_arg",), expected=expected,
        changes=(Change("length", "static_arg", "11", "12"),),
    )  # fmt: skip
    text = words.of_recompile(event)

    assert "length 11 → 12" == words.of_changes(event) == reason_of(text)
    assert text.startswith(without_advice(text))
    assert without_advice(text).endswith(
        "0.75 s lost." if expected is None else "0.75 s, expected: a new phase: evaluation."
    )


@pytest.mark.parametrize("text", ["", "something else", "f recompiled: no end"])
def test_reason_of_other_text_is_empty(text):
    """And nothing of it is cut."""
    assert ("", text) == (reason_of(text), without_advice(text))
