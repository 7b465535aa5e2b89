"""Renders the report as one HTML file without scripts and external resources, for mails, tickets and phones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from jitwatch._version import __version__
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats, persistent_cache, summary
from jitwatch.report import compare, sentences
from jitwatch.report.document import Document, Row

#: Maximum numbers of rows of a table, and of entries of a list before the rest is collapsed.
_TOP_ROWS = 100
_TOP_SITES = 30
_TOP_CAUSES = 6
_TOP_ITEMS = 10
#: The content of logs is not trusted: nothing in the file may load or run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
#: Heads of the columns of each table, with the class of the cells: `n` for numbers, `minor` to hide it on a phone.
_FUNCTIONS = {
    "Function": "", "Compiles": "n minor", "Recompiles": "n", "Seconds": "n", "Lost": "n", "In cache": "n minor",
}  # fmt: skip
_SITES = {"Call site": "", "Recompiles": "n", "Lost": "n"}
_PROCESSES = {"Process": "", "Compiles": "n", "Recompiles": "n", "Lost": "n", "JAX's own": "n minor", "Ran": "n"}
_SIDES = {"Total": "", "Before": "n", "Now": "n", "Change": "n"}
_CHANGES = {"Function": "", "Recompiles": "n", "Lost": "n"}


def render(document: Document, comparison: compare.RunComparison | None = None) -> str:
    """The report of a run, and of its comparison with another run, as an HTML page."""
    runs = ", ".join(document["runs"][:3]) + (" …" if len(document["runs"]) > 3 else "")
    verdict = comparison["verdict"] if comparison is not None else sentences.verdict(document)
    kept = persistent_cache.sentences(document["persistent_cache"])
    facts = tag("p", sentences.whose(document), class_="facts")
    parts = [
        tag("header", tag("p", f"jitwatch report · {runs}", class_="run"), tag("h1", verdict), facts),
        _compared(comparison) if comparison is not None else "",
        tag("p", sentences.verdict(document), class_="verdict") if comparison is not None else "",
        _tiles(document),
        section("What to change", _advice(document), id_="change"),
        section("Memory", _items(sentences.memory(document)), id_="memory"),
        section("Failed compiles", _items(sentences.failures(document)), id_="failures"),
        section("Donation violations", _items(sentences.donations(document)), id_="donations"),
        section("After warm-up", _items(sentences.steady(document)), id_="steady"),
        section("Persistent compilation cache", _items(kept), id_="persistent-cache"),
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


def _base(document: Document) -> str:
    number = document["totals"]["processes"]
    whole = formats.seconds(document["process_seconds"])
    return f"{whole} of {number:,} processes together." if number > 1 else f"the {whole} that the process ran."


def _tiles(document: Document) -> Markup:
    totals = document["totals"]
    lost = formats.seconds(totals["lost_seconds"]) if totals["lost_seconds"] else "none"
    share = f"{formats.percent(totals['lost_ratio'])} of the run" if totals["lost_ratio"] else "of the run"
    violations = totals["donation_violations"] + totals["steady_violations"]
    shortages, recompiles = totals["out_of_memory"] + totals["leaks"], totals["recompiles"]
    tiles = [
        ("Recompiles", f"{recompiles:,}", f"of {formats.count(totals['compiles'], 'compile')}", recompiles),
        ("Time lost", lost, share, totals["lost_seconds"]),
        ("Compiling", formats.percent(totals["busy_ratio"]), formats.seconds(totals["busy_seconds"]), False),
        ("Pitfalls", f"{totals['pitfalls']:,}", "with advice", totals["pitfalls"]),
        ("Violations", f"{violations:,}", "of donation and steady state", violations),
        ("Memory", f"{shortages:,}", "shortages and leaks", shortages),
    ]
    cells = [
        tag("div", tag("dt", label), tag("dd", tag("b", value), " ", tag("span", note)), class_="bad" if is_bad else "")
        for label, value, note, is_bad in tiles
    ]
    return tag("dl", *cells, class_="tiles")


def _items(texts: list[str]) -> Markup:
    return collapsed([tag("li", text) for text in texts], "ul")


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
    cells = []
    for site in document["call_sites"][:_TOP_SITES]:
        place, function = tag("code", formats.file_line(site["call_site"])), site["function"]
        explanation = tag("p", site["explanation"]) if site["explanation"] else ""
        where = join([place, " ", tag("span", function, class_="where"), explanation])
        cells.append((where, f"{site['recompiles']:,}", _lost(site)))
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
    lines, files = formats.count(log["lines"], "line"), formats.count(log["files"], "file")
    return f"{lines} in {files}, {sentences.size_of(log['bytes'])}."


def _compared(comparison: compare.RunComparison) -> Markup:
    totals = [
        (row["label"], compare.shown(row, row["before"]), compare.shown(row, row["now"]), compare.change_of(row))
        for row in comparison["totals"]
    ]
    changes = []
    for row in comparison["functions"][:_TOP_ROWS]:
        recompiles = f"{row['recompiles_before']:,} → {row['recompiles_now']:,}"
        changes.append((tag("code", row["function"]), recompiles, compare.lost_of(row)))
    parts = [
        *(tag("p", text) for text in compare.head_of(comparison)[1:]),
        section("Worse", _items(comparison["worse"]), id_="worse"),
        section("Better", _items(comparison["better"]), id_="better"),
        section("Before and now", table("Totals of both runs", _SIDES, totals), id_="totals"),
        section("Functions that differ", table("Recompiles and lost time", _CHANGES, changes), id_="differ"),
    ]
    return join(parts, "\n")


def _advice(document: Document) -> Markup:
    """A card for each pitfall, and for the costliest call sites without one, by lost seconds."""
    found = [(one["lost_seconds"], _pitfall_card(one)) for one in document["pitfalls"]]
    found += [(one["lost_seconds"], _call_site_card(one)) for one in summary.sites_without_pitfall(document)]
    return collapsed([card for _, card in sorted(found, key=lambda pair: -pair[0])], "div", class_="cards")


def _pitfall_card(one: Row) -> Markup:
    who = formats.short_name(one["name"], one["function"])
    places = [formats.file_line(one["call_site"])] if one["call_site"] else []
    places += [f"defined at {formats.file_line(one['location'])}"] if one["location"] else []
    places += [sentences.often(one)] if one["times"] > 1 else []
    title = _title(one, tag("code", one["pitfall"]), " in ", tag("code", who))
    where = tag("p", " · ".join(places), class_="where") if places else ""
    return tag("article", title, where, tag("p", formats.sentences(one["message"])), _do(one))


def _call_site_card(site: Row) -> Markup:
    often = f"{site['recompiles']:,} recompiles for this reason" if site["recompiles"] > 1 else None
    # The whole explanation if the log has no reason.
    what = formats.sentences(site["reason"], often) if site["advice"] else summary.of_site(site)
    title = _title(site, "Recompiles at ", tag("code", formats.file_line(site["call_site"])))
    return tag("article", title, tag("p", site["function"], class_="where"), tag("p", what), _do(site))


def _do(one: Row) -> Markup:
    do = tag("b", "Do: ")
    return tag("p", do, formats.sentences(one["advice"]), class_="advice") if one["advice"] else Markup("")


def _title(one: Row, *name: object) -> Markup:
    cost = tag("p", f"{formats.seconds(one['lost_seconds'])} lost", class_="cost") if one["lost_seconds"] else ""
    return tag("div", tag("h3", *name), cost, class_="head")


# Building HTML: every text is escaped exactly once, when it is inserted


class Markup(str):
    """HTML that is not escaped when it is inserted into HTML; all other text is."""

    __slots__ = ()


def safe(value: object) -> Markup:
    """A value as HTML: unchanged if it is markup, else its escaped text."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Concatenate the parts."""
    return Markup(between.join(safe(part) for part in parts))


