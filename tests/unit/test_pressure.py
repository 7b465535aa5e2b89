"""When a device or the machine is nearly full."""

from __future__ import annotations

from jitwatch.diagnosis.pressure import HOST, Pressure, Use

GIB = 1 << 30


def use(percent: float, place: str = "gpu:0") -> Use:
    return Use(place, int(percent * GIB), 100 * GIB)


def told(samples: list[tuple[float, float]], place: str = "gpu:0") -> list[tuple[float, str]]:
    """Times and states of the events of such percentages by time."""
    pressure = Pressure()
    return [(now, event.state) for now, percent in samples for event in pressure.sample(now, [use(percent, place)])]


def test_full_device_is_told_with_its_figures():
    """The event has the place, both figures and their ratio."""
    (event,) = Pressure().sample(0.0, [use(50, "gpu:1"), use(93)])

    assert ("gpu:0", "started", 0.93) == (event.place, event.state, event.ratio)
    assert (93 * GIB, 100 * GIB) == (event.in_use_bytes, event.limit_bytes)


def test_pressure_is_told_once_while_it_lasts():
    """Hours at the limit are one event."""
    assert [(0.0, "started")] == told([(at * 5.0, 95.0) for at in range(1000)])


def test_steps_that_cross_both_lines_are_one_pressure():
    """Within each step memory rises above the line and falls far below it."""
    assert [(0.0, "started")] == told([(at * 5.0, 95.0 if at % 2 == 0 else 40.0) for at in range(1000)])


def test_pressure_ends_after_a_quiet_time():
    """It is over when it has stayed below the lower line for five minutes."""
    samples = [(0.0, 91.0), (10.0, 86.0), (20.0, 80.0), (300.0, 80.0), (310.0, 80.0), (320.0, 80.0), (330.0, 92.0)]

    assert [(0.0, "started"), (310.0, "ended"), (330.0, "started")] == told(samples)


def test_between_the_lines_nothing_begins():
    """Only the upper line starts it, only the lower one ends it."""
    assert [] == told([(0.0, 89.9), (5.0, 86.0)])


def test_machine_has_lines_of_its_own():
    """A machine at 93 % is well used; at 96 % the kernel is about to end processes."""
    assert [] == told([(0.0, 93.0)], HOST)
    assert [(0.0, "started"), (400.0, "ended")] == told([(0.0, 96.0), (400.0, 89.0)], HOST)


def test_device_that_disappears_is_forgotten():
    """It leaves no state behind, and counts anew when it is back."""
    pressure = Pressure()
    pressure.sample(0.0, [use(95)])
    assert ["gpu:0"] == pressure.active
    assert [] == pressure.sample(5.0, [])

    assert [] == pressure.active
    assert 1 == len(pressure.sample(10.0, [use(95)]))


def test_place_without_a_limit_is_never_full():
    """Nothing is divided by zero."""
    assert [] == Pressure().sample(0.0, [Use("gpu:0", GIB, 0)])
