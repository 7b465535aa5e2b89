"""A JAX of the future: each private name gone, changed, called otherwise, or there and never called.

Where JAX has renamed something, it looks to the agent like a hook that expects another name. So the hook is changed,
and JAX goes on as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import logging
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from jitwatch import guard
from jitwatch.cli import doctor
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.instrument import target_of

_ALL = {name: hook for name, hook in vars(compat).items() if isinstance(hook, compat.Hook)}
#: Without one of them compiles are counted by JAX's names only.
REQUIRED = tuple(
    name for name, hook in _ALL.items() if hook in (compat.infer_hook(), compat.LOWER, compat.COMPILE, compat.CREATE)
)
#: Hooks that the rest can do without, of those that this version has.
OPTIONAL = tuple(name for name, hook in _ALL.items() if hook.sees and hook.missing() is None and name not in REQUIRED)
#: Names of older versions only.
_OF_OTHER_VERSIONS = {"INFER_0_9_0", "JIT_IMPLEMENTATION_0_7", "JIT_IMPLEMENTATION"} - {
    name for name, hook in _ALL.items() if hook in (compat.infer_hook(), compat.jit_implementation_hook())
}
#: One required hook, or all others.
CHOICES = [*((name,) for name in REQUIRED), OPTIONAL]
each = pytest.mark.parametrize("names", CHOICES, ids=lambda names: names[0] if len(names) == 1 else "others")


#: Totals that must not depend on how JAX calls its own functions.
COUNTED = ("compiles", "jax_compiles", "recompiles", "donation_violations")


def job() -> list[Any]:
    """A little of everything that the hooks look at; the answer is what it has computed and what was raised."""
    found: list[Any] = []

    def step(state, batch):
        return jax.tree.map(lambda leaf: leaf * 0.5 + batch, state)

    train = jax.jit(step, donate_argnums=0)
    state = {"w": jnp.arange(3.0), "b": jnp.ones(2)}
    old = dict(state)
    for _ in range(3):
        state = train(state, 1.0)
    try:
        old["w"] + 1
    except (RuntimeError, ValueError) as error:
        found.append(type(error))
    loss = jax.jit(lambda x: (x * x).sum())
    found += [loss(jnp.ones(4)), loss(jnp.ones(5)), jax.grad(loss)(jnp.ones(4))]
    found.append(jax.device_put(state["w"], jax.devices()[1]).addressable_shards[0].data)
    found.append(train.lower(state, 1.0).compile()(state, 1.0)["w"].block_until_ready())
    loss.clear_cache()
    found.append(loss(jnp.ones(4)))
    return [one if isinstance(one, type) else one.tolist() for one in found]


@functools.cache
def expected() -> tuple[list[Any], int]:
    """What the job computes without an agent, and how often JAX compiles in it."""
    seen: list[str] = []

    def count(event: str, duration: float, **details: Any) -> None:
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    job()
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        return job(), len(seen)
    finally:
        sys.modules["jax._src.monitoring"]._event_duration_secs_listeners.remove(count)


@functools.cache
def counted() -> dict[str, Any]:
    """What the agent counts of the job with this JAX."""
    jax.clear_caches()
    with jitwatch.install(port=0, mark_donated=False) as watch:
        job()
        return {key: watch.snapshot()["totals"][key] for key in COUNTED}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], dict[str, Any]]:
    """Run the job with an agent; what it computes must be what it computes without one."""
    # As in production: an observer that meets what it does not expect is a failure of ours that is counted.
    monkeypatch.setattr(guard, "reraise", False)
    results, backend_compiles = expected()

    def start() -> dict[str, Any]:
        jax.clear_caches()
        with caplog.at_level(logging.INFO, logger="jitwatch"), jitwatch.install(port=0, mark_donated=False) as watch:
            assert results == job()
            state = watch.snapshot()
        # Each compile is counted once, whoever saw it: by the function, or by JAX's name.
        assert backend_compiles == state["totals"]["compiles"] + state["totals"]["jax_compiles"]
        return state

    return start


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Failures of ours that were caught."""
    seen: list[str] = []
    failed = guard.failed
    monkeypatch.setattr(guard, "failed", lambda component: (seen.append(component), failed(component)))
    return lambda: seen


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> compat.Hook:
    """Let the agent expect something else of a name."""
    hook = dataclasses.replace(getattr(compat, name), **changes)
    monkeypatch.setattr(compat, name, hook)
    return hook


def down(state: dict[str, Any]) -> str:
    """Why probes are down."""
    return "; ".join(probe["reason"] for probe in state["probes"].values() if not probe["up"])


