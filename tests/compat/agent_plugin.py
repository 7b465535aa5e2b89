"""A pytest plugin that installs the agent before any test is imported, and lets failures of ours through."""

from __future__ import annotations

import jitwatch
from jitwatch import guard

guard.reraise = True
jitwatch.install(port=0)
