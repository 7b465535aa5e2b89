"""When a device or the machine is nearly full."""

from __future__ import annotations

import pytest

from jitwatch.diagnosis.pressure import HOST, FullMemory, Pressure, Use, full_memory, fullest, memory_level

GIB = 1 << 30


def use(percent: float, place: str = "gpu:0") -> Use:
    return Use(place, int(percent * GIB), 100 * GIB)


def reported(samples: list[tuple[float, float]], place: str = "gpu:0") -> list[tuple[float, str]]:
    """Times and states of the events of such percentages by time."""
    pressure = Pressure()
    return [(now, event.state) for now, percent in samples for event in pressure.sample(now, [use(percent, place)])]


def test_full_device_is_reported_with_its_bytes():
    """The event has the place, both figures and their ratio."""
    (event,) = Pressure().sample(0.0, [use(50, "gpu:1"), use(93)])

    assert ("gpu:0", "started", 0.93) == (event.place, event.state, event.ratio)
    assert (93 * GIB, 100 * GIB) == (event.in_use_bytes, event.limit_bytes)


def test_pressure_is_reported_once_while_it_lasts():
    """Hours at the limit are one event."""
    assert [(0.0, "started")] == reported([(at * 5.0, 95.0) for at in range(1000)])


def test_steps_that_cross_both_thresholds_are_one_pressure():
    """Within each step memory rises above the threshold and falls far below it."""
    assert [(0.0, "started")] == reported([(at * 5.0, 95.0 if at % 2 == 0 else 40.0) for at in range(1000)])


def test_pressure_ends_after_a_quiet_time():
    """It ends when memory has stayed below the lower threshold for five minutes."""
    samples = [(0.0, 91.0), (10.0, 86.0), (20.0, 80.0), (300.0, 80.0), (310.0, 80.0), (320.0, 80.0), (330.0, 92.0)]

    assert [(0.0, "started"), (310.0, "ended"), (330.0, "started")] == reported(samples)


def test_pressure_does_not_start_between_the_thresholds():
    """Only the upper threshold starts it, only the lower one ends it."""
    assert [] == reported([(0.0, 89.9), (5.0, 86.0)])


def test_machine_has_its_own_thresholds():
    """A machine at 93 % is well used; at 96 % the kernel may soon kill processes."""
    assert [] == reported([(0.0, 93.0)], HOST)
    assert [(0.0, "started"), (400.0, "ended")] == reported([(0.0, 96.0), (400.0, 89.0)], HOST)


def test_device_that_disappears_is_forgotten():
    """It leaves no state behind, and starts a new pressure when it is back."""
    pressure = Pressure()
    pressure.sample(0.0, [use(95)])
    assert ["gpu:0"] == pressure.active
    assert [] == pressure.sample(5.0, [])

    assert [] == pressure.active
    assert 1 == len(pressure.sample(10.0, [use(95)]))


def test_place_without_a_limit_is_never_full():
    """Nothing is divided by zero."""
    assert [] == Pressure().sample(0.0, [Use("gpu:0", GIB, 0)])


def state(devices: dict[str, int], host: int | None = None, pressure: tuple[str, ...] = ()) -> dict:
    """The state's memory with such percentages in use."""
    rows = [
        {"device": name, "stats_supported": True, "in_use_bytes": percent, "limit_bytes": 100}
        for name, percent in devices.items()
    ]
    machine = None if host is None else {"available_bytes": 100 - host, "total_bytes": 100, "resident_bytes": 1}
    return {"devices": rows, "host": machine, "pressure": list(pressure)}


@pytest.mark.parametrize(
    ("place", "percent", "level"),
    [("gpu:0", 89, "good"), ("gpu:0", 90, "warn"), ("gpu:0", 95, "bad"), (HOST, 94, "good"), (HOST, 95, "warn")],
)
def test_level_follows_from_the_share_in_use(place, percent, level):
    """A machine has thresholds of its own."""
    assert level == memory_level(place, percent / 100)


def test_full_memory_has_the_bytes_of_each_place():
    """Places above a threshold and those still under pressure; nothing of devices that report no limit."""
    assert [FullMemory("gpu:1", "bad", 97, 100), FullMemory(HOST, "warn", 95, 100)] == full_memory(
        state({"gpu:0": 10, "gpu:1": 97}, host=95)
    )
    assert [FullMemory("gpu:0", "warn", 10, 100), FullMemory("gpu:9", "warn")] == full_memory(
        state({"gpu:0": 10}, pressure=("gpu:0", "gpu:9"))
    )
    unsupported = {"device": "cpu:0", "stats_supported": False, "in_use_bytes": 99, "limit_bytes": 100}
    assert [] == full_memory({"devices": [unsupported]})


def test_fullest_is_a_device_unless_the_machine_is_worse():
    """The page shows one figure."""
    assert Use("gpu:1", 50, 100) == fullest(state({"gpu:0": 10, "gpu:1": 50}, host=90))
    assert Use(HOST, 96, 100) == fullest(state({"gpu:0": 10}, host=96))
    assert Use("gpu:0", 92, 100) == fullest(state({"gpu:0": 92}, host=96))
    assert None is fullest(state({}, host=50))
