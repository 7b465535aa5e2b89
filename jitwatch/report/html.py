"""Renders the report as one HTML file without scripts and external resources, for mails, tickets and phones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jitwatch._version import __version__
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats, persistent_cache, summary
from jitwatch.report import compare, sentences
from jitwatch.report.document import Document
from jitwatch.report.markup import Column, Markup, items, join, safe, section, table, tag

Row = dict[str, Any]

#: Maximum numbers of rows of a table, and of entries of a list before the rest is collapsed.
_TOP_ROWS = 100
_TOP_SITES = 30
_TOP_CAUSES = 6
_TOP_ITEMS = 10
#: The content of logs is not trusted: nothing in the file may load or run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_FUNCTIONS = (
    Column("Function"),
    Column("Compiles", "n minor"),
    Column("Recompiles", "n"),
    Column("Seconds", "n"),
    Column("Lost", "n"),
    Column("In cache", "n minor"),
)
_SITES = (Column("Call site"), Column("Recompiles", "n"), Column("Lost", "n"))
_PROCESSES = (
    Column("Process"),
    Column("Compiles", "n"),
    Column("Recompiles", "n"),
    Column("Lost", "n"),
    Column("JAX's own", "n minor"),
    Column("Ran", "n"),
)
_SIDES = (Column("Total"), Column("Before", "n"), Column("Now", "n"), Column("Change", "n"))
_CHANGES = (Column("Function"), Column("Recompiles", "n"), Column("Lost", "n"))


def render(document: Document, comparison: dict[str, Any] | None = None) -> str:
    """The report of a run as an HTML page.

    Args:
        document: The run.
        comparison: Its comparison with another run, if there is one.
    """
    runs = ", ".join(document["runs"][:3]) + (" …" if len(document["runs"]) > 3 else "")
    verdict = comparison["verdict"] if comparison is not None else sentences.verdict(document)
    parts = [
        tag("header", tag("p", f"jitwatch report · {runs}", class_="run"), tag("h1", verdict), _facts(document)),
        _compared(comparison) if comparison is not None else "",
        tag("p", sentences.verdict(document), class_="verdict") if comparison is not None else "",
        _tiles(document),
        section("What to change", _advice(document, limit=_TOP_ITEMS), id_="change"),
        section("Memory", _items(sentences.memory(document)), id_="memory"),
        section("Failed compiles", _items(sentences.failures(document)), id_="failures"),
        section("Donation violations", _items(sentences.donations(document)), id_="donations"),
        section("After warm-up", _items(sentences.steady(document)), id_="steady"),
        section(
            "Persistent compilation cache",
            _items(persistent_cache.sentences(document["persistent_cache"])),
            id_="persistent-cache",
        ),
        section("Functions", _functions(document), id_="functions"),
        section("Call sites of recompiles", _sites(document), id_="lines"),
        section("Processes", _items(sentences.processes(document)), _processes(document), id_="processes"),
        section("The log", _items([*sentences.log(document), _read(document)]), id_="log"),
        tag("footer", f"Made by jitwatch {__version__}. Seconds are wall clock; shares are of ", _base(document)),
    ]
    return _page(f"{runs}: {verdict}", join(parts, "\n"))


def _page(title: str, body: Markup) -> str:
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    head = [
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    page = tag("html", tag("head", join(head, "\n")), "\n", tag("body", tag("main", body)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _facts(document: Document) -> Markup:
    return tag("p", sentences.whose(document), class_="facts")


def _base(document: Document) -> str:
    number = document["totals"]["processes"]
    whole = formats.seconds(document["process_seconds"])
    return f"{whole} of {number:,} processes together." if number > 1 else f"the {whole} that the process ran."


def _tiles(document: Document) -> Markup:
    totals = document["totals"]
    lost = formats.seconds(totals["lost_seconds"]) if totals["lost_seconds"] else "none"
    share = f"{formats.percent(totals['lost_ratio'])} of the run" if totals["lost_ratio"] else "of the run"
    tiles = [
        ("Recompiles", f"{totals['recompiles']:,}", f"of {formats.count(totals['compiles'], 'compile')}", "recompiles"),
        ("Time lost", lost, share, "lost_seconds"),
        ("Compiling", formats.percent(totals["busy_ratio"]), formats.seconds(totals["busy_seconds"]), ""),
        ("Pitfalls", f"{totals['pitfalls']:,}", "with advice", "pitfalls"),
        ("Violations", f"{_violations(totals):,}", "of donation and steady state", "violations"),
        ("Memory", f"{_shortages(totals):,}", "shortages and leaks", "memory"),
    ]
    bad = {**totals, "violations": _violations(totals), "memory": _shortages(totals)}
    cells = [
        tag(
            "div",
            tag("dt", label),
            tag("dd", tag("b", value), " ", tag("span", note)),
            class_="bad" if bad.get(key) else "",
        )
        for label, value, note, key in tiles
    ]
    return tag("dl", *cells, class_="tiles")


def _violations(totals: Row) -> int:
    return int(totals["donation_violations"] + totals["steady_violations"])


def _shortages(totals: Row) -> int:
    return int(totals["out_of_memory"] + totals["leaks"])


def _items(texts: list[str]) -> Markup:
    return items(texts, limit=_TOP_ITEMS)


def _functions(document: Document) -> Markup:
    rows = [row for row in document["functions"] if row["compiles"] or row["failures"]]
    most = max((row["seconds"] for row in rows), default=0.0)
    cells = [
        (
            _function(row),
            f"{row['compiles']:,}",
            f"{row['recompiles']:,}",
            join([f"{row['seconds']:,.2f}", _bar(row, most)]),
            _lost(row),
            f"{row['cache_entries']:,}" if row["cache_entries"] else "–",
        )
        for row in rows[:_TOP_ROWS]
    ]
    more = len(rows) - _TOP_ROWS + document["functions_left_out"]
    bars = tag("span", "; the red part of each bar was lost in recompiles", class_="minor")
    caption = join(["By seconds of all compiles", bars])
    by_phase = [tag("p", text) for text in sentences.parts(document)]
    return join([*by_phase, table(caption, _FUNCTIONS, cells), tag("p", f"And {more:,} more.") if more > 0 else ""])


def _function(row: Row) -> Markup:
    causes = sorted(row["causes"].items(), key=lambda item: -item[1])
    chips = [f"{number:,} × {cause}" for cause, number in causes[:_TOP_CAUSES]]
    chips += [f"{row['failures']:,} failed"] * bool(row["failures"])
    chips += [formats.count(row["storms"], "storm")] * bool(row["storms"])
    name = "JAX's own small programs" if row["function"] == JAX_LABEL else tag("code", row["function"])
    has_location = bool(formats.defined_at(row["function"], row["location"]))
    location = tag("span", formats.file_line(row["location"]), class_="where") if has_location else ""
    return join([name, " ", location, *(join([" ", tag("span", chip, class_="chip")]) for chip in chips)])


def _bar(row: Row, most: float) -> Markup:
    """A bar for the seconds of a function, with the share of lost seconds in red."""
    whole = 100 * row["seconds"] / most if most else 0.0
    lost = 100 * row["lost_seconds"] / row["seconds"] if row["seconds"] else 0.0
    inner = tag("i", style=f"width:{min(lost, 100):.1f}%")
    return tag("span", inner, class_="bar", style=f"width:{whole:.1f}%", aria_hidden="true")


def _lost(row: Row) -> Markup:
    if not row["lost_seconds"]:
        return safe("–")
    share = tag("span", formats.percent(row["lost_ratio"]), class_="where")
    return join([formats.seconds(row["lost_seconds"]), " ", share])


def _sites(document: Document) -> Markup:
    cells = [
        (
            join(
                [
                    tag("code", formats.file_line(site["call_site"])),
                    " ",
                    tag("span", site["function"], class_="where"),
                    tag("p", site["explanation"]) if site["explanation"] else "",
                ]
            ),
            f"{site['recompiles']:,}",
            _lost(site),
        )
        for site in document["call_sites"][:_TOP_SITES]
    ]
    return table("By lost seconds, each with its newest explanation", _SITES, cells)


def _processes(document: Document) -> Markup:
    rows = document["processes"]
    if len(rows) < 2:
        return Markup("")
    cells = [
        (
            sentences.capital(sentences.name_of(row, document)),
            f"{row['compiles']:,}",
            f"{row['recompiles']:,}",
            formats.seconds(row["lost_seconds"]) if row["lost_seconds"] else "–",
            f"{row['jax_compiles']:,}",
            formats.seconds(row["seconds"]),
        )
        for row in rows[:_TOP_ROWS]
    ]
    more = len(rows) - _TOP_ROWS + document["processes_left_out"]
    return join([table("Compiles by process", _PROCESSES, cells), tag("p", f"And {more:,} more.") if more > 0 else ""])


def _read(document: Document) -> str:
    log = document["log"]
    return (
        f"{formats.count(log['lines'], 'line')} in {formats.count(log['files'], 'file')}, "
        f"{sentences.size_of(log['bytes'])}."
    )


def _compared(comparison: dict[str, Any]) -> Markup:
    totals = [
        (row["label"], compare.shown(row, row["before"]), compare.shown(row, row["now"]), compare.change_of(row))
        for row in comparison["totals"]
    ]
    changes = [
        (
            tag("code", row["function"]),
            f"{row['recompiles_before']:,} → {row['recompiles_now']:,}",
            compare.lost_of(row),
        )
        for row in comparison["functions"][:_TOP_ROWS]
    ]
    return join(
        [
            *(tag("p", text) for text in compare.head_of(comparison)[1:]),
            section("Worse", _items(comparison["worse"]), id_="worse"),
            section("Better", _items(comparison["better"]), id_="better"),
            section("Before and now", table("Totals of both runs", _SIDES, totals), id_="totals"),
            section("Functions that differ", table("Recompiles and lost time", _CHANGES, changes), id_="differ"),
        ],
        "\n",
    )


def _advice(document: Document, *, limit: int) -> Markup:
    """A card for each pitfall, and for the costliest call sites without one, by lost seconds.

    Cards past the limit are collapsed.
    """
    found = [(one["lost_seconds"], _pitfall_card(one)) for one in document["pitfalls"]]
    found += [(one["lost_seconds"], _call_site_card(one)) for one in summary.sites_without_pitfall(document)]
    cards = [card for _, card in sorted(found, key=lambda pair: -pair[0])]
    shown = tag("div", *cards[:limit], class_="cards") if cards else Markup("")
    rest = cards[limit:]
    if not rest:
        return shown
    return join([shown, tag("details", tag("summary", f"{len(rest):,} more"), tag("div", *rest, class_="cards"))])


def _pitfall_card(one: Row) -> Markup:
    who = formats.short_name(one["name"], one["function"])
    places = [formats.file_line(one["call_site"])] if one["call_site"] else []
    places += [f"defined at {formats.file_line(one['location'])}"] if one["location"] else []
    places += [sentences.often(one)] if one["times"] > 1 else []
    return tag(
        "article",
        _title(one, tag("code", one["pitfall"]), " in ", tag("code", who)),
        tag("p", " · ".join(places), class_="where") if places else "",
        tag("p", formats.sentences(one["message"])),
        tag("p", tag("b", "Do: "), formats.sentences(one["advice"]), class_="advice") if one["advice"] else "",
    )


def _call_site_card(site: Row) -> Markup:
    return tag(
        "article",
        _title(site, "Recompiles at ", tag("code", formats.file_line(site["call_site"]))),
        tag("p", site["function"], class_="where"),
        tag("p", _what(site)),
        tag("p", tag("b", "Do: "), formats.sentences(site["advice"]), class_="advice") if site["advice"] else "",
    )


def _what(site: Row) -> str:
    """The last change at a call site, and how often it happened; the whole explanation if the log has no reason."""
    if not site["advice"]:
        return summary.of_site(site)
    often = f"{site['recompiles']:,} recompiles for this reason" if site["recompiles"] > 1 else None
    return formats.sentences(site["reason"], often)


def _title(one: Row, *name: object) -> Markup:
    cost = tag("p", f"{formats.seconds(one['lost_seconds'])} lost", class_="cost") if one["lost_seconds"] else ""
    return tag("div", tag("h3", *name), cost, class_="head")
