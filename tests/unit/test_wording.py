"""Recompiles in sentences: exact texts, from hand-made events and from real programs; and redaction."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import io
import json
import os
import pty
import struct
import termios
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jitwatch
from jitwatch.model.events import Compiled
from jitwatch.model.function import Change, Function
from jitwatch.render import formats, wording
from tests.recompiles import compile_events, compiles_of

STEP = Function("train.train_step", "train_step", "/home/me/train.py:10")


def recompiled(*changes, nth=2, **fields):
    causes = tuple(dict.fromkeys(change.kind for change in changes))
    defaults = {
        "causes": causes,
        "call_site": "/home/me/train.py:88",
        "trace_s": 0.3,
        "lower_s": 2.0,
        "compile_s": 10.0,
    }
    return Compiled(function=STEP, nth=nth, changes=tuple(changes), **defaults | fields)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("jit(f)/jit(main)/jvp()/dot_general", "dot_general"),
        ("jit(f)/dot_general[dimension_numbers=(((1,), (0,)), ((), ()))/x]", "dot_general"),
        ("argument state['a/b'][0]", "argument state['a/b'][0]"),
        ("fusion", "fusion"),
        ("", ""),
        (None, ""),
    ],
)
def test_operation_is_named_by_its_last_part(op, name):
    """The path of an argument stays."""
    assert name == wording.name_of_operation(op)


def test_buffers_that_are_alike_are_counted():
    """Three kinds, and how many more; rows of an odd log are left out."""
    row = {"bytes": 1 << 30, "shape": "f32[8]", "op": "jit(f)/dot", "call_site": "/home/me/train.py:7"}
    rows = [row, row, row | {"shape": ""}, row | {"bytes": "x"}, row | {"call_site": None}, {"bytes": 5}, {"bytes": 6}]

    assert (
        "2 × 1 GiB f32[8] dot at train.py:7, 1 GiB dot at train.py:7, 1 GiB f32[8] dot and 2 more"
        == wording.of_buffers(rows)
    )
    assert "" == wording.of_buffers([])
    assert wording.of_peak({"peak_bytes": None, "peak_buffers": rows}, name="f") is None
    assert wording.of_peak({"peak_bytes": 5}, name="f") is None


TOKENS = Change("batch['tokens']", "shape", "int32[8,512]", "int32[8,498]")
SMALLER = Change("batch['tokens']", "shape", "int32[512,8]", "int32[498,8]")
LABELS = Change("batch['labels']", "shape", "int32[512]", "int32[498]")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            recompiled(TOKENS, nth=4),
            "train_step recompiled (3rd time) at train.py:88: batch['tokens'] int32[8,512] → int32[8,498]. "
            "12.3 s lost. If that is the last batch of an epoch, drop the remainder or pad it to 512.",
        ),
        (
            recompiled(dataclasses.replace(TOKENS, after="int32[8,600]")),
            "train_step recompiled at train.py:88: batch['tokens'] int32[8,512] → int32[8,600]. 12.3 s lost. "
            "Keep the shape constant, or pad to a few sizes.",
        ),
        (
            recompiled(dataclasses.replace(TOKENS, after="int32[7,498]")),
            "train_step recompiled at train.py:88: batch['tokens'] int32[8,512] → int32[7,498]. 12.3 s lost. "
            "Keep the shape constant, or pad to a few sizes.",
        ),
        (
            recompiled(SMALLER, LABELS),
            "train_step recompiled at train.py:88: batch['tokens'] int32[512,8] → int32[498,8]; "
            "batch['labels'] int32[512] → int32[498]. 12.3 s lost. "
            "If that is the last batch of an epoch, drop the remainder or pad it to 512.",
        ),
        (
            recompiled(Change("x", "shape", "float32[4]", "float32[4,2]")),
            "train_step recompiled at train.py:88: x float32[4] → float32[4,2]. 12.3 s lost. "
            "Keep the shape constant, or pad to a few sizes.",
        ),
        (
            recompiled(Change("config.hidden_dim", "static_arg", "8", "16"), call_site=None),
            "train_step recompiled: config.hidden_dim 8 → 16. 12.3 s lost. "
            "If it changes often, pass it as an ordinary argument instead of a static one.",
        ),
        (
            recompiled(Change("step", "weak_type", "int32, weak type", "int32, strong type"), nth=23),
            "train_step recompiled (22nd time) at train.py:88: step int32, weak type → int32, strong type. "
            "12.3 s lost. Make it an array once before the loop, with jnp.asarray(value, dtype).",
        ),
        (
            recompiled(Change("function", "new_function", "one function object", "another for the same code")),
            "train_step recompiled at train.py:88: the function was jitted again: a new function object for the "
            "same code. 12.3 s lost. Call jax.jit once, outside of the loop, and reuse the result.",
        ),
        (
            recompiled(Change("scale", "new_function", "1", "2")),
            "train_step recompiled at train.py:88: the function was jitted again, scale 1 → 2. 12.3 s lost. "
            "Call jax.jit once, outside of the loop, and reuse the result.",
        ),
        (
            recompiled(Change("function", "transform", "called as it is", "transformed (grad, vmap, …)")),
            "train_step recompiled at train.py:88: the first use under grad, vmap or another transformation. "
            "12.3 s spent. This is expected; there is nothing to do.",
        ),
        (
            recompiled(Change("jit cache", "cache_cleared", "held the program", "cleared by clear_caches()")),
            "train_step recompiled at train.py:88: the jit cache had the program, but was cleared by "
            "clear_caches(). 12.3 s lost. Clear caches between phases of the job, not in a loop.",
        ),
        (
            recompiled(Change("jit cache", "cache_cleared", "held the program", "lost entries since")),
            "train_step recompiled at train.py:88: the jit cache no longer had the program. 12.3 s lost. "
            "Clear caches between phases of the job, not in a loop.",
        ),
        (
            recompiled(causes=("unknown",)),
            "train_step recompiled at train.py:88: the cause is unknown. 12.3 s lost.",
        ),
        (
            recompiled(TOKENS, advice="Pad to 512"),
            "train_step recompiled at train.py:88: batch['tokens'] int32[8,512] → int32[8,498]. 12.3 s lost. "
            "Pad to 512.",
        ),
        (
            recompiled(
                Change("options of jax.jit", "new_function", "as before", "another donate_argnums"), trace_s=None
            ),
            "train_step recompiled at train.py:88: the function was jitted again with another donate_argnums. "
            "12.0 s lost. Call jax.jit once, outside of the loop, and reuse the result.",
        ),
        (
            recompiled(*[dataclasses.replace(TOKENS, path=f"x[{i}]") for i in range(5)], changes_left_out=95),
            "train_step recompiled at train.py:88: x[0] int32[8,512] → int32[8,498]; x[1] int32[8,512] → "
            "int32[8,498]; x[2] int32[8,512] → int32[8,498]; and 97 more. 12.3 s lost. "
            "If that is the last batch of an epoch, drop the remainder or pad it to 512.",
        ),
    ],
)
def test_recompile_in_sentences(event, expected):
    """What changed, where, what it cost, what to do."""
    assert expected == wording.of_recompile(event)


def test_first_compile_has_words_too():
    """The steady state says why it was violated, also by a first compile."""
    assert "its first compile" == wording.of_changes(recompiled(nth=1))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0004, "0.4 ms"), (0.0099, "9.9 ms"), (0.25, "0.25 s"), (9.994, "9.99 s"), (12.34, "12.3 s"), (600, "10.0 min")],
)
def test_seconds_are_rounded_as_a_person_would(value, expected):
    """Three digits are enough."""
    assert expected == formats.seconds(value)


@pytest.mark.parametrize(
    ("nth", "expected"),
    [
        (2, ""),
        (3, " (2nd time)"),
        (4, " (3rd time)"),
        (12, " (11th time)"),
        (22, " (21st time)"),
        (112, " (111th time)"),
    ],
)
def test_recompiles_are_counted_in_words(nth, expected):
    """From the second one on."""
    assert wording.of_recompile(recompiled(TOKENS, nth=nth)).startswith(f"train_step recompiled{expected} at")


def explanation(program):
    return compiles_of(program)[-1]["explanation"]


def test_last_batch_is_explained_with_the_size_to_pad_to():
    """The example that every training loop meets once."""

    def program():
        @jax.jit
        def train_step(batch):
            return batch["tokens"].sum()

        for size in (8, 8, 3):
            train_step({"tokens": np.ones((size, 16), np.int32)})

    text = explanation(program)
    assert text.startswith("train_step recompiled at test_wording.py:")
    assert "batch['tokens'] int32[8,16] → int32[3,16]. " in text
    assert text.endswith("s lost. If that is the last batch of an epoch, drop the remainder or pad it to 8.")


def test_static_config_is_explained_by_its_field():
    """Not by the whole object."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        width: int
        depth: int

    def program():
        step = jax.jit(lambda x, config: x, static_argnames="config")
        step(1.0, config=Config(8, 2))
        step(1.0, config=Config(16, 2))

    assert ": config.width 8 → 16. " in explanation(program)


