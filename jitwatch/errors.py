"""The exceptions that jitwatch raises, each with a message that says what to do next."""

from __future__ import annotations


class JitwatchError(Exception):
    """Base of every exception that jitwatch raises on purpose."""


class ConfigError(JitwatchError):
    """An option or a `JITWATCH_*` variable has a value that cannot be used."""


class UnsupportedJaxError(JitwatchError):
    """JAX is missing, or lacks something that was asked for with `strict=True`."""


class ServerError(JitwatchError):
    """The HTTP endpoint could not be opened (ports taken, TLS files unusable)."""
