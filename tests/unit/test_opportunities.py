"""Donations that would pay: found in loops that replace their state, silent where an argument is used again."""

from __future__ import annotations

import dis

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from jitwatch import agent_parts
from jitwatch.jaxhooks.calling_code import rebinding_at
from jitwatch.probes.compile import CompileProbe
from jitwatch.probes.donation import DonationProbe
from tests.unit.donations import values

SIZE = 1000


class SensitiveProbe(DonationProbe):
    """A smaller state than that of a real job is large enough."""

    def __init__(self, context):
        super().__init__(context, large=4 * SIZE)


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr(agent_parts, "PROBES", (CompileProbe, SensitiveProbe))
    with jitwatch.install(port=0, sample_interval_s=3600) as installed:
        yield installed


def sampled(watch) -> dict[str, float]:
    """Bytes of the opportunities by function, after a round of the sampler."""
    watch._agent._sampler.sample_once()
    return values(watch, "donation_opportunity_bytes")


def new_state(size=SIZE):
    return {"w": jnp.ones(size), "b": jnp.ones(2)}


def new_step():
    return jax.jit(lambda state, batch: ({name: leaf + batch for name, leaf in state.items()}, batch * 2))


def loop(step):
    state = new_state()
    for _ in range(3):
        state, _ = step(state, 1.0)


def attribute(step):
    class Trainer:
        state = new_state()

        def train(self):
            for _ in range(3):
                self.state, _ = step(self.state, 1.0)

    Trainer.state = new_state()
    trainer = Trainer()
    trainer.state = new_state()
    del Trainer.state
    trainer.train()


def epoch_in_a_function(step):
    def epoch(state):
        for _ in range(3):
            state, _ = step(state, 1.0)
        return state

    state = new_state()
    state = epoch(state)


def over_several_lines(step):
    state = new_state()
    for _ in range(3):
        (
            state,
            _,
        ) = step(
            state,
            1.0,
        )


def new_then_rebound(step):
    state = new_state()
    for _ in range(3):
        new, _ = step(state, 1.0)
        state = new


def item(step):
    box = {"state": new_state()}
    for _ in range(3):
        box["state"], _ = step(box["state"], 1.0)


@pytest.mark.parametrize("program", [loop, attribute, epoch_in_a_function, over_several_lines, new_then_rebound, item])
def test_state_that_is_replaced_is_an_opportunity(watch, program):
    """Function, bytes and advice; told once."""
    program(new_step())
    assert {"<lambda>": 4 * (SIZE + 2)} == sampled(watch)
    (pitfall,) = watch.snapshot()["pitfalls"]
    assert ("missed_donation", "state", "Donate it: jax.jit(…, donate_argnames='state')") == (
        pitfall["pitfall"],
        pitfall["subject"],
        pitfall["advice"],
    )
    assert pitfall["call_site"].startswith(__file__)
    sampled(watch)
    assert 1 == len(watch.snapshot()["pitfalls"])


def small_state(step):
    state = new_state(10)
    for _ in range(3):
        state, _ = step(state, 1.0)


def best_kept_later(step):
    best = state = new_state()
    for i in range(6):
        if i == 3:
            best = state
        state, _ = step(state, 1.0)
    return best


def start_used_by_the_caller(step):
    def epoch(state):
        for _ in range(3):
            state, _ = step(state, 1.0)
        return state

    state = new_state()
    new = epoch(state)
    return float((new["w"] - state["w"])[0])


def old_state_kept(step):
    first = state = new_state()
    for _ in range(3):
        state, _ = step(state, 1.0)
    kept.append(first)


def result_under_another_name(step):
    state = new_state()
    for _ in range(3):
        new, _ = step(state, 1.0)
    kept.append(new)


def gradients_of_parameters(step):
    grad = jax.jit(jax.grad(lambda params: (params["w"] ** 2).sum()))
    params = new_state()
    for _ in range(3):
        grads = grad(params)
        params = jax.tree.map(lambda p, g: p - g, params, grads)


def called_once(step):
    state = new_state()
    state, _ = step(state, 1.0)


def already_donated(step):
    donating = jax.jit(lambda state: {name: leaf + 1 for name, leaf in state.items()}, donate_argnums=0)
    state = new_state()
    for _ in range(3):
        state = donating(state)