# Redaction

SECRETS = ["secret-1", "secret-2", "secret-3", "secret-4", "secret-5", "secret-6"]


@dataclasses.dataclass(frozen=True)
class Credentials:
    token: str
    width: int = 8


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["key"])
@dataclasses.dataclass
class Model:
    w: object
    key: str


def secretive():
    """Every way in which a value of the user comes into an explanation."""
    step = jax.jit(lambda x, name, credentials=None: x, static_argnames=("name", "credentials"))
    step(1.0, name=SECRETS[0])
    step(1.0, name=SECRETS[1])
    step(1.0, name=SECRETS[1], credentials=Credentials(SECRETS[2]))
    step(1.0, name=SECRETS[1], credentials=Credentials(SECRETS[3]))
    for secret in SECRETS[:2]:
        jax.jit(lambda x: x + len(secret))(1.0)  # noqa: B023
        jax.jit(functools.partial(lambda x, key: x + len(key), key=secret))(1.0)
    on_model = jax.jit(lambda model: model.w)
    on_model(Model(jnp.ones(2), SECRETS[4]))
    on_model(Model(jnp.ones(2), SECRETS[5]))


def everything_told(watch):
    """All that leaves the agent, as text."""
    pages = [json.dumps(watch.snapshot()), json.dumps(watch.events(10_000))]
    for path in ("/", "/metrics", "/api/v1/state", "/api/v1/events?since=0"):
        with urllib.request.urlopen(watch.url + path, timeout=10) as answer:
            pages.append(answer.read().decode())
    return "\n".join(pages)


