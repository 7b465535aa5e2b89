"""Numbers as Grafana writes them, by its names of units."""

from __future__ import annotations

import math

_SI = ("", " K", " Mil", " Bil", " Tri")
_IEC = (" B", " KiB", " MiB", " GiB", " TiB", " PiB")
_SI_BYTES = (" B/s", " kB/s", " MB/s", " GB/s", " TB/s")
_FLOPS = (" FLOPS", " KFLOPS", " MFLOPS", " GFLOPS", " TFLOPS", " PFLOPS")
_OPS = (" ops/s", " Kops/s", " Mops/s")
_TIMES = ((86_400.0, " days"), (3_600.0, " hours"), (60.0, " mins"), (1.0, " s"), (1e-3, " ms"), (1e-6, " µs"))
_AGES = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def written(value: float, unit: str, *, now: float = 0.0) -> str:
    """A value with its unit.

    Args:
        value: In the unit's base.
        unit: Grafana's name of it.
        now: Unix seconds, for values that are a moment (in milliseconds, as Grafana takes them).
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit == "percentunit":
        return f"{_short(100 * value)}%"
    if unit == "s":
        return _duration(value)
    if unit == "dateTimeFromNow":
        return _ago(now - value / 1000)
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    scales = {"bytes": (1024, _IEC), "Bps": (1000, _SI_BYTES), "flops": (1000, _FLOPS), "ops": (1000, _OPS)}
    base, names = scales.get(unit, (1000, _SI))
    return _scaled(value, base, names)


def _scaled(value: float, base: int, names: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= base and power < len(names) - 1:
        value, power = value / base, power + 1
    return f"{_short(value)}{names[power]}"


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e4:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _duration(value: float) -> str:
    for size, name in _TIMES:
        if abs(value) >= size:
            return f"{_short(value / size)}{name}"
    return f"{_short(value)} s"


def _ago(seconds: float) -> str:
    for size, name in _AGES:
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"
