"""The training loop of the demo: epochs of shuffled batches, an evaluation after each, a sample at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
import numpy.typing as npt

from jitwatch.demo.model import ModelConfig, Params, TrainState, eval_step, generate, init_state, train_step
from jitwatch.demo.text import batches, decode, load_corpus

BATCH_SIZE = 32
#: Characters that a window predicts.
LENGTH = 64
#: Steps between two readings of the loss.
REPORT_EVERY = 20
# Neither number of windows is a multiple of the batch size, on purpose: the smaller last batch costs
# train_step and eval_step one recompile each, as in many real jobs, and the summary shows it.
TRAIN_WINDOWS = 150 * BATCH_SIZE + 20
EVAL_WINDOWS = 8 * BATCH_SIZE + 12
SAMPLE_CHARACTERS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of training, reported after the first step, every 20 steps and after the last.

    Attributes:
        step: Steps taken.
        steps: Steps in all: exact if requested, else an estimate from the pace so far.
        loss: Mean training loss since the previous report, nats per character.
        tokens_per_s: Characters predicted per second since the previous report; the first one includes compiling.
        elapsed_s: Seconds since training began.
    """

    step: int
    steps: int
    loss: float
    tokens_per_s: float
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of training: losses in nats per character, a sample of the model, and seconds of everything.

    `first_loss` is of the first step, `last_loss` as reported last, `eval_loss` on the held-out text.
    """

    steps: int
    first_loss: float
    last_loss: float
    eval_loss: float
    sample: str
    elapsed_s: float


@dataclass(slots=True, kw_only=True)
class _Run:
    """Decides when to stop and when to report; collects losses without waiting for the device."""

    seconds: float
    steps: int | None
    epoch_steps: int
    on_progress: Callable[[Progress], None]
    started_s: float = field(default_factory=time.perf_counter)
    step: int = 0
    #: After exactly `steps`, or else after `seconds` but not before one whole epoch.
    is_over: bool = False
    first_loss: float = math.nan
    last_loss: float = math.nan
    _losses: list[jax.Array] = field(default_factory=list)
    _tokens: int = 0
    _first_s: float = 0.0
    _reported_s: float = 0.0

    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started_s

    def add(self, loss: jax.Array, tokens: int) -> None:
        """Record a step: its loss, a float32 scalar that may still be computed, and the characters predicted."""
        self.step += 1
        self._losses.append(loss)
        self._tokens += tokens
        if self.steps is not None:
            self.is_over = self.step >= self.steps
        else:
            self.is_over = self.step >= self.epoch_steps and self.elapsed_s() >= self.seconds
        if self.step == 1 or self.step % REPORT_EVERY == 0 or self.is_over:
            self._report()

    def _report(self) -> None:
        # Reading a loss waits for its step. One read of many, and no arithmetic on the device:
        # a jnp.mean here would be one more compile for each number of losses.
        self.last_loss = float(np.mean(jax.device_get(self._losses)))
        now_s = self.elapsed_s()
        if self.step == 1:
            self.first_loss, self._first_s = self.last_loss, now_s
        progress = Progress(
            step=self.step,
            steps=self._expected_steps(now_s),
            loss=self.last_loss,
            tokens_per_s=self._tokens / (now_s - self._reported_s),
            elapsed_s=now_s,
        )
        self._losses.clear()
        self._tokens = 0
        self._reported_s = now_s
        self.on_progress(progress)

    def _expected_steps(self, now_s: float) -> int:
        if self.steps is not None:
            return self.steps
        # The pace is measured from the first report on, since the first step compiles.
        pace = (self.step - 1) / max(now_s - self._first_s, 1e-9)
        return max(self.epoch_steps, self.step + round(max(0.0, self.seconds - now_s) * pace))


def _windows(tokens: npt.NDArray[np.uint8], first: int, count: int) -> npt.NDArray[np.uint8]:
    """Cut out the text of `count` windows from window number `first` on."""
    return tokens[first * LENGTH : (first + count) * LENGTH + 1]


def _train_epoch(
    state: TrainState, tokens: npt.NDArray[np.uint8], seed: int, run: _Run, on_step: Callable[[], None]
) -> TrainState:
    """Go once through the text, or until the run is over."""
    for batch in batches(tokens, batch_size=BATCH_SIZE, length=LENGTH, seed=seed):
        state, loss = train_step(state, batch)
        on_step()
        run.add(loss, len(batch) * LENGTH)
        if run.is_over:
            break
    return state


def _evaluate(params: Params, tokens: npt.NDArray[np.uint8]) -> float:
    """Return the mean loss on the text, in nats per character."""
    found = list(batches(tokens, batch_size=BATCH_SIZE, length=LENGTH, seed=0))
    losses = [eval_step(params, batch) for batch in found]
    return float(np.average(jax.device_get(losses), weights=list(map(len, found))))


def _sample(params: Params, seed: int, tokens: npt.NDArray[np.uint8], vocabulary: str) -> str:
    """Generate a continuation of the start of the text, without that start."""
    prompt = tokens[:LENGTH].astype(np.int32)
    written = generate(params, jax.random.key(seed), prompt, characters=SAMPLE_CHARACTERS)
    return decode(np.asarray(written), vocabulary)


def train(
    *,
    seconds: float = 60.0,
    seed: int = 0,
    steps: int | None = None,
    train_windows: int = TRAIN_WINDOWS,
    on_progress: Callable[[Progress], None],
    on_step: Callable[[], None] = lambda: None,
) -> Result:
    """Train the demo's model from scratch.

    Args:
        seconds: How long to train; the epoch under way is cut short, except the first.
        seed: Of the parameters, the shuffling and the sample; at least 0.
        steps: Train exactly this many steps instead. The text is cut so that even a short run ends an epoch, with its
            smaller last batch (from 2 steps on).
        train_windows: Windows of text in an epoch.
        on_progress: Called after the first step, every 20 steps and after the last.
        on_step: Called after each step is dispatched; the device may still be executing it.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    epoch_steps = math.ceil(train_windows / BATCH_SIZE)
    if steps is not None:
        epoch_steps = min(epoch_steps, steps)
    run = _Run(seconds=seconds, steps=steps, epoch_steps=epoch_steps, on_progress=on_progress)
    # All of the text, though only a part is used: the vocabulary, and so the model, is then always the same.
    tokens, vocabulary = load_corpus()
    train_tokens = _windows(tokens, 0, (epoch_steps - 1) * BATCH_SIZE + train_windows % BATCH_SIZE)
    eval_tokens = _windows(tokens, train_windows, EVAL_WINDOWS)

    state = init_state(jax.random.key(seed), ModelConfig(vocabulary_size=len(vocabulary), length=LENGTH))
    eval_loss, epoch = math.nan, 0
    while not run.is_over:
        state = _train_epoch(state, train_tokens, seed + epoch, run, on_step)
        eval_loss = _evaluate(state.params, eval_tokens)
        epoch += 1
    return Result(
        steps=run.step,
        first_loss=run.first_loss,
        last_loss=run.last_loss,
        eval_loss=eval_loss,
        sample=_sample(state.params, seed + 1, eval_tokens, vocabulary),
        elapsed_s=run.elapsed_s(),
    )