def test_redacted_job_shows_no_value(tmp_path):
    """In no event, page or metric, nor in the log; the names of arguments and fields stay."""
    log = tmp_path / "events.jsonl"
    with jitwatch.install(port=0, redact=True, event_log=log) as watch:
        secretive()
        told = everything_told(watch)
        events = compile_events(watch)
    told += log.read_text()
    assert "secret-" not in told
    paths = {change["path"] for event in events for change in event.get("changes", [])}
    assert {"name", "credentials", "credentials.token", "secret", "key", "model.key"} >= paths - {"function"}
    assert {"name", "credentials.token", "model.key"} <= paths


def test_job_that_is_not_redacted_shows_values():
    """The same program without the option, so that the test above can fail."""
    with jitwatch.install(port=0) as watch:
        secretive()
        told = everything_told(watch)
    assert [] == [secret for secret in SECRETS if secret not in told]


def test_redaction_hides_no_shapes():
    """Shapes, dtypes and structures are no values of static arguments."""

    def program():
        step = jax.jit(lambda x: 1)
        step({"a": np.ones(2, np.float32)})
        step({"a": np.ones(3, np.float32)})
        step({"a": [np.ones(3, np.float32)]})

    _, shape, structure = compiles_of(program, redact=True)
    assert [("float32[2]", "float32[3]")] == [(one["before"], one["after"]) for one in shape["changes"]]
    assert [("float32[3]", "list of 1")] == [(one["before"], one["after"]) for one in structure["changes"]]


@pytest.mark.parametrize(("terminal", "expected"), [(72, 72), (240, 100), (10, 40), (0, 100)])
def test_columns_are_those_of_the_terminal(terminal, expected):
    """Within what can be read well."""
    master, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, terminal, 0, 0))
    try:
        with os.fdopen(other, "w") as stream:
            assert expected == formats.columns(stream)
    finally:
        os.close(master)


def test_columns_of_a_file_are_a_hundred(tmp_path):
    """And of what is no stream at all, or is closed."""
    with (tmp_path / "text").open("w") as stream:
        assert 100 == formats.columns(stream)
    assert [100, 100, 100] == [formats.columns(one) for one in (stream, None, io.StringIO())]


def test_paragraph_has_the_width_that_it_was_given():
    """Names and paths stay whole, later lines are indented."""
    text = formats.paragraph("one two three four five " + "x" * 50, 20)
    assert ["one two three four", "    five", f"    {'x' * 50}"] == text.split("\n")


def test_cell_of_a_notebook_is_called_so():
    """Its file is a number of ten digits that nobody knows."""
    assert "cell:3" == formats.file_line("/tmp/ipykernel_8123/1234567890.py:3")
    assert "1234567890.py:3" == formats.file_line("/tmp/job/1234567890.py:3")
