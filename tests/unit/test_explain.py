"""`jitwatch.explain()`: what recompiled and why, in paragraphs."""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest

import jitwatch
from jitwatch import guard
from jitwatch.model.events import (
    Compiled,
    DonationViolation,
    PitfallFound,
    SteadyViolated,
    Stepped,
    StormEnded,
    StormStarted,
)
from jitwatch.model.function import Change, Function
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import explain as explanation
from jitwatch.render import formats, wording
from jitwatch.render.explain import MAX_PARAGRAPHS, Explanation
from jitwatch.state.store import USER_RING, Store

STEP = Function("train.train_step", "train_step", "/home/ada/train.py:10")
LOSS = Function("train.loss", "loss", "/home/ada/train.py:30")
try:
    import equinox
    from flax import nnx
except ImportError:  # they follow the newest JAX only
    equinox = nnx = None

MODULE = __name__
needs_libraries = pytest.mark.skipif(equinox is None, reason="needs equinox and flax")
#: Never the same twice: JAX keeps the programs of this module's functions from test to test.
sizes = itertools.count(2)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Job:
    """A store whose events the test makes, with a clock in its hand."""

    def __init__(self) -> None:
        self.clock = Clock(1_700_000_000.0)
        self.store = Store(clock=self.clock, monotonic=self.clock)

    def add(self, *events, seconds: float = 0.0) -> Job:
        """Events, and then so many seconds."""
        for event in events:
            self.store.apply(event)
        self.clock.now += seconds
        return self

    def explain(self, wanted: str | None = None) -> tuple[str, ...]:
        return explanation.explain(self.store.snapshot(), self.store.records()[0], wanted).paragraphs


@pytest.fixture
def job():
    """Nothing has happened yet."""
    return Job()


@pytest.fixture
def watch():
    with jitwatch.install(port=0) as installed:
        yield installed


def compiled(function: Function = STEP, **options) -> Compiled:
    """A compile of two seconds."""
    return Compiled(**{"function": function, "trace_s": 0.25, "lower_s": 0.75, "compile_s": 1.0} | options)


def recompiled(before="int32[8]", after="int32[6]", *, path="batch['tokens']", cause="shape", line=88, **options):
    """A recompile of two seconds, as the diagnosis hands it on."""
    return compiled(
        **{
            "call_site": f"/home/ada/train.py:{line}",
            "nth": 2,
            "causes": (cause,),
            "changes": (Change(path, cause, before, after),),
        }
        | options
    )


def pitfall(**options) -> PitfallFound:
    """A mistake that was told."""
    return PitfallFound(
        **{
            "function": STEP,
            "call_site": "/home/ada/train.py:88",
            "pitfall": "shape_churn",
            "subject": "batch['tokens']",
            "message": "batch['tokens'] had 9 sizes in 10 compiles",
            "advice": "Pad it to 8",
            "lost_s": 2.0,
        }
        | options
    )


def shape(size):
    return np.ones(size, np.float32)


# What a paragraph says


def test_recompile_has_call_site_change_cost_and_advice(job):
    """All that a person asks, in one paragraph below one that sums up."""
    job.add(compiled(), recompiled(), seconds=50.0)

    assert (
        "1 recompile of train.train_step: 2.00 s lost, 4 % of the run.",
        "train_step recompiled at train.py:88, 50 s ago: batch['tokens'] int32[8] → int32[6]. 2.00 s lost, 4 % of the "
        "run. If that is the last batch of an epoch, drop the remainder or pad it to 8.",
    ) == job.explain()


def test_recompile_has_the_words_of_the_log(job):
    """Beginning, change and advice are those of the event's field `explanation`."""
    event = recompiled(nth=4)
    start, _, rest = wording.of_recompile(event).partition(": ")
    change, _, advice = rest.partition(" 2.00 s lost. ")
    told = job.add(compiled(), event).explain()[1]

    assert "train_step recompiled (3rd time) at train.py:88" == start
    assert (True, True, True) == (told.startswith(f"{start}, just now: "), change in told, told.endswith(advice))


def test_recompiles_that_are_alike_are_one_paragraph(job):
    """Same function, line, cause and argument: how many, the newest as the example, the seconds of all."""
    for size in (7, 6, 5):
        job.add(recompiled(after=f"int32[{size}]"), seconds=10.0)

    assert (
        "train_step recompiled 3 times at train.py:88, last 10 s ago: batch['tokens'] int32[8] → int32[5]. 6.00 s "
        "lost, 20 % of the run. If that is the last batch of an epoch, drop the remainder or pad it to 8.",
    ) == job.explain()[1:]


