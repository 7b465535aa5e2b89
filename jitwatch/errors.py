"""The exceptions that jitwatch raises, each with a message that says what to do next."""

from __future__ import annotations


class JitwatchError(Exception):
    """Base of every exception that jitwatch raises on purpose."""


class ConfigError(JitwatchError):
    """An option or a `JITWATCH_*` variable has a value that cannot be used."""


class RecompileError(JitwatchError):
    """A function compiled in a steady state that was declared with `on_recompile="raise"`.

    Attributes:
        function: Label of the function.
        call_site: `file:line` of the call, or None.
    """

    def __init__(self, message: str, *, function: str = "", call_site: str | None = None) -> None:
        super().__init__(message)
        self.function = function
        self.call_site = call_site


class UnsupportedJaxError(JitwatchError):
    """JAX is missing, or lacks something that was asked for with `strict=True`."""


class ServerError(JitwatchError):
    """The HTTP endpoint could not be opened (ports taken, TLS files unusable)."""


class EndpointConfigError(ConfigError, ServerError):
    """An option of the endpoint cannot be used: its TLS files, its token."""
