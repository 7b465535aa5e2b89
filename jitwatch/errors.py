"""The exceptions that jitwatch raises. Each message ends with the next step."""

from __future__ import annotations


class JitwatchError(Exception):
    """Base class of all exceptions of jitwatch."""


class ConfigError(JitwatchError):
    """An option or a `JITWATCH_*` variable has an invalid value."""


class RecompileError(JitwatchError):
    """A function compiled during a steady state declared with `on_recompile="raise"`.

    Attributes:
        function: Label of the function.
        call_site: `file:line` of the call, or None.
    """

    def __init__(self, message: str, *, function: str = "", call_site: str | None = None) -> None:
        super().__init__(message)
        self.function = function
        self.call_site = call_site


class UnsupportedJaxError(JitwatchError):
    """JAX is not installed, or lacks a hook that `strict=True` requires."""


class ServerError(JitwatchError):
    """The HTTP endpoint could not be opened: no free port, invalid TLS files."""


class EndpointConfigError(ConfigError, ServerError):
    """An option of the endpoint is invalid: its TLS files or its token."""
