"""The time line: fine for the last minutes, coarse for the last hours, bounded for ever."""

from __future__ import annotations

import itertools

from jitwatch.state.timeline import COLUMNS, RESOLUTIONS, Moment, Timeline


def moment(time: float, **more) -> Moment:
    figures = {
        "busy_seconds": time / 10,
        "compiles": int(time),
        "recompiles": 0,
        "lost_seconds": 0.0,
        "steps": None,
        "causes": {},
        "device_bytes": None,
        "live_array_bytes": None,
        "host_bytes": 10,
    }
    return Moment(time=time, **{**figures, **more})


def times(line: Timeline, after: float = 0.0) -> list[float]:
    return [one.time for one in line.after(after)]


def test_add_keeps_the_finest_there_is():
    """Twelve minutes at five seconds: the last ten are kept in full, the two before at half a minute."""
    line = Timeline()
    for number in range(1, 145):
        line.add(moment(5.0 * number))
    found = times(line)

    assert sorted(found) == found
    assert [5.0 * number for number in range(25, 145)] == found[-120:]
    assert {30.0} == {late - early for early, late in itertools.pairwise(found[:4])}


def test_add_is_bounded_and_reaches_six_hours_back():
    """After two days there are at most 360 points, and the oldest is six hours old."""
    line = Timeline()
    end = 5 * 34_560
    for number in range(1, 34_561):
        line.add(moment(5.0 * number))
    found = times(line)

    assert len(found) <= sum(length for _, length in RESOLUTIONS)
    assert 6 * 3600 - 180 <= end - found[0] <= 6 * 3600 + 180
    assert len(set(found)) == len(found)


def test_add_takes_a_round_that_comes_a_little_early():
    """A sampler that wakes up 0.2 s early does not lose every second point; one that is fast is thinned out."""
    early, fast = Timeline(), Timeline()
    for number in range(1, 21):
        early.add(moment(4.8 * number))
        fast.add(moment(0.5 * number))

    assert 20 == len(times(early))
    assert [0.5, 5.0, 9.5] == times(fast)


def test_after_gives_only_what_is_new():
    """Whoever has the newest point gets none; the time asked for is not told again."""
    line = Timeline()
    for number in range(1, 11):
        line.add(moment(5.0 * number))

    assert [45.0, 50.0] == times(line, 40.0)
    assert [] == times(line, 50.0)
    assert [] == times(Timeline())


def test_row_has_the_columns_in_order():
    """A row is what the columns say."""
    one = moment(7.0, compiles=3, causes={"shape": 2})

    assert dict(zip(COLUMNS, one.row(), strict=True)) == {
        "time": 7.0,
        "busy_seconds": 0.7,
        "compiles": 3,
        "recompiles": 0,
        "lost_seconds": 0.0,
        "steps": None,
        "causes": {"shape": 2},
        "device_bytes": None,
        "live_array_bytes": None,
        "host_bytes": 10,
    }
