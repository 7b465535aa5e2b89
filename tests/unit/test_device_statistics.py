"""What backends say of their memory, in our words."""

from __future__ import annotations

from typing import Any

import pytest

from jitwatch.model.devices import DeviceMemory, Reading, normalized
from tests.unit import payloads


def told(statistics: Any) -> DeviceMemory:
    return normalized(Reading("gpu:0", "card", "gpu", statistics))


def figures(device: DeviceMemory) -> tuple[int | None, ...]:
    return device.in_use, device.peak, device.limit, device.reserved, device.largest_free_block


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        (payloads.CUDA, (41_875_931_136, 57_311_248_384, 63_739_396_096, 63_739_396_096, None)),
        (payloads.ROCM, (12_884_901_888, 17_179_869_184, 51_527_024_640, 0, None)),
        (payloads.TPU, (9_126_805_504, 21_474_836_480, 33_014_415_360, 268_435_456, 23_622_320_128)),
        (payloads.CPU, (None, None, None, None, None)),
        (payloads.UNSET, (1_000, None, None, None, None)),
        ({}, (None, None, None, None, None)),
        ({"bytes_limit": 100}, (None, None, 100, None, None)),
        ({"bytes_in_use": 5, "bytes_limit": 0, "bytes_reservable_limit": 70}, (5, None, 70, None, None)),
        ({"bytes_in_use": 5, "something_new": object()}, (5, None, None, None, None)),
        ({"bytes_in_use": 5.0}, (5, None, None, None, None)),
        ({"bytes_in_use": 100, "bytes_limit": 100, "largest_free_block_bytes": 0}, (100, None, 100, None, 0)),
    ],
)
def test_statistics_are_understood(statistics, expected):
    """Each backend's own form, partial ones and new keys; what is not told is None, never 0."""
    assert expected == figures(told(statistics))


@pytest.mark.parametrize("odd", ["17", None, True, float("nan"), float("inf"), -1, -5.0, [1], object()])
def test_odd_value_is_not_told(odd):
    """A value that is no number of bytes is left out."""
    device = told({"bytes_in_use": odd, "bytes_limit": 10})

    assert device.in_use is None
    assert not device.is_supported


@pytest.mark.parametrize("statistics", [[], "none", 7])
def test_answer_that_is_no_mapping_is_a_problem(statistics):
    """It is named, by its type only."""
    device = told(statistics)

    assert not device.is_supported
    assert f"memory_stats() returned a {type(statistics).__name__}" == device.problem


def test_ratio_needs_both_figures():
    """Use divided by the limit, where both are known."""
    assert 0.5 == told({"bytes_in_use": 5, "bytes_limit": 10}).ratio
    assert told({"bytes_in_use": 5}).ratio is None
    assert told({"bytes_limit": 5}).ratio is None
    assert told({"bytes_in_use": 5, "bytes_limit": 0}).ratio is None


def test_who_it_is_stays():
    """Name, model, platform and the reason for silence are passed on."""
    device = normalized(payloads.gpu(3, None, "INTERNAL: driver is gone"))

    assert ("gpu:3", "NVIDIA H100 80GB HBM3", "gpu") == (device.device, device.kind, device.platform)
    assert "INTERNAL: driver is gone" == device.problem