def test_recompiles_that_differ_have_paragraphs_of_their_own(job):
    """By function, line, cause, argument, and by whether they were planned; the newest first."""
    events = [
        recompiled(line=1),
        recompiled(line=2, path="batch['labels']"),
        recompiled("int32", "float32", line=3, cause="dtype"),
        recompiled(line=4, function=LOSS),
        recompiled(line=5),
        recompiled(line=5, cause="dtype"),
        recompiled(line=5, expected="longer context"),
    ]
    for event in events:
        job.add(event, seconds=1.0)
    head, *told = job.explain()

    assert "7 recompiles of 2 functions: 12.0 s lost" == head.partition(",")[0]
    assert head.endswith(" Newest first:")
    assert [f"train.py:{line}," for line in (5, 5, 5, 4, 3, 2, 1)] == [text.split()[3] for text in told]
    assert told[3].startswith("loss recompiled at train.py:4, 4 s ago: ")


def test_planned_recompiles_are_not_called_lost(job):
    """What was announced says so, and the first use under `grad` is normal; neither asks for a change."""
    change = Change("function", "transform", "called as it is", "transformed (grad, vmap, …)")
    job.add(recompiled(expected="longer context"), recompiled(changes=(change,), cause="transform", line=99))
    head, *told = job.explain()

    assert "2 recompiles of train.train_step: no time lost. Newest first:" == head
    assert [
        "train_step recompiled at train.py:99, just now: the first use under grad, vmap or another "
        "transformation. 2.00 s spent. This is expected; there is nothing to do.",
        "train_step recompiled at train.py:88, just now: batch['tokens'] int32[8] → int32[6]. 2.00 s, expected: longer "
        "context.",
    ] == told


def test_cost_is_in_steps_where_the_job_reports_them(job):
    """Measured in steps that did not compile; and each paragraph says at which step it was."""
    job.add(Stepped(steps=1, duration_s=None), Stepped(steps=1_200, duration_s=60.0), recompiled(), seconds=200.0)
    head, told = job.explain()

    assert "1 recompile of train.train_step: 2.00 s lost, 1 % of the run, equivalent to 40 steps." == head
    assert told.startswith("train_step recompiled at train.py:88, 3.3 min ago at step 1,201: ")


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (
            {"lost_seconds": 12.34, "lost_ratio": 0.04, "lost_steps": 310.2},
            "12.3 s lost, 4 % of the run, equivalent to 310 steps",
        ),
        (
            {"lost_seconds": 12.34, "lost_ratio": 0.0041, "lost_steps": 1.4},
            "12.3 s lost, under 1 % of the run, equivalent to 1 step",
        ),
        ({"lost_seconds": 0.004, "lost_ratio": 0.0, "lost_steps": 0.2}, "4.0 ms lost, less than one step"),
        (
            {"lost_seconds": 9000.0, "lost_ratio": 1.25, "lost_steps": None, "lost_calls": 5310.0},
            "2.5 h lost, 125 % of the run, equivalent to 5,310 calls",
        ),
        (
            {"lost_seconds": 90.0, "lost_ratio": 0.5, "lost_steps": 2.0, "lost_calls": 7.0},
            "90.0 s lost, 50 % of the run, equivalent to 2 steps",
        ),
        ({"lost_seconds": 0.0, "lost_ratio": 0.0, "lost_steps": 0.0}, "no time lost"),
    ],
)
def test_cost_in_words(cost, expected):
    """Seconds, share, and steps, or calls where there are no steps; never zero for something."""
    assert expected == wording.of_cost(cost)


def test_cost_is_in_calls_where_they_are_counted(job):
    """A function whose calls are watched: 100 calls in 50 s are four in the two seconds lost."""
    job.add(recompiled(), seconds=50.0)
    state = job.store.snapshot()
    state["functions"][0]["calls"] = 100
    told = explanation.explain(state, job.store.records()[0]).paragraphs[1]

    assert "2.00 s lost, 4 % of the run, equivalent to 4 calls. " in told


