"""Answers that come by a deadline as a whole: a server that sends a byte now and then is waited for no longer."""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Callable
from typing import Any


class LateError(TimeoutError):
    """The answer did not end in time."""


def timed(within_s: float) -> Callable[..., http.client.HTTPResponse]:
    """A `response_class` for a connection whose answer, head and body, has so many seconds.

    The timeout of the socket holds for each read, so that alone it never ends a server that goes on slowly.
    """

    def response(sock: socket.socket, *args: Any, **options: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Timed(sock, within_s), *args, **options)  # type: ignore[arg-type]

    return response


class _Timed:
    """A socket, as far as an answer needs it: it can be read."""

    def __init__(self, sock: socket.socket, within_s: float) -> None:
        self._socket = sock
        self._ends = time.monotonic() + within_s

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._socket, self._ends))


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket, ends: float) -> None:
        self._socket = sock
        self._timeout_s = sock.gettimeout()
        self._ends = ends
        # Keeps the connection open until it is closed itself.
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            raise LateError
        self._socket.settimeout(left_s if self._timeout_s is None else min(left_s, self._timeout_s))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            if time.monotonic() >= self._ends:
                raise LateError from None
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()
