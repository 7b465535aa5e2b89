"""The live page of a job in which everything that has a name has a hostile one, in a real browser."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

import pytest
from selenium.common.exceptions import NoAlertPresentException

import tests
from jitwatch.model.cleaning import clean
from tests.integration.browser import Page, running_browser
from tests.integration.conftest import need, running_job
from tests.unit.hostile import HOSTILE, MIXED, harm_in
from tests.waiting import wait_until

pytestmark = pytest.mark.server

JOB = """
import json, sys
import jitwatch
watch = jitwatch.install(port=0, run="hostile", sample_interval_s=0.5)
import jax
jax.config.update("jax_disable_most_optimizations", True)
from tests.unit import hostile, hostile_job

for text in (*hostile.HOSTILE, "constructor", "__proto__", "toString", "valueOf"):
    hostile_job.functions(text)
bare = hostile_job.named(lambda x: x * 2, "toString")
bare.__module__ = None
bare = jax.jit(bare)
bare(1.0)
hostile_job.commit()
print(json.dumps({"url": watch.url}), flush=True)
sys.stdin.readline()
"""
#: Everything that is in the page: elements, attributes and texts, those that are not shown as well.
DOM = """
const elements = [...document.querySelectorAll("*")];
return {
  tags: [...new Set(elements.map((one) => one.tagName.toLowerCase()))],
  attributes: [...new Set(elements.flatMap((one) => one.getAttributeNames()))],
  links: elements.flatMap((one) => ["href", "src", "action", "formaction", "data"].map((name) => one.getAttribute(name))).filter(Boolean),
  styles: [...new Set(elements.map((one) => one.getAttribute("style")).filter(Boolean))],
  texts: [document.title, document.documentElement.textContent,
    ...elements.flatMap((one) => one.getAttributeNames().map((name) => one.getAttribute(name)))],
};
"""  # noqa: E501
NAMED = """
const done = arguments[arguments.length - 1];
import(new URL("page/format.js", document.baseURI)).then(({ named, swatch }) =>
  done([named("toString"), swatch("constructor").textContent, named("valueOf")]));
"""
#: What the page is made of.
TAGS = re.compile(
    "html|head|meta|title|link|script|body|a|header|h1|h2|h3|span|p|ul|ol|li|main|section|dl|dt|dd|div|button|label|input"
    "|table|thead|tbody|tr|th|td|figure|figcaption|footer|dialog|noscript|code|small|strong|b|i|del|ins|svg|line|text"
    "|rect|path|polyline|circle|g|meter"
)
ATTRIBUTES = re.compile(
    "lang|charset|name|content|rel|href|type|src|class|id|hidden|role|aria-[a-z]+|tabindex|scope|title|style|data-function"
    "|viewBox|min|max|value|x|y|x1|x2|y1|y2|width|height|fill|d|points|text-anchor|autocomplete|spellcheck|placeholder|open|cx|cy|r"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page; nothing that it was given has run a script."""
    path = os.pathsep.join([str(Path(tests.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    with (
        running_browser(need("chromium"), need("chromedriver", "chromium-driver")) as browser,
        running_job(tmp_path_factory.mktemp("hostile") / "job.py", JOB, PYTHONPATH=path) as job,
    ):
        yield Page(browser, job.line()["url"])
        with pytest.raises(NoAlertPresentException):
            browser.switch_to.alert.accept()


def check(page: Page) -> None:
    """Nothing but the page's own elements and attributes, no script, and no text that steers."""
    found = page.run(DOM)
    assert [] == [tag for tag in found["tags"] if not TAGS.fullmatch(tag)]
    assert [] == [name for name in found["attributes"] if not ATTRIBUTES.fullmatch(name)]
    assert page.run("return document.querySelectorAll('script, img, iframe, object, embed').length") == 1
    assert {link.partition(":")[0] for link in found["links"] if ":" in link} <= {"data"}
    assert all(style.startswith("background") for style in found["styles"])
    assert [] == harm_in("\n".join(found["texts"]))
    assert [] == page.errors()


def test_page_shows_hostile_names_as_text(page):
    """All functions, advice, violations, memory and charts."""
    page.open()
    wait_until(lambda: len(page.functions()) >= 20, what="the functions")
    page.run("document.querySelectorAll('main button[aria-expanded=false]').forEach((one) => one.click())")
    names = {row["function"] for row in page.ask("/api/v1/state")["functions"]}
    wait_until(lambda: names - {"__jax__"} <= {*page.functions(), "__jax__"}, what="all functions")
    check(page)
    shown = page.run("return document.body.textContent")
    shown = shown.replace('"', "'")
    assert [] == [text for text in MIXED if clean(text, 200)[:12].replace('"', "'") not in shown]
    assert [] == [text for text in HOSTILE if clean(text, 200)[:12].replace('"', "'") not in shown]


def test_detail_shows_hostile_names_as_text(page):
    """Of each function: what it is, its changes, its notes."""
    page.open()
    wait_until(lambda: len(page.functions()) >= 20, what="the functions")
    for label in [name for name in page.functions() if name != "__jax__"]:
        page.run("location.hash = '#f=' + encodeURIComponent(arguments[0])", label)
        wait_until(lambda label=label: page.text("#detail-title") == label, what="the detail")
        wait_until(lambda: page.texts("#detail ol > li"), what="what happened")
        check(page)
        page.run("document.getElementById('detail-close').click()")


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "javascript:alert(1)",
        "a\u202eb\u2066c\x1b[31m\u200b",
        "'\"><svg/onload=alert(1)>",
        "constructor",
        "__proto__",
        "%",
    ],
)
def test_link_to_a_hostile_name_is_text(page, text):
    """A link comes from anybody."""
    page.open("#f=" + urllib.parse.quote(text))
    wait_until(
        lambda: "no function with this label" in page.text("#detail-body") or page.texts("#detail ol > li"),
        what="the detail",
    )
    check(page)


def test_names_of_javascripts_own_objects_are_only_names(page):
    """`toString` is something that every object has; here it is a function of the job, or a cause, and nothing else."""
    page.open()
    page.press("/", "toString")
    wait_until(lambda: page.cells("toString"), what="the function")
    assert "[native code]" not in page.run("return document.body.textContent")
    assert ["toString", "constructor", "valueOf"] == page.browser.execute_async_script(NAMED)
