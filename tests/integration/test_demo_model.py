"""The demo's corpus, model and training loop, on the real text with real compiles."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest
from jax import monitoring

from jitwatch.demo import model, text
from jitwatch.demo import train as loop
from jitwatch.demo.train import Progress, Result, train

if hasattr(monitoring, "unregister_event_duration_listener"):
    unregister_listener = monitoring.unregister_event_duration_listener
else:  # JAX < 0.8.1; goes when that is the oldest supported release.
    from jax._src.monitoring import _unregister_event_duration_listener_by_callback as unregister_listener

TINY = model.ModelConfig(vocabulary_size=103, length=16, width=16, heads=2, layers=1)


@contextmanager
def counted_compiles() -> Iterator[Counter[str]]:
    """Count XLA compiles by function name within the block."""
    compiles: Counter[str] = Counter()

    def listen(event: str, duration: float, **metadata: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiles[str(metadata["fun_name"]).removeprefix("jit(").removesuffix(")")] += 1

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiles
    finally:
        unregister_listener(listen)


@pytest.fixture(scope="module")
def corpus() -> tuple[np.ndarray, str]:
    """The first 5,000 characters: tokens and vocabulary."""
    tokens, vocabulary = text.load_corpus()
    return tokens[:5_000], vocabulary


@pytest.fixture(scope="module")
def short_run() -> tuple[Result, list[Progress], int, Counter[str]]:
    """One run of `train(steps=24)`: its result, reports, number of `on_step` calls and compiles."""
    # Other tests may have compiled the same shapes in this process.
    model.train_step.clear_cache()
    model.eval_step.clear_cache()
    reports: list[Progress] = []
    ticks: list[None] = []
    with counted_compiles() as compiles:
        result = train(steps=24, on_progress=reports.append, on_step=lambda: ticks.append(None))
    return result, reports, len(ticks), compiles


def test_load_corpus_decodes_back_to_the_help_topics() -> None:
    """The ids stand for the text of all topics in sorted key order."""
    tokens, vocabulary = text.load_corpus()

    assert np.uint8 == tokens.dtype
    assert "".join(sorted(vocabulary)) == vocabulary
    assert "\n".join(topics[name] for name in sorted(topics)) == text.decode(tokens, vocabulary)


def test_load_corpus_is_deterministic(corpus: tuple[np.ndarray, str]) -> None:
    """Reading twice gives the same ids and vocabulary."""
    tokens, vocabulary = text.load_corpus()

    assert corpus[1] == vocabulary
    np.testing.assert_array_equal(corpus[0], tokens[:5_000])


def test_batches_cover_every_window_once_and_end_with_a_partial_one() -> None:
    """Each character but the first is a target exactly once; the last batch is what remains."""
    tokens = np.arange(11 * 5 + 1)

    got = list(text.batches(tokens, batch_size=4, length=5, seed=0))

    assert [(4, 6), (4, 6), (3, 6)] == [batch.shape for batch in got]
    assert {np.dtype(np.int32)} == {batch.dtype for batch in got}
    targets = np.concatenate([batch[:, 1:].ravel() for batch in got])
    assert list(range(1, 56)) == sorted(targets.tolist())


def test_batches_shuffle_by_seed() -> None:
    """The same seed gives the same order, another seed another one."""
    tokens = np.arange(400)

    def first_column(seed: int) -> list[int]:
        return np.concatenate(list(text.batches(tokens, batch_size=8, length=5, seed=seed)))[:, 0].tolist()

    assert first_column(1) == first_column(1)
    assert first_column(1) != first_column(2)
    assert sorted(first_column(1)) == sorted(first_column(2))


def test_loss_of_a_fresh_model_is_that_of_a_uniform_guess(corpus: tuple[np.ndarray, str]) -> None:
    """Before training, the loss is about log(vocabulary): initialization favours no character."""
    state = model.init_state(jax.random.key(0), TINY)
    batch = next(text.batches(corpus[0], batch_size=8, length=TINY.length, seed=0))

    assert pytest.approx(math.log(TINY.vocabulary_size), abs=0.1) == float(model.eval_step(state.params, batch))


def test_logits_do_not_depend_on_later_characters() -> None:
    """Attention is causal: changing the last character changes the last scores only."""
    params = model.init_state(jax.random.key(0), TINY).params
    tokens = np.zeros((1, TINY.length), np.int32)
    changed = tokens.copy()
    changed[0, -1] = 7

    before, after = (np.asarray(jax.jit(model.logits)(params, batch)) for batch in (tokens, changed))

    np.testing.assert_allclose(before[:, :-1], after[:, :-1], rtol=1e-6)
    assert not np.allclose(before[:, -1], after[:, -1])


def test_train_step_lowers_the_loss(corpus: tuple[np.ndarray, str]) -> None:
    """30 steps on one tiny batch take the loss well below that of a uniform guess."""
    state = model.init_state(jax.random.key(0), TINY)
    batch = next(text.batches(corpus[0], batch_size=8, length=TINY.length, seed=0))

    losses = []
    for _ in range(30):
        state, loss = model.train_step(state, batch)
        losses.append(loss)

    first, *_, last = jax.device_get(losses)
    assert last < first - 0.5
    assert 30 == int(state.step)


def test_train_step_donates_the_whole_state(corpus: tuple[np.ndarray, str]) -> None:
    """Every buffer of the old state is gone after a step, every one is usable, and all stay float32 or int32."""
    model.train_step.clear_cache()
    before = model.init_state(jax.random.key(0), TINY)
    batch = next(text.batches(corpus[0], batch_size=8, length=TINY.length, seed=0))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, _ = model.train_step(before, batch)

    assert {True} == {leaf.is_deleted() for leaf in jax.tree.leaves(before)}
    assert {"float32", "int32"} == {str(leaf.dtype) for leaf in jax.tree.leaves(after)}


def test_generate_is_reproducible_and_stays_in_the_vocabulary() -> None:
    """The same key writes the same text, as long as asked for."""
    params = model.init_state(jax.random.key(0), TINY).params
    prompt = np.zeros(TINY.length, np.int32)

    first, again = (np.asarray(model.generate(params, jax.random.key(1), prompt, characters=9)) for _ in range(2))

    assert (9,) == first.shape
    assert first.tolist() == again.tolist()
    assert set(first.tolist()) <= set(range(TINY.vocabulary_size))


def test_train_compiles_each_step_function_twice(
    short_run: tuple[Result, list[Progress], int, Counter[str]],
) -> None:
    """Once for whole batches and once for the smaller last one, however many epochs."""
    *_, compiles = short_run

    assert 2 == compiles["train_step"]
    assert 2 == compiles["eval_step"]


def test_train_takes_exactly_the_steps_asked_for(
    short_run: tuple[Result, list[Progress], int, Counter[str]],
) -> None:
    """It reports after the first step, every 20 and the last; `on_step` is called for each."""
    result, reports, ticks, _ = short_run

    assert (24, 24) == (result.steps, ticks)
    assert [(1, 24), (20, 24), (24, 24)] == [(report.step, report.steps) for report in reports]
    assert (reports[0].loss, reports[-1].loss) == (result.first_loss, result.last_loss)
    assert all(report.tokens_per_s > 0 for report in reports)


def test_train_learns_and_writes_a_sample(short_run: tuple[Result, list[Progress], int, Counter[str]]) -> None:
    """Even a short run lowers the loss on text it has not seen."""
    result, *_ = short_run

    assert result.last_loss < result.first_loss - 0.5
    assert result.eval_loss < result.first_loss - 0.5
    assert 120 == len(result.sample)


def test_train_is_deterministic(short_run: tuple[Result, list[Progress], int, Counter[str]]) -> None:
    """The same seed and steps give the same model."""
    result, *_ = short_run

    again = train(steps=24, on_progress=lambda _: None)

    assert pytest.approx(result.last_loss, rel=1e-4) == again.last_loss
    assert pytest.approx(result.eval_loss, rel=1e-4) == again.eval_loss


def test_train_without_a_budget_finishes_one_epoch() -> None:
    """However few the seconds, every batch is seen once, the partial one included."""
    reports: list[Progress] = []

    result = train(seconds=0.0, train_windows=3 * loop.BATCH_SIZE + 20, on_progress=reports.append)

    assert 4 == result.steps
    assert [(1, 4), (4, 4)] == [(report.step, report.steps) for report in reports]
    assert result.elapsed_s >= reports[-1].elapsed_s


def test_train_refuses_no_steps() -> None:
    """`steps=0` is an error that says what was expected."""
    with pytest.raises(ValueError, match="expected at least 1"):
        train(steps=0, on_progress=lambda _: None)


def test_corpus_is_long_enough() -> None:
    """All the windows that training and evaluation count on exist in this Python's help topics.

    And neither divides into whole batches, so that each epoch ends with a partial one.
    """
    tokens, _ = text.load_corpus()

    assert len(tokens) > (loop.TRAIN_WINDOWS + loop.EVAL_WINDOWS) * loop.LENGTH
    assert [20, 12] == [loop.TRAIN_WINDOWS % loop.BATCH_SIZE, loop.EVAL_WINDOWS % loop.BATCH_SIZE]


def test_import_of_the_package_is_light() -> None:
    """`import jitwatch.demo` does not import JAX, so the agent can start before it."""
    code = "import sys, jitwatch.demo; print('jax' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False\n" == done.stdout