def another_type_comes_out(step):
    narrow = jax.jit(lambda state: {name: leaf.astype(jnp.int8) for name, leaf in state.items()})
    for _ in range(3):
        state = new_state()
        state = narrow(state)


def argument_comes_out_as_it_is(step):
    unchanged = jax.jit(lambda state: (state, state["b"] + 1))
    state = new_state()
    for _ in range(3):
        state, _ = unchanged(state)


def evaluation(step):
    evaluate = jax.jit(lambda state, batch: (state["w"] * batch).sum())
    state = new_state()
    for _ in range(3):
        loss = evaluate(state, 1.0)
    kept.append((state, loss))


kept: list[object] = []
SILENT = [
    small_state,
    old_state_kept,
    best_kept_later,
    start_used_by_the_caller,
    result_under_another_name,
    gradients_of_parameters,
    called_once,
    already_donated,
    another_type_comes_out,
    argument_comes_out_as_it_is,
    evaluation,
]


@pytest.mark.parametrize("program", SILENT)
def test_nothing_is_said_where_donating_would_not_pay(watch, program):
    """Too small, used again, replaced by something else, called once, donated already."""
    try:
        program(new_step())
        assert {} == sampled(watch)
        assert [] == [one for one in watch.snapshot()["pitfalls"] if one["pitfall"] == "missed_donation"]
    finally:
        kept.clear()


def test_argument_given_to_another_function_is_used_again(watch):
    """A second function that compiles with the same argument shows that it is needed."""
    step, other = new_step(), jax.jit(lambda state: state["w"].sum())
    state = new_state()
    for number in range(3):
        before = state
        state, _ = step(state, 1.0)
        if number == 0:
            other(before)
    del before
    assert {} == sampled(watch)


def test_no_array_is_kept_alive_by_looking(watch):
    """Only weak references are kept, and those end with the agent."""
    import weakref

    step, state = new_step(), new_state()
    first = weakref.ref(state["w"])
    state, _ = step(state, 1.0)
    assert first() is None
    jitwatch.uninstall()
    assert state["w"].shape == (SIZE,)


def calls_in(source: str):
    """For each call of `f` in the source, whether its result replaces an argument."""
    code = compile(source, "<test>", "exec")
    loads = [i for i, one in enumerate(dis.get_instructions(code)) if one.argval == "f" and "LOAD" in one.opname]
    instructions = list(dis.get_instructions(code))
    found = []
    for start in loads:
        span = instructions[start].positions
        call = next(
            one
            for one in instructions[start:]
            if one.opname in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") and one.positions.col_offset == span.col_offset
        )
        rebinding = rebinding_at(code, call.offset)
        found.append(rebinding is not None and not rebinding.has_alias)
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = f(x)", True),
        ("x, y = f(x, z)", True),
        ("(a, x), y = f(x, z)", True),
        ("y, *x = f(x)", True),
        ("x = f(state=x)", True),
        ("o.x = f(o.x)", True),
        ("o.p, o.q = f(o.p, o.q)", True),
        ("x = y = f(x)", True),
        ("x = f(*args, x)", True),
        ("y = f(x)", False),
        ("f(x)", False),
        ("y = g(f(x))", False),
        ("x = g(f(x), 1)", False),
        ("y = f(x); x = y", True),
        ("y, z = f(x); x = y", True),
        ("y = f(x); z = y; x = z", True),
        ("y = f(x); z = y", False),
        ("d['s'] = f(d['s'])", True),
        ("d['s'], z = f(d['s'])", True),
        ("d['s'] = f(d['t'])", False),
        ("d['s'] = f(e['s'])", False),
        ("x = f(x); best = x", False),
        ("best = x; x = f(x)", False),
        ("x = f(x); o.best = x", False),
        ("x = f(x); d['best'] = x", False),
        ("x = f(x); y = x + 1", True),
        ("o.y = f(o.x)", False),
        ("x = 1; y = f(z); x = 2", False),
        ("print(f(x))", False),
    ],
)
def test_rebinding_is_read_from_the_bytecode(source, expected):
    """The names before and after the call, whatever the form of the assignment."""
    assert [expected] == calls_in(source)


def test_rebinding_of_an_unknown_place_is_none():
    """An offset that is no instruction."""
    assert rebinding_at(compile("x = f(x)", "<test>", "exec"), 10_001) is None
