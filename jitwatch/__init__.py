"""jitwatch: watches the compiles, caches, donations and memory of a JAX training job.

    import jitwatch
    jitwatch.install()

Importing this package imports no jax, starts nothing and registers nothing.

PYTEST_DONT_REWRITE: the agent may be imported before pytest, which would warn that it cannot rewrite our assertions.
"""

from __future__ import annotations

from jitwatch._version import __version__
from jitwatch.agent import Watch, explain, install, profile_compiles, scalars, snapshot, step, uninstall
from jitwatch.diagnosis import Steady, expected, steady
from jitwatch.errors import ConfigError, JitwatchError, RecompileError, ServerError, UnsupportedJaxError

# `python -OO` drops docstrings, and with it the word that pytest looks for.
__doc__ = __doc__ or "PYTEST_DONT_REWRITE"

__all__ = [
    "ConfigError",
    "JitwatchError",
    "RecompileError",
    "ServerError",
    "Steady",
    "UnsupportedJaxError",
    "Watch",
    "__version__",
    "expected",
    "explain",
    "install",
    "profile_compiles",
    "scalars",
    "snapshot",
    "steady",
    "step",
    "uninstall",
]
