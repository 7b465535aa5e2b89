"""Thresholds are in one place: the page, the health sentence and the boards turn yellow and red at the same values."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import jitwatch
from dashboards.source import generate, settings
from jitwatch.diagnosis.findings import Facts, figure_levels, findings
from jitwatch.diagnosis.pressure import HOST, Pressure, Use, full_memory, memory_level
from jitwatch.model.thresholds import LEVELS, THRESHOLDS, Thresholds, level_above, worst

PAGE = Path(jitwatch.__file__).parent / "server" / "page"
SCRIPTS = sorted(PAGE.glob("*.js"))
COLORS = {settings.GREEN: "good", settings.YELLOW: "warn", settings.RED: "bad"}
#: A level's name as a string.
_LEVEL = re.compile(r"""["'`](?:bad|warn|good|busy)["'`]""")
#: A figure that has a level, compared with a number other than 0.
_COMPARISON = re.compile(
    r"\w*(?:ratio|share|lost|busy|percent|storm|violation|memory|errors|dropped)\w*\)?\s*[<>]=?\s*(?!0\b(?!\.))[\d.]+",
    re.IGNORECASE,
)


def judging_lines(source: str) -> list[str]:
    """The lines of a script that decide a level."""
    return [line for line in source.splitlines() if _LEVEL.search(line) or _COMPARISON.search(line)]


def board_level(steps: settings.Steps, value: float) -> str:
    """The level of the colour that a board gives a value."""
    return COLORS[[color for start, color in steps if start is None or value >= start][-1]]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_page_decides_no_level(path):
    """Its scripts show the levels of the state, and compare no figure with a number."""
    # `percent()` writes small shares as `under 1 %`.
    is_format = "if (ratio > 0 && ratio < 0.01) return"
    assert [] == [line for line in judging_lines(path.read_text(encoding="utf-8")) if is_format not in line]


@pytest.mark.parametrize(
    "line",
    [
        'const level = fullest.in_use_ratio >= 0.95 ? "bad" : "";',
        "const isHot = now.busy_ratio > 0.3;",
        'if (row.is_in_storm) found.push(["bad", "storm"]);',
        "return lost >= 0.05;",
    ],
)
def test_deciding_a_level_in_a_script_is_noticed(line):
    """The test above can fail."""
    assert [line] == judging_lines(line)


@pytest.mark.parametrize("percent", [50, 84, 85, 89, 90, 94, 95, 97, 98, 100])
@pytest.mark.parametrize(("place", "steps"), [("gpu:0", settings.DEVICE_IN_USE), (HOST, settings.HOST_IN_USE)])
def test_memory_has_one_level_everywhere(place, steps, percent):
    """The page's row and figure, the level of the sentence, and the colour of the boards."""
    device = {"device": "gpu:0", "stats_supported": True, "in_use_bytes": percent, "limit_bytes": 100}
    host = {"available_bytes": 100 - percent, "total_bytes": 100}
    pressure = Pressure()
    pressure.sample(0.0, [Use(place, percent, 100)])
    memory = {"devices": [device], "host": None, "pressure": pressure.active}
    if place == HOST:
        memory |= {"devices": [], "host": host}
    found = findings(Facts(totals={"compiles": 1}, uptime_s=100.0, last={}, full=full_memory(memory)))
    level = board_level(steps, percent / 100)

    assert level == memory_level(place, percent / 100)
    assert (level, level) == (found[0].level, figure_levels(found).get("memory", "good"))
    assert (level != "good") == bool(pressure.active)


@pytest.mark.parametrize("seconds", [1, 599, 600, 3599, 3600, 86_400])
def test_age_of_a_compile_has_one_level_everywhere(seconds):
    """The health and the boards; while a compile is young, the health is `busy` at the most."""
    running = [{"function": "f", "for_s": seconds}]
    found = findings(Facts(totals={"compiles": 1}, uptime_s=1e6, last={}, running=running))
    level = {"busy": "good"}.get(found[0].level, found[0].level)

    assert board_level(settings.COMPILE_AGE, seconds) == level


@pytest.mark.parametrize(("lost_s", "level"), [(1.9, "good"), (2.0, "warn"), (90.0, "warn")])
def test_lost_share_has_one_level_everywhere(lost_s, level):
    """The sentence and the page's figure."""
    found = findings(Facts(totals={"compiles": 2}, uptime_s=100.0, last={}, lost_s=lost_s))

    assert (level, level) == (found[0].level, figure_levels(found).get("lost_seconds", "good"))


def test_alerts_fire_where_boards_turn_red():
    """Memory of devices, age of a compile, share of time spent compiling, recompiles, cache entries."""
    alerts = {rule.name: rule.expr for group in generate.RULES for rule in group.rules if hasattr(rule, "severity")}
    for name, steps in {
        "JitwatchDeviceMemoryHigh": settings.DEVICE_IN_USE,
        "JitwatchCompileStuck": settings.COMPILE_AGE,
        "JitwatchCompileTimeDominates": settings.BUSY,
        "JitwatchCacheGrowth": settings.ENTRIES,
    }.items():
        numbers = [float(number) for number in re.findall(r"> ([\d.]+)\b", alerts[name])]
        assert steps[-1][0] in numbers, name


def test_no_board_has_a_memory_threshold_of_its_own():
    """Steps between 0 and 1 are shares; each is one of the thresholds."""
    known = {getattr(THRESHOLDS, field.name) for field in fields(Thresholds) if field.name.endswith("_ratio")}
    for name, text in generate.files().items():
        if name.startswith("grafana/dashboards/jitwatch"):
            steps = {float(value) for value in re.findall(r'"color": "\w+",\s*"value": ([\d.]+)', text)}
            assert set() == {step for step in steps if 0 < step < 1} - known
            assert json.loads(text)["uid"] == name.rpartition("/")[2].removesuffix(".json")


def test_thresholds_are_documented_with_their_units():
    """Each field has its unit in its name and a line in the docstring; the state has them all."""
    units = ("_ratio", "_s", "_per_10m", "_per_h", "_warn")
    for field in fields(Thresholds):
        assert f"\n    {field.name}: " in inspect.cleandoc(Thresholds.__doc__)
        assert field.name.endswith(units)
    assert {field.name for field in fields(Thresholds)} == set(THRESHOLDS.row())


def test_warnings_come_before_what_is_bad():
    """And memory pressure ends below where it starts."""
    names = {field.name for field in fields(Thresholds)}
    for name in names:
        if (bad := name.replace("_warn_", "_bad_")) in names - {name}:
            assert getattr(THRESHOLDS, name) < getattr(THRESHOLDS, bad)
    assert THRESHOLDS.device_memory_end_ratio < THRESHOLDS.device_memory_warn_ratio
    assert THRESHOLDS.host_memory_end_ratio < THRESHOLDS.host_memory_warn_ratio


def test_worst_of_no_levels_is_good():
    """Else the first of `LEVELS`; a figure that equals a threshold has reached it."""
    assert ("good", "bad", "warn") == (worst(()), worst(LEVELS), worst(("good", "warn", "busy")))
    assert ["good", "warn", "bad"] == [level_above(value, warn=1, bad=2) for value in (0.9, 1, 2)]
