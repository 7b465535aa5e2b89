"""The open port, the pair of sockets that wakes the loop, and the selector that waits for them and the clients."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress

from jitwatch.server.descriptors import LostError, Owned

# Poll, not epoll: it has no descriptor of its own, which the job could close and take for an epoll of its own.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
#: Taken now: gevent may put another class into the module.
_Socket = socket.socket


class Port:
    """A listening socket and what the thread that serves it sleeps on.

    Args:
        listener: The listening socket; closed with the port.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = Owned(listener)
        wake_in, wake_out = socket.socketpair()
        for sock in (wake_in, wake_out):
            sock.setblocking(False)
        self._wake_in, self._wake_out = Owned(wake_in), Owned(wake_out)
        self.selector: selectors.BaseSelector = _Selector()
        self._quiet: selectors.BaseSelector = _Selector()
        for selector in (self.selector, self._quiet):
            selector.register(wake_in, selectors.EVENT_READ)
        self.pause(False)

    def pause(self, is_paused: bool) -> None:
        """Let connections wait, or accept them."""
        if is_paused:
            self.selector.unregister(self._listener.sock)
        else:
            self.selector.register(self._listener.sock, selectors.EVENT_READ)

    def is_listener(self, key: selectors.SelectorKey) -> bool:
        """Whether this key is that of the port: somebody wants to connect."""
        return key.fileobj is self._listener.sock

    def is_wake(self, key: selectors.SelectorKey) -> bool:
        """Whether this key is that of `wake`."""
        return key.fileobj is self._wake_in.sock

    def accept(self) -> socket.socket:
        """The next connection; raises as `socket.accept` does."""
        # That would make a socket of whatever class is in the module by now.
        descriptor, _ = self._listener.sock._accept()  # type: ignore[attr-defined]
        return _Socket(fileno=descriptor)

    def wake(self) -> None:
        """End the sleep of the loop. Any thread may call it."""
        if self._wake_out.is_ours():
            with suppress(OSError):  # full: it wakes anyway; closed: it has ended
                self._wake_out.sock.send(b"\0")

    def sleep(self, timeout_s: float) -> bool:
        """Sleep for so long, or until `wake` is called; whether it was."""
        return bool(self._quiet.select(timeout_s))

    def rest(self) -> None:
        """Take note of every `wake` up to now."""
        with suppress(BlockingIOError):
            self._wake_in.sock.recv(4096)

    def check(self) -> None:
        """Raise LostError when the job has closed a descriptor of these."""
        if not all(owned.is_ours() for owned in self._owned()):
            raise LostError("the job has closed the descriptors of the endpoint")

    def closers(self) -> tuple[Callable[[], None], ...]:
        """What closes everything, part by part. Each may be called again."""
        sockets = (self._listener.close, self._wake_in.close, self._wake_out.close)
        return (*sockets, self.selector.close, self._quiet.close)

    def abandon(self) -> None:
        """In a forked child: close this process's descriptors only."""
        for selector in (self.selector, self._quiet):
            with suppress(OSError):  # kqueue descriptors do not survive a fork
                selector.close()
        for owned in self._owned():
            owned.abandon()

    def _owned(self) -> tuple[Owned, Owned, Owned]:
        return self._listener, self._wake_in, self._wake_out
