"""Which jobs to watch: those that were named, or all of this machine, looked for again and again."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from jitwatch.errors import ConfigError
from jitwatch.top.fetching import asker
from jitwatch.top.finding import Found, find
from jitwatch.top.watching import Ask, Watches

#: Seconds between two looks for new jobs.
LOOK_AGAIN_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asked for.

    Attributes:
        urls: Addresses of jobs; none to look for those of this machine.
        base_port: First port to look at.
        token: Bearer token of the jobs; its text is in no message.
        ca: Whom to trust for https; None for the system's certificates.
    """

    urls: Sequence[str] = ()
    base_port: int = 10431
    token: str | None = None
    ca: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Wanted(urls={self.urls!r}, base_port={self.base_port!r}, token={'***' if self.token else None})"


def trusting(ca: str | None) -> ssl.SSLContext | None:
    """Trust the certificates in this file, and no others.

    Raises:
        ConfigError: It cannot be read, or has no certificates.
    """
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ca: {ca} cannot be used ({error}); give a PEM file with certificates") from None


def look(wanted: Wanted, watches: Watches) -> None:
    """Watch what was named, or what is found now."""
    for url in wanted.urls:
        watches.add(url, asker(url, token=wanted.token, ca=wanted.ca))
    if not wanted.urls:
        for found in find(wanted.base_port, known=watches.living(), ca=wanted.ca):
            watches.add(found.url, _asker_of(found, wanted))


def _asker_of(found: Found, wanted: Wanted) -> Ask:
    return asker(found.url, token=wanted.token if found.is_ours else None, ca=wanted.ca)


def keep_looking(wanted: Wanted, watches: Watches, is_ended: threading.Event) -> None:
    """Look for new jobs in a thread of its own, until told to end."""

    def loop() -> None:
        while not is_ended.wait(LOOK_AGAIN_S):
            # Without descriptors or threads, for one; the jobs that are watched are watched all the same.
            with contextlib.suppress(Exception):
                look(wanted, watches)

    if not wanted.urls:
        threading.Thread(target=loop, name="jitwatch-top-finder", daemon=True).start()


def nothing_found(wanted: Wanted) -> str:
    """What to say, and what to do, where there is no job."""
    last = min(wanted.base_port + 63, 65535)
    return (
        f"No job with jitwatch answers on this machine at the ports {wanted.base_port} to {last} of 127.0.0.1. "
        "Start one with: jitwatch run train.py, or give another port or address: jitwatch top 9000 node7:10431"
    )
