"""What a user may type for a job."""

from __future__ import annotations

import pytest

from jitwatch.errors import ConfigError
from jitwatch.top.addresses import address_of, is_loopback, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10433", "http://127.0.0.1:10433"),
        ("node7", "http://node7:10431"),
        ("node7:10440", "http://node7:10440"),
        ("[::1]:10440", "http://[::1]:10440"),
        ("http://node7:10440/", "http://node7:10440"),
        ("https://node7:10440/healthz", "https://node7:10440"),
        ("http://127.0.0.1:10431/api/v1/state", "http://127.0.0.1:10431"),
        ("https://proxy.example.org/jobs/7/", "https://proxy.example.org/jobs/7"),
    ],
)
def test_address_of_takes_each_form(text, expected):
    """A port, a host, both, an address, and one that was copied from a browser."""
    assert expected == address_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "70000",
        "0",
        "node7:x",
        "ftp://node7",
        "node 7:1",
        "http://",
        "node7:1?x=1",
        "http://a\x1b[2J:1",
        "ü:1",
        "-:-1",
    ],
)
def test_address_of_refuses_anything_else(text):
    """And says what it expects, and what it got, with nothing that steers a terminal."""
    with pytest.raises(ConfigError, match=r"expected a port, host:port or http\(s\)://host:port, got '") as caught:
        address_of(text)
    assert str(caught.value).isprintable()


def test_address_of_refuses_a_password_and_does_not_show_it():
    """The message may end up in a log."""
    with pytest.raises(ConfigError, match="--token-file") as caught:
        address_of("http://me:secret@node7:1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://127.0.0.1:1", True), ("http://localhost:1", True), ("https://[::1]:1", True),
     ("http://node7:1", False), ("http://10.0.0.1:1", False), ("http://127.0.0.1.example.org:1", False)],
)  # fmt: skip
def test_is_loopback_is_only_this_machine(url, expected):
    """No proxy is asked for those."""
    assert expected == is_loopback(url)


def test_shown_leaves_out_the_obvious():
    """But not that it is https."""
    assert ("node7:1", "https://node7:1") == (shown("http://node7:1"), shown("https://node7:1"))
