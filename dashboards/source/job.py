"""The dashboard of one run: its health first, then each signal."""

from __future__ import annotations

from dashboards.source.common import VARIABLES, marks
from dashboards.source.model import Board
from dashboards.source.rows.agent import AGENT, DIVERGENCE
from dashboards.source.rows.caches import CACHES
from dashboards.source.rows.compiles import COMPILES
from dashboards.source.rows.donation import DONATION, STEPS
from dashboards.source.rows.memory import DEVICE_MEMORY, HOST_MEMORY
from dashboards.source.rows.overview import OVERVIEW
from dashboards.source.settings import JOB, PROCESS

BOARD = Board(
    uid=JOB,
    title="jitwatch / job",
    description="One JAX run: compiles and their cost, caches, donation, memory, divergence between processes.",
    variables=VARIABLES,
    annotations=marks(by=PROCESS),
    rows=(OVERVIEW, COMPILES, CACHES, STEPS, DONATION, DEVICE_MEMORY, HOST_MEMORY, DIVERGENCE, AGENT),
)