@each
@pytest.mark.parametrize("change", ["name", "parameters"])
def test_name_that_is_gone_or_has_other_parameters_is_reported(  # noqa: PLR0917
    run, failures, monkeypatch, caplog, names, change
):
    """What is not seen is said with the name, compiles are counted, and the rest goes on."""
    changed = []
    for name in names:
        if change == "name":
            changed.append(replaced(monkeypatch, name, attribute=f"_{name.lower()}_of_the_future"))
        elif getattr(compat, name).parameters:
            changed.append(replaced(monkeypatch, name, parameters=("of", "the", "future")))
    state = run()
    assert changed
    for hook in changed:
        if hook.name == "jit_implementation":
            continue  # where neither the newer nor the older name is there, the newer is missed
        assert f"{hook.owner}.{hook.attribute}" in down(state)
        assert f"{hook.owner}.{hook.attribute}" in caplog.text
    assert failures() == []
    if names == OPTIONAL:
        assert state["probes"]["cache"]["up"]
        assert "by JAX's names only" not in down(state)
        assert 0 < state["totals"]["compiles"]


@each
def test_name_that_jax_no_longer_calls_harms_nothing(run, failures, monkeypatch, names):
    """It is there under the same name and with the same parameters, and JAX calls something else."""
    for name in names:
        hook = getattr(compat, name)
        if not hook.is_python:
            continue
        function = target_of(hook.get())
        decoy = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
        decoy.__kwdefaults__ = function.__kwdefaults__
        monkeypatch.setattr(hook.resolve(), f"_decoy_{name}", decoy, raising=False)
        replaced(monkeypatch, name, attribute=f"_decoy_{name}")
    state = run()
    assert failures() == []
    assert ("on a path without hooks" in down(state)) == (names[0] in REQUIRED and names[0] != "CREATE")


def with_one_more_parameter(function: types.FunctionType) -> types.FunctionType:
    """The function with a keyword of the future, from its own source, whose lines are not those of the file."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    definition.args.kwonlyargs.append(ast.arg("of_the_future"))
    definition.args.kw_defaults.append(ast.Constant(None))
    found: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec"), function.__globals__, found)
    return found[function.__name__]


def called_with_keywords(function: types.FunctionType) -> Callable[..., Any]:
    """The function for callers that pass by position, called with the names of all parameters that have one."""
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return function

    @functools.wraps(function)
    def other(*args, **kwargs):
        bound = signature.bind(*args, **kwargs).arguments
        positions = [bound.pop(one.name) for one in parameters if one.kind is one.POSITIONAL_ONLY]
        others = {
            key: value
            for one in parameters
            if one.kind is one.VAR_KEYWORD
            for key, value in bound.pop(one.name, {}).items()
        }
        return function(*positions, **bound, **others)

    # It is JAX's code in that future.
    other.__code__ = other.__code__.replace(
        co_filename=function.__code__.co_filename, co_name=function.__code__.co_name
    )
    return other


@each
@pytest.mark.parametrize("how", [with_one_more_parameter, called_with_keywords])
def test_name_that_is_called_otherwise_is_seen_as_well(run, failures, monkeypatch, names, how):
    """With keywords instead of positions, or with a parameter that nobody knows: nothing is missed."""
    with monkeypatch.context() as patch:
        for name in names:
            hook = getattr(compat, name)
            function = inspect.getattr_static(hook.resolve(), hook.attribute)
            if hook.is_python and isinstance(function, types.FunctionType) and not function.__code__.co_freevars:
                patch.setattr(hook.resolve(), hook.attribute, how(function))
        state = run()
    # JAX sets `clear_cache` of all jitted functions anew whenever it makes one.
    jax.jit(job)
    assert failures() == []
    assert "" == down(state)
    assert counted() == {key: state["totals"][key] for key in COUNTED}


def test_this_version_has_every_name():
    """Nothing is off here."""
    assert {} == compat.missing_hooks()
    assert [] == compat.absent_hooks()
    assert set(OPTIONAL) == {
        name for name, hook in _ALL.items() if hook.sees and name not in {*REQUIRED, *_OF_OTHER_VERSIONS}
    }


def test_doctor_names_what_is_not_seen(monkeypatch):
    """With the private name, as a warning; the rest works."""
    replaced(monkeypatch, "DEVICE_PUT", attribute="_device_put_of_the_future")
    hooks = next(check for check in doctor._jax() if check.name == "hooks")
    assert "warn" == hooks.status
    assert "jax._src.dispatch._device_put_of_the_future does not exist" in hooks.text
