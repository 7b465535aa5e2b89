"""The HTTP endpoint: a server that no client can block, its paths and the live page."""

from __future__ import annotations

from jitwatch.server.http import Handler, Request, Response, Server
from jitwatch.server.routes import Routes

__all__ = ["Handler", "Request", "Response", "Routes", "Server"]