def test_loss_since_steady_is_separate(job):
    """A share of the time since then, not of the run."""
    job.add(recompiled(), seconds=900.0)
    since = job.clock.now
    job.store.set("steady_since_timestamp_seconds", since)
    job.add(
        recompiled(),
        SteadyViolated(function=STEP, call_site=None, spent_s=2.0, action="count", since=since),
        seconds=100.0,
    )

    assert (
        "2 recompiles of train.train_step: 4.00 s lost, under 1 % of the run. Since jitwatch.steady(): 2.00 s lost, 2 "
        "% of that time." == job.explain()[0]
    )


# Pitfalls and storms


def test_pitfall_is_explained_with_the_recompiles_that_show_it(job):
    """Once, in their paragraph, with its message and its advice in place of a hint."""
    job.add(recompiled(), recompiled(after="int32[5]", pitfall="shape_churn", advice="Pad it to 8"), pitfall())
    job.add(recompiled(after="int32[4]"), seconds=100.0)
    (_, told) = job.explain()

    assert told.endswith(
        ": batch['tokens'] int32[8] → int32[4]. 6.00 s lost, 6 % of the run. Pitfall shape_churn: batch['tokens'] had "
        "9 sizes in 10 compiles. Pad it to 8."
    )


def test_pitfall_about_another_argument_is_not_mixed_up(job):
    """Of two pitfalls of a name, each goes with the recompiles of its own argument."""
    for path in ("x", "y"):
        job.add(recompiled(path=path, pitfall="shape_churn"), pitfall(subject=path, message=f"{path} had 9 sizes"))
    _, second, first = job.explain()

    assert (
        ("x int32[8]" in first, "churn: x had" in first)
        == (True, True)
        == ("y int32[8]" in second, "churn: y had" in second)
    )


def test_pitfall_that_no_recompile_shows_has_its_own_paragraph(job):
    """Without recompiles it costs none; what it has cost by now is told where it does."""
    job.add(compiled(), pitfall(pitfall="mutable_default", message="x is []", lost_s=0.0), seconds=5.0)
    job.add(recompiled(), recompiled(), pitfall(), seconds=95.0)
    _, churn, *_, mutable = job.explain()

    assert (
        "shape_churn in train_step (train.py:10) at train.py:88, 95 s ago: batch['tokens'] had 9 sizes in 10 compiles. "
        "Pad it to 8." == churn
    )
    assert "mutable_default in train_step (train.py:10) at train.py:88, 1.7 min ago: x is []. Pad it to 8." == mutable


def test_repeated_pitfall_has_its_count_and_its_last_time(job):
    """Not as of the first time, which may be hours ago; of another leaf it is another mistake."""

    def used(leaf):
        return DonationViolation(
            violation="use_after_donate", function=STEP, call_site="/home/ada/train.py:90", leaf="x", shape=(2,),
            dtype="float32", bytes=8, donated_leaf=leaf,
        )  # fmt: skip

    told = {"pitfall": "use_after_donate", "message": "state was used", "lost_s": 0.0}
    job.add(used("state"), pitfall(**told, subject="state"), seconds=7200.0)
    job.add(used("batch"), pitfall(**told, subject="batch"), seconds=60.0)
    job.add(used("state"), used("state"), seconds=0.0)
    _, first, second = job.explain()

    assert "use_after_donate in train_step (train.py:10) at train.py:88, 3 times, last just now: state was" in first
    assert "at train.py:88, 60 s ago: state was" in second


def test_pitfall_of_jax_itself_is_explained(job):
    """Eager operations in a loop are the user's to change, though the programs are JAX's."""
    job.add(pitfall(function=Function(JAX_LABEL, "add"), pitfall="eager_churn", message="40 of them", lost_s=0.0))

    assert (
        "No function has compiled since the agent was installed.",
        "eager_churn in __jax__ at train.py:88, just now: 40 of them. Pad it to 8.",
    ) == job.explain()


def test_storm_is_explained_while_active_and_after_its_end(job):
    """Only the last news of each function."""
    job.add(recompiled(), StormStarted(function=STEP, recompiles=5, within_s=600.0), seconds=30.0)
    assert "train_step is in a storm that began 30 s ago: 5 recompiles within 10.0 min." == job.explain()[1]

    job.add(StormEnded(function=STEP, recompiles=23, lasted_s=90.0, lost_s=46.0), seconds=7.0)
    storms = [text for text in job.explain() if "storm" in text]
    assert ["A storm of train_step ended 7 s ago: 23 recompiles in 90.0 s, 46.0 s lost."] == storms