def tag(name: str, *inner: object, **attributes: str) -> Markup:
    """An element. The argument `class_` is the attribute `class`, `aria_label` is `aria-label`."""
    given = "".join(
        f' {key.removesuffix("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{join(inner)}</{name}>")


def section(title: str, *inner: object, id_: str) -> Markup:
    """A section with a heading; empty without contents."""
    if not any(inner):
        return Markup("")
    return tag("section", tag("h2", title, id=id_), *inner, aria_labelledby=id_)


def collapsed(parts: Sequence[object], outer: str, **attributes: str) -> Markup:
    """An element with these parts; those past the first ten are collapsed. Empty without parts."""
    shown, rest = parts[:_TOP_ITEMS], parts[_TOP_ITEMS:]
    more = tag("details", tag("summary", f"{len(rest):,} more"), tag(outer, *rest, **attributes)) if rest else ""
    return join([tag(outer, *shown, **attributes) if shown else "", more])


def table(caption: object, columns: Mapping[str, str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table; the first cell of each row is the row's head. Empty without rows."""
    if not rows:
        return Markup("")
    head = tag("tr", *(tag("th", name, scope="col", class_=style) for name, style in columns.items()))
    body = []
    for first, *rest in rows:
        style, *styles = columns.values()
        cells = [tag("td", cell, class_=one) for cell, one in zip(rest, styles, strict=True)]
        body.append(tag("tr", tag("th", first, scope="row", class_=style), *cells))
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
