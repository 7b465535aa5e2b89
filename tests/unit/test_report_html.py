"""The report as one HTML file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from jitwatch.report import compare, html
from tests.unit.logs import (
    LOSS,
    compiled,
    document_of,
    ended,
    exhausted,
    failed,
    installed,
    leaking,
    lines,
    pitfall,
    pressed,
    read,
    recompiled,
    unsteady,
    used_after,
    written,
)

EVERYTHING = (
    installed(),
    compiled(),
    compiled(LOSS),
    recompiled(),
    recompiled(function=LOSS, line=7),
    failed(),
    pitfall(),
    unsteady(),
    used_after(),
    exhausted(),
    leaking(),
    pressed(),
    ended(),
)
ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "header",
    "footer",
    "section",
    "article",
    "div",
    "dl",
    "dt",
    "dd",
    "b",
    "i",
    "p",
    "h1",
    "h2",
    "h3",
    "ul",
    "li",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "code",
    "span",
    "details",
    "summary",
}
VOID = {"meta"}


class Page(HTMLParser):
    """The elements, attributes and text of a page; elements must be closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert [] == self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert tag == self._open.pop()

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(tmp_path, *events) -> Page:
    return Page(html.render(document_of(tmp_path, *events)))


def headings(source: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]*)</h2>", source)


def test_html_has_all_sections(tmp_path):
    """Those that have something to say; what to change comes first."""
    source = html.render(document_of(tmp_path, *EVERYTHING))
    calm = html.render(document_of(tmp_path, compiled(), ended()))
    missing = compiled(persistent_cache="miss", persistent_cache_reason="short_compile")

    assert [
        "Advice",
        "Memory",
        "Failed compiles",
        "Donation violations",
        "Steady-state violations",
        "Functions",
        "Call sites of recompiles",
        "The log",
    ] == headings(source)
    assert ["Functions", "The log"] == headings(calm)
    assert "Persistent compilation cache" in headings(html.render(document_of(tmp_path, missing, ended())))


def test_html_can_be_read_by_everyone(tmp_path):
    """Language, title, one main heading, tables with captions and heads that say what they are the heads of."""
    page = page_of(tmp_path, *EVERYTHING)

    assert [{"lang": "en"}] == page.all("html")
    assert 1 == len(page.all("title")) == len(page.all("h1")) == len(page.all("main"))
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert {"col", "row"} == {one["scope"] for one in page.all("th")}
    assert {one["aria-labelledby"] for one in page.all("section")} == {one["id"] for one in page.all("h2")}
    assert [{"name": "viewport", "content": "width=device-width, initial-scale=1"}] == [
        one for one in page.all("meta") if one.get("name") == "viewport"
    ]
    assert any(one.startswith("r1: 2 recompiles: 4.00 s lost") for one in page.text)


def test_html_loads_nothing(tmp_path):
    """No script, no address, no import, and a policy that would stop them."""
    source = html.render(document_of(tmp_path, *EVERYTHING))
    page = Page(source)

    assert set() == {tag for tag, _ in page.elements} - ALLOWED
    assert set() == {name for _, attributes in page.elements for name in attributes} & {"src", "href", "srcset"}
    assert not re.search(r"url\(|@import|https?:|javascript:", source)
    assert ["default-src 'none'; style-src 'unsafe-inline'"] == [
        one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"
    ]


def test_html_has_its_style_for_light_and_dark(tmp_path):
    """It comes with the package."""
    source = html.render(document_of(tmp_path, compiled()))

    assert "prefers-color-scheme: dark" in source
    assert "color-scheme: light dark" in source


EVIL = "<img src=x onerror=alert(1)>\"'&</style></title><script>alert(2)</script>"


def poisoned(value, key: str = ""):
    """The value with every text replaced, but for those that select what is shown."""
    if isinstance(value, str):
        return value if key in ("kind", "started", "ended") else EVIL
    if isinstance(value, dict):
        return {name: poisoned(one, name) for name, one in value.items()}
    return [poisoned(one, key) for one in value] if isinstance(value, list) else value


def test_html_escapes_everything(tmp_path):
    """Whatever text of the document is hostile, no element and no attribute comes of it."""
    written(tmp_path / "e.p0.jsonl", lines(*EVERYTHING, index=0))
    written(tmp_path / "e.p1.jsonl", [*lines(*EVERYTHING, compiled(), index=1), b"{", b'\n{"event": "x"}\n'])
    document = read(tmp_path)
    before = read(written(tmp_path / "before.jsonl", lines(recompiled(), pitfall("dtype_flip"))))
    comparison = compare.compare(document, before)
    clean = Page(html.render(document, comparison))
    dirty = html.render(poisoned(document), poisoned(comparison))
    page = Page(dirty)

    assert ALLOWED >= {tag for tag, _ in page.elements}
    assert {name for _, one in clean.elements for name in one} >= {name for _, one in page.elements for name in one}
    assert "<img" not in dirty
    assert "<script" not in dirty
    assert dirty.count("</style>") == dirty.count("</title>") == 1
    assert "<img src=x onerror=alert(1)>" in "".join(page.text)