# Which function


@pytest.mark.parametrize("wanted", ["train.train_step", "train_step", "train.*", "*step", "tra?n_step"])
def test_function_is_found_by_label_last_part_or_pattern(job, wanted):
    """And nothing of the others is told."""
    job.add(recompiled(function=Function("eval.loss", "loss")), recompiled())
    head, told = job.explain(wanted)

    assert head.startswith("1 recompile of train.train_step: ")
    assert told.startswith("train_step recompiled")


def test_function_of_exactly_this_label_comes_before_those_that_end_so(job):
    """`step` is a function of its own here."""
    job.add(*(recompiled(function=Function(label, "step")) for label in ("step", "train.step", "eval.step")))

    assert "1 recompile of step: " == job.explain("step")[0][: len("1 recompile of step: ")]
    assert job.explain("train.step")[0].startswith("1 recompile of train.step: ")
    assert job.explain("*.step")[0].startswith("2 recompiles of 2 functions: ")


def test_local_function_is_found_without_its_place(job):
    """Nobody types `<locals>` and a line."""
    job.add(recompiled(function=Function("train.main.<locals>.step@train.py:5", "step")))

    for wanted in ("step", "main.<locals>.step", "step@train.py:5", "train.main.<locals>.step@train.py:5"):
        assert "step recompiled" in job.explain(wanted)[1], wanted


def test_functions_of_the_same_name_are_named_by_their_labels(job):
    """`step recompiled` would leave open which."""
    job.add(*(recompiled(function=Function(label, "step")) for label in ("train.step", "eval.step")))

    assert ["eval.step", "train.step"] == [text.split()[0] for text in job.explain()[1:]]


def test_unknown_function_gets_suggestions(job):
    """The nearest names, by label or last part, and which functions there are."""
    job.add(recompiled(), compiled(LOSS))

    assert (
        "No function named 'trian_step' has been jitted or compiled since the agent was installed. Did you mean "
        "train.train_step? Known: train.train_step, train.loss.",
    ) == job.explain("trian_step")
    assert "Did you mean" not in job.explain("zzz")[0]


def test_unknown_function_among_many(job):
    """Ten of them are named."""
    job.add(*(compiled(Function(f"train.f{number}", f"f{number}")) for number in range(1_500)))

    assert job.explain("zzz")[0].endswith(", train.f9 and 1,490 more.")


def test_explain_without_recompiles_counts_the_compiles(job):
    """For all functions, for one that compiled, and for one that did not."""
    assert ("No function has compiled since the agent was installed.",) == job.explain()
    job.add(compiled(), compiled(LOSS))
    job.store.know(Function("train.idle", "idle"))

    assert ("No function has recompiled: 2 compiles of 2 functions since the agent was installed.",) == job.explain()
    assert ("No function has recompiled: 1 compile of train.loss since the agent was installed.",) == job.explain(
        "loss"
    )
    assert ("train.idle has not compiled since the agent was installed.",) == job.explain("idle")


def test_jax_itself_is_not_explained(job):
    """Its small programs are counted, not diagnosed."""
    job.add(*(compiled(Function(JAX_LABEL, "add")) for _ in range(3)))

    assert (
        "JAX compiled 3 small programs of its own. The causes of their recompiles are not recorded.",
    ) == job.explain(JAX_LABEL)
    job.add(compiled())
    assert ("No function has recompiled: 1 compile of train.train_step since the agent was installed.",) == job.explain(
        "*"
    )
    assert job.explain("__j*")[0].startswith("JAX compiled 3 small programs")


# Bounds


def test_paragraphs_are_bounded(job):
    """The newest are told, and how to see the others."""
    job.add(*(recompiled(line=line) for line in range(MAX_PARAGRAPHS + 5)))
    told = job.explain()

    assert MAX_PARAGRAPHS + 2 == len(told)
    assert "And 5 more; jitwatch.explain('train_step') shows those of one function." == told[-1]


def test_records_that_are_gone_are_not_passed_over(job):
    """The sums are of all recompiles; of the oldest only the sums are left."""
    job.add(*(recompiled() for _ in range(USER_RING + 50)), seconds=100_000.0)
    head, told = job.explain()

    assert head == (
        "10,050 recompiles of train.train_step: 5.6 h lost, 20 % of the run. The records of the oldest 50 are no "
        "longer kept."
    )
    assert "train_step recompiled 10,000 times" in told


