"""What to change, a card each."""

from __future__ import annotations

from typing import Any

from jitwatch.render import summary, words
from jitwatch.report import troubles
from jitwatch.report.document import Document
from jitwatch.report.markup import Markup, join, tag

Row = dict[str, Any]


def advice(document: Document, *, limit: int) -> Markup:
    """A card for each pitfall, and for the dearest lines that none explains; those that cost most first.

    Past the limit they are folded away.
    """
    told = [(one["lost_seconds"], _pitfall(one)) for one in document["pitfalls"]]
    told += [(one["lost_seconds"], _line(one)) for one in summary.sites_without_pitfall(document)]
    cards = [card for _, card in sorted(told, key=lambda pair: -pair[0])]
    shown = tag("div", *cards[:limit], class_="cards") if cards else Markup("")
    rest = cards[limit:]
    if not rest:
        return shown
    return join([shown, tag("details", tag("summary", f"{len(rest):,} more"), tag("div", *rest, class_="cards"))])


def _pitfall(one: Row) -> Markup:
    who = words.called(one["name"], one["function"])
    places = [words.place(one["call_site"])] if one["call_site"] else []
    places += [f"defined at {words.place(one['location'])}"] if one["location"] else []
    places += [troubles.often(one)] if one["times"] > 1 else []
    return tag(
        "article",
        _title(one, tag("code", one["pitfall"]), " in ", tag("code", who)),
        tag("p", " · ".join(places), class_="where") if places else "",
        tag("p", words.sentences(one["message"])),
        tag("p", tag("b", "Do: "), words.sentences(one["advice"]), class_="advice") if one["advice"] else "",
    )


def _line(site: Row) -> Markup:
    return tag(
        "article",
        _title(site, "Recompiles at ", tag("code", words.place(site["call_site"]))),
        tag("p", site["function"], class_="where"),
        tag("p", _what(site)),
        tag("p", tag("b", "Do: "), words.sentences(site["advice"]), class_="advice") if site["advice"] else "",
    )


def _what(site: Row) -> str:
    """What changed at last, and how often it did; all in one where the log does not tell them apart."""
    if not site["advice"]:
        return summary.of_site(site)
    often = f"{site['recompiles']:,} recompiles for this reason" if site["recompiles"] > 1 else None
    return words.sentences(site["reason"], often)


def _title(one: Row, *name: object) -> Markup:
    cost = tag("p", f"{words.seconds(one['lost_seconds'])} lost", class_="cost") if one["lost_seconds"] else ""
    return tag("div", tag("h3", *name), cost, class_="head")