def test_html_escapes_a_function_from_the_log(tmp_path):
    """From the line in the file to the page."""
    from jitwatch.model.function import Function

    evil = Function(f"train.{EVIL}", EVIL, f"/home/{EVIL}/train.py:1")
    source = html.render(document_of(tmp_path, recompiled(function=evil), pitfall(function=evil, message=EVIL)))

    assert "<img" not in source
    assert "&lt;img src=x onerror=alert(1)&gt;" in source


def test_html_leaves_out_control_characters(tmp_path):
    """They are not allowed in HTML, and some of them turn text around."""
    source = html.render(document_of(tmp_path, pitfall(message="a\x00b\x1b\u202ec")))

    assert "a?b??c" in source


def test_html_lists_pitfalls_and_call_sites_by_their_cost(tmp_path):
    """Each with its advice; what costs most first."""
    source = html.render(
        document_of(
            tmp_path,
            recompiled(pitfall="shape_churn"),
            recompiled(function=LOSS, line=7, compile_s=9.0),
            pitfall(),
        )
    )
    cards = re.findall(r"<article>(.*?)</article>", source, re.DOTALL)

    assert ["10.0 s lost", "2.00 s lost"] == [re.search(r"[\d.]+ s lost", card)[0] for card in cards]
    assert "<b>Advice: </b>If that is the last batch of an epoch, drop the remainder or pad it to 8." in cards[0]
    assert "batch int32[8] → int32[6]." in cards[0]
    assert "<b>Advice: </b>Pad it to 8." in cards[1]
    assert "batch had 9 sizes in 10 compiles." in cards[1]


def test_html_draws_what_was_lost(tmp_path):
    """A bar beside the number, hidden from who cannot see it."""
    page = page_of(tmp_path, compiled(seconds=3.25), recompiled(), compiled(LOSS, 2.25))
    bars = [one for one in page.all("span") if one.get("class") == "bar"]

    assert [("width:100.0%", "true"), ("width:50.0%", "true")] == [(one["style"], one["aria-hidden"]) for one in bars]
    assert ["width:33.3%", "width:0.0%"] == [one["style"] for one in page.all("i")]


def test_html_shows_a_table_of_processes_for_several(tmp_path):
    """One process needs none."""
    for index in range(2):
        written(tmp_path / f"e.p{index}.jsonl", lines(*[compiled()] * (index + 1), ended(), index=index))
    source = html.render(read(tmp_path))

    assert "Processes" in headings(source)
    assert (
        "Process 1 compiled 2 times, compared with 1 for the median process of its run; difference by function: "
        "train.step +1." in source
    )
    assert ">Process 0<" in source


def test_html_folds_away_what_is_long(tmp_path):
    """Ten entries are open, the rest can be opened; no table has more than a hundred rows."""
    from jitwatch.model.function import Function

    functions = [Function(f"train.f{number}", f"f{number}") for number in range(120)]
    events = [compiled(function) for function in functions] + [pitfall(function=one) for one in functions[:15]]
    source = html.render(document_of(tmp_path, *events))

    assert "<summary>5 more</summary>" in source
    assert "And 20 more." in source
    assert 15 == source.count("<article>")


def test_html_of_a_comparison_begins_with_its_verdict(tmp_path):
    """As the main heading, then what is worse and better, then the run itself."""
    now = document_of(tmp_path, compiled(), recompiled(), ended(), name="now.jsonl")
    before = document_of(tmp_path, compiled(), pitfall(), ended(), run="r0", name="before.jsonl")
    source = html.render(now, compare.compare(now, before))

    assert "<h1>Partly worse, partly better than r0: 1 more recompile, 2.00 s more lost, 1 gone pitfall.</h1>" in source
    assert ["Worse", "Better", "Before and now", "Functions that differ"] == headings(source)[:4]
    assert "0 → 1" in source


@pytest.mark.parametrize("value", ["<", "&", '"', "'"])
def test_markup_escapes_once(value):
    """What is markup stays, what is text is escaped, in elements and attributes."""
    once = html.safe(value)

    assert once == html.safe(once)
    assert value not in once or value == "&"
    assert f"<p>{once}</p>" == html.tag("p", value) == html.tag("p", once)
    assert f'<p title="{once}"></p>' == html.tag("p", title=value)