def test_records_that_came_after_the_state_are_left_out(job):
    """Or the paragraphs would count more than the sums."""
    state = job.add(recompiled()).store.snapshot()
    job.add(recompiled())

    assert "recompiled at" in explanation.explain(state, job.store.records()[0]).paragraphs[1]


def test_function_without_a_row_in_the_state_is_explained(job):
    """Past ten thousand functions there is no row for it, but its records name it."""
    job.add(recompiled(), pitfall(pitfall="dtype_flip"))
    state = job.store.snapshot()
    state["functions"].clear()

    told = explanation.explain(state, job.store.records()[0]).paragraphs[1:]
    assert ["dtype_flip", "train_step"] == [text.split()[0] for text in told]


def test_text_is_wrapped_with_a_hanging_indent(job):
    """A hundred columns; a blank line between paragraphs; names and paths stay whole."""
    path = "state.params['" + "layer-" * 30 + "']"
    text = str(explanation.Explanation(("one", "word " * 60 + path)))
    first, blank, *rest = text.splitlines()

    assert ("one", "") == (first, blank)
    assert [False, *[True] * (len(rest) - 1)] == [line.startswith("    ") for line in rest]
    assert 100 >= max(len(line) for line in rest if path not in line)
    assert path in text


# Through the agent


def test_explain_without_an_agent_names_the_next_step(monkeypatch):
    """Before install, after uninstall, and where the agent is switched off."""
    missing = "No agent runs in this process: call jitwatch.install() first."
    assert missing == str(jitwatch.explain())
    jitwatch.install(port=0)
    assert "No function has compiled since the agent was installed." == str(jitwatch.explain())
    jitwatch.uninstall()
    assert missing == str(jitwatch.explain("train_step"))
    monkeypatch.setenv("JITWATCH_DISABLE", "1")
    assert str(jitwatch.install().explain()).startswith("JITWATCH_DISABLE is set")


def test_explain_of_a_job_names_line_argument_and_cost(watch):
    """From real compiles: two shapes of one argument, and a first use under `vmap`."""

    def explained_step(state, batch):
        return state["w"].sum() * batch["tokens"].sum()

    step = jax.jit(explained_step)
    for size in (8, 6, 5):
        step({"w": shape(2)}, {"tokens": shape(size)})
    jax.vmap(step, in_axes=(None, 0))({"w": shape(2)}, {"tokens": np.ones((8, 3), np.float32)})
    head, derived, shapes = jitwatch.explain().paragraphs

    assert (
        f"of {MODULE}.test_explain_of_a_job_names_line_argument_and_cost.<locals>.explained_step@test_explain.py:"
        in head
    )
    assert "lost, " in head
    assert derived.startswith("explained_step recompiled ")
    assert "the first use under grad, vmap or another transformation" in derived
    assert shapes.startswith("explained_step recompiled 2 times at test_explain.py:")
    assert ": batch['tokens'] float32[6] → float32[5]. " in shapes
    assert shapes.endswith("If that is the last batch of an epoch, drop the remainder or pad it to 6.")


def test_explain_shows_its_text_by_itself(watch):
    """In a REPL the bare expression is enough."""
    jax.jit(plain_target)(shape(next(sizes)))

    assert repr(jitwatch.explain()) == str(jitwatch.explain()) == str(watch.explain())
    assert str(watch.explain()).startswith(
        "No function has recompiled: 1 compile of tests.unit.test_explain.plain_target"
    )


def test_handle_explains_after_uninstalling(watch):
    """The state stays readable, and so does what it means."""
    function = jax.jit(lambda x: x * 2)
    function(shape(2))
    function(shape(3))
    watch.uninstall()

    assert "x float32[2] → float32[3]" in str(watch.explain())
    assert "x float32[2] → float32[3]" in str(watch.explain(function))


class Model:
    """A callable object, and one whose method is jitted."""

    def __call__(self, x):
        return x + 1

    def method(self, x):
        return x + 2


class Wrapped:
    """A class, which is a callable too; this one hands on what it is given."""

    def __new__(cls, x):
        return x


def plain_target(x):
    return x * 2


