"""Records become events of the declared classes, whichever way their fields are checked."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest

from jitwatch.model.events import Compiled, MemorySampled
from jitwatch.model.events.base import EVENT_TYPES
from jitwatch.report import decode as decoding
from jitwatch.report.decode import decode, decoder_of, fitting
from tests.unit.logs import TOKENS, compiled, lines, recompiled, sampled


def record_of(event) -> dict:
    return json.loads(lines(event)[0], parse_int=float)


def test_decoded_event_is_like_one_that_was_created():
    """Of its own class, frozen, equal to a copy, and no further kind of event is known."""
    event = decode(record_of(recompiled()), []).event

    assert isinstance(event, Compiled)
    assert [Compiled, Compiled] == [type(event), EVENT_TYPES[Compiled.kind]]
    assert event == dataclasses.replace(event) == pickle.loads(pickle.dumps(event))
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.compile_s = 7.0  # type: ignore[misc]
    assert "" not in EVENT_TYPES


@pytest.mark.parametrize("token", TOKENS)
def test_fields_of_a_row_are_checked_as_those_of_a_record(token):
    """Each field of a device with an odd value."""
    value = json.loads(token, parse_int=float)
    row = record_of(sampled())["devices"][0]
    kinds = {"device": decoding.TEXT, "in_use_bytes": decoding.NUMBER, "stats_supported": decoding.FLAG}
    kinds |= {"in_use_ratio": decoding.RATIO, "problem": decoding.TEXT}
    for name in kinds:
        odd, misfits, expected = row | {name: value}, [], []
        event = decode(record_of(sampled()) | {"devices": [odd]}, misfits).event
        assert isinstance(event, MemorySampled)
        found = fitting(odd, kinds, expected)
        assert found == {name: event.devices[0][name] for name in kinds if name in event.devices[0]}
        assert [f"devices: {one}" for one in expected] == misfits


@pytest.mark.parametrize("name", ["function", "name", "location", "causes", "changes"])
def test_decoding_does_not_keep_large_texts(name):
    """A log of lines of a mebibyte each takes no more memory than another."""
    caches = (decoding._texts, decoding._change, decoding._function)
    decode(record_of(recompiled()), [])
    sizes = [cache.cache_info().currsize for cache in caches]
    for number in range(3):
        text = f"{number}" * 100_000
        value = {"causes": [text], "changes": [{"path": text}]}.get(name, text)
        event = decode(record_of(recompiled()) | {name: value}, []).event
        assert isinstance(event, Compiled)
        assert len(event.function.label) <= 1_000
        assert max(map(len, (*event.causes, *(change.path for change in event.changes)))) <= 1_000
    kept = [cache.cache_info().currsize - size for cache, size in zip(caches, sizes, strict=True)]

    assert [0, 0, 0] == [max(0, more - 3 * (name == "changes" and index == 1)) for index, more in enumerate(kept)]


@pytest.mark.parametrize(("event", "number"), [("jit.compiled", 1), ("jit.recompiled", 2)])
def test_decoding_numbers_a_compile_by_the_name_of_its_event(event, number):
    """Where the record has no number, or another one."""
    for nth in (None, 1.0, -1.0, "x"):
        decoded = decode(record_of(compiled()) | {"event": event, "nth": nth}, [])
        assert isinstance(decoded.event, Compiled)
        assert number == decoded.event.nth


def test_a_record_without_a_required_field_has_no_event():
    """The name of the field is said."""
    for name, value in (("compile_s", None), ("compile_s", "x"), ("function", None), ("function", 7.0)):
        decoded = decode(record_of(compiled()) | {name: value}, [])
        assert (None, name) == (decoded.event, decoded.missing)
    assert decoder_of(Compiled).kinds["compile_s"] is decoding.SECONDS
