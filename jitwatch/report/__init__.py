"""The report of a run: reads event logs, aggregates and compares them, and renders text, JSON or HTML.

It needs neither JAX nor a running job. The content of logs is not trusted: it is checked and bounded when it is read,
and escaped where it is shown.
"""

from __future__ import annotations
