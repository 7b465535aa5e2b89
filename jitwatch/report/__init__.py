"""A run told from its event logs: read, folded together, compared, judged, and put into text, JSON or HTML.

Nothing here needs JAX or a running job. Whatever is in the logs was written by somebody else: it is
read with suspicion, kept in bounds, and escaped wherever it is shown.
"""

from __future__ import annotations
