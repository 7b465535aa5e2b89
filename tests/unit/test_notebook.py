"""The handle in a notebook."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp

import jitwatch


class Reader(HTMLParser):
    """Collects tags and text; complains about an end without a start."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        assert [] == self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


def test_handle_shows_what_was_compiled():
    """Address, the one line, and a row for each function; what a function is called is text."""

    def strange(x):
        return x + 1

    strange.__name__ = strange.__qualname__ = "<img src=x onerror=alert(1)>"
    with jitwatch.install(port=0) as watch:
        function = jax.jit(strange)
        for size in (3, 4):
            function(jnp.ones(size))
        html, url = watch._repr_html_(), watch.url
    found = Reader(html)

    assert f'<a href="{url}"' in html
    assert "img" not in found.tags
    row = re.search(
        r"<tr><td>[^<]*img src=x onerror[^<]*</td><td>(.*?)</td><td>(.*?)</td>.*?<td>1 shape</td></tr>", html
    )
    assert row
    assert ("2", "1") == row.groups()
    assert "2 compiles (1 recompile) took" in html


def test_handle_of_an_agent_that_ended_still_shows_it():
    """Without an address that would lead nowhere."""
    with jitwatch.install(port=0) as watch:
        jax.jit(lambda x: x)(1.0)
    html = watch._repr_html_()

    assert "<b>jitwatch</b> ended" in html
    assert "1 compile" in html
    assert "href" not in html


def test_handle_without_an_agent_says_so(monkeypatch):
    """As with JITWATCH_DISABLE=1."""
    monkeypatch.setenv("JITWATCH_DISABLE", "1")

    assert "jitwatch</b> is off" in jitwatch.install()._repr_html_()