def other_target(x):
    return x * 3


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: (jax.jit(plain_target),), "plain_target"),
        (lambda: (jax.jit(plain_target), plain_target), "plain_target"),
        (lambda: (jax.jit(functools.partial(plain_target)),), "plain_target"),
        (lambda: (jax.jit(plain_target), functools.partial(plain_target)), "plain_target"),
        (lambda: (jax.jit(jax.vmap(plain_target)),), "plain_target"),
        pytest.param(lambda: (equinox.filter_jit(plain_target),), "plain_target", marks=needs_libraries),
        pytest.param(lambda: (nnx.jit(plain_target),), "plain_target", marks=needs_libraries),
        (lambda: (jax.jit(Model().method),), "Model.method"),
        (lambda: (jax.jit(Model().method), Model.method), "Model.method"),
        (lambda: (jax.jit(Model()),), "Model.__call__"),
        (lambda: (jax.jit(Model()), Model()), "Model.__call__"),
        (lambda: (jax.jit(Wrapped), Wrapped), "Wrapped"),
    ],
    ids=[
        "jit",
        "plain",
        "jit of partial",
        "partial",
        "vmap",
        "equinox",
        "nnx",
        "bound",
        "method",
        "jit of object",
        "object",
        "class",
    ],
)
def test_function_itself_may_be_given(watch, make, name):
    """Jitted or not, wrapped or bound, by JAX or by a library: it is found, and no other."""
    function, *asked = make()
    other = jax.jit(other_target)
    for size in (next(sizes), next(sizes)):
        function(shape(size))
        other(shape(size))
    head = jitwatch.explain((asked or [function])[0]).paragraphs[0]

    assert head.startswith(f"1 recompile of {MODULE}.{name}: ")


def test_lambda_itself_may_be_given(watch):
    """Two lambdas of one module differ by their lines only."""
    one = jax.jit(lambda x: x + 1)
    other = jax.jit(lambda x: x + 2)
    one(shape(2))
    for size in (2, 3):
        other(shape(size))

    assert jitwatch.explain(one).paragraphs[0].startswith("No function has recompiled: 1 compile of ")
    assert jitwatch.explain(other).paragraphs[0].startswith("1 recompile of ")


def test_function_that_never_compiled_is_named(watch):
    """With its name as the agent would know it."""
    jax.jit(plain_target)(shape(next(sizes)))

    assert f"No function named '{MODULE}.other_target' has been" in jitwatch.explain(other_target).paragraphs[0]


@pytest.mark.parametrize("thing", [3, b"step", ["step"], object()])
def test_explain_of_another_object_names_what_it_expects(watch, thing):
    """Not raised: whoever asks is looking for trouble already."""
    assert "explain() expects a function or its name, such as explain('train.train_step')." == str(
        jitwatch.explain(thing)
    )


def test_no_code_of_the_users_objects_runs(watch):
    """Whatever its class computes for attributes, text, hash and comparison stays alone."""
    ran: list[str] = []

    def noted(name, result=None):
        return lambda *_: ran.append(name) or result

    class Meta(type):
        __getattribute__ = __instancecheck__ = noted("the class")

    special = ("__call__", "__getattribute__", "__getattr__", "__repr__", "__hash__", "__eq__", "__bool__", "__len__")
    attributes = {name: noted(name) for name in special} | {"__wrapped__": property(noted("wrapped"))}
    touchy = Meta("Touchy", (), attributes)()

    class Text(str):
        __slots__ = ()
        __getitem__ = __str__ = __repr__ = __eq__ = noted("the text", "x")
        __hash__ = None

    answers = [str(jitwatch.explain(one)) for one in (touchy, Text("train_step"), Text)]
    assert [] == ran
    assert ["No function"] * 3 == [text[:11] for text in answers]


def test_failure_of_ours_is_no_exception_of_the_job(watch, monkeypatch, caplog):
    """It is logged and counted, and the answer says so."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(explanation, "explain", lambda *_: 1 / 0)

    assert "The explanation failed" in str(jitwatch.explain())
    rows = watch.snapshot()["metrics"]["jitwatch_agent_errors_total"]
    assert [("explain", 1.0)] == [(row["labels"]["component"], row["value"]) for row in rows]
    assert "ZeroDivisionError" in caplog.text


def test_text_that_cannot_be_wrapped_is_shown_unwrapped(monkeypatch):
    """A failure of ours is counted and does not reach the `print()` of the job."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(formats, "paragraph", lambda *_: 1 / 0)
    assert "first\n\nsecond" == str(Explanation(("first", "second")))
