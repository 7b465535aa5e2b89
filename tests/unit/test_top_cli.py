"""The arguments of `jitwatch top`: addresses, tokens, certificates, and what is said where there is no job."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from jitwatch.cli.top import _address_of, _client, _trusted_by
from jitwatch.errors import ConfigError
from jitwatch.top.client import Client


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
    """A port, a host, both, a URL, and a URL copied from a browser."""
    assert expected == _address_of(text)


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
    """The message says what is expected and what was given, without control characters."""
    with pytest.raises(ConfigError, match=r"expected a port, host:port or http\(s\)://host:port, got '") as caught:
        _address_of(text)
    assert str(caught.value).isprintable()


def test_address_of_refuses_a_password_and_does_not_show_it():
    """The message may be logged."""
    with pytest.raises(ConfigError, match="--token-file") as caught:
        _address_of("http://me:secret@node7:1")
    assert "secret" not in str(caught.value)


def client(*urls: str, **options: Any) -> Client:
    """The client for these arguments."""
    return _client(argparse.Namespace(**{"urls": urls, "ca": None, "token_file": None, "interval": 2.0, **options}))


def test_jobs_at_given_addresses_are_asked_with_the_token(tmp_path):
    """Each once; no other is searched for."""
    (tmp_path / "token").write_text("secret\n")
    found = client("10431", "http://127.0.0.1:10431", "node7", token_file=tmp_path / "token")

    assert [("http://127.0.0.1:10431", "secret"), ("http://node7:10431", "secret")] == [
        (job.url, job.token) for job in found._jobs
    ]
    assert None is found._search


@pytest.mark.parametrize(
    ("port", "first", "last"), [(None, 10431, 10494), ("65530", 65530, 65535), ("0", 10431, 10494)]
)
def test_nothing_found_says_where_it_searched_and_what_to_do(monkeypatch, port, first, last):
    """The ports are named, and what to type."""
    if port is not None:
        monkeypatch.setenv("JITWATCH_PORT", port)

    assert (
        f"No job with jitwatch responds on this machine (127.0.0.1, ports {first} to {last}). "
        "Start one with: jitwatch run train.py, or name a port or an address: jitwatch top 9000 node7:10431"
    ) == client().nothing_found


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_trusted_by_refuses_a_file_without_certificates(tmp_path, content):
    """The message says what it should be."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"--ca: .*ca\.pem cannot be used .*; name a PEM file with certificates"):
        _trusted_by(str(path))
