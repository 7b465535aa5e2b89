"""Thresholds, selectors, units and names that boards, rules and tests share: one place to change them."""

from __future__ import annotations

from typing import Final

#: Labels that tell the processes of a fleet apart. `run` is a label of the scrape target and may be absent.
PROCESS: Final = "job, run, instance"
RUN: Final = "job, run"

#: What every selector of a board says: the variables at its top.
SELECTOR: Final = 'job=~"$job", run=~"$run", instance=~"$instance"'
#: JAX's own small compiles, functions past the cap, and the totals of summary detail.
RESERVED_FUNCTIONS: Final = "__.+__"

#: Seconds that a Prometheus waits between two scrapes; the data source says so to Grafana.
SCRAPE_INTERVAL_S: Final = 15

# Where good ends. Boards turn red where the alert of the same figure fires.

#: Share of wall clock in which at least one thread compiles.
BUSY_WARNING: Final = 0.1
BUSY_CRITICAL: Final = 0.5
#: Recompiles of one function in ten minutes, and seconds lost to them: hits of the persistent cache cost little.
RECOMPILES_10M: Final = 10
RECOMPILE_SECONDS_10M: Final = 30
#: Seconds that a compile may take.
COMPILE_WARNING_S: Final = 600
COMPILE_STUCK_S: Final = 3600
#: Entries of a function's jit caches, and how many may come in an hour.
CACHE_ENTRIES: Final = 50
CACHE_GROWTH_1H: Final = 20
#: Memory in use as a share of what there is, of a device and of a machine.
MEMORY_WARNING: Final = 0.85
MEMORY_HIGH: Final = 0.95
MEMORY_LEAK_FLOOR: Final = 0.7
#: How far ahead a leak is foretold, and from what: the short range ends the forecast soon after a mere step up.
LEAK_AHEAD_S: Final = 4 * 3600
LEAK_RANGE: Final = "2h"
LEAK_SHORT_RANGE: Final = "30m"
#: Processes of one run that started within so many seconds of each other are comparable.
STARTED_TOGETHER_S: Final = 600
#: Seconds without a call of a watched function.
LAST_CALL_S: Final = 900
#: Starts of the agent at one address in an hour.
RESTARTS_1H: Final = 3
#: A target that is down is a jitwatch one if it was seen within this time.
TARGET_MEMORY: Final = "2h"

# Units, by Grafana's names

SECONDS: Final = "s"
BYTES: Final = "bytes"
BYTES_PER_SECOND: Final = "Bps"
SHARE: Final = "percentunit"
COUNT: Final = "short"
PER_SECOND: Final = "ops"
FLOPS: Final = "flops"
WHEN: Final = "dateTimeFromNow"
YES_NO: Final = "bool_yes_no"
TEXT: Final = "string"

# Colours, by Grafana's names

GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"

Steps = tuple[tuple[float | None, str], ...]

#: From which value on which colour; the first has no lower end.
PLAIN: Final[Steps] = ((None, BLUE),)
NONE_IS_GOOD: Final[Steps] = ((None, GREEN), (1, RED))
NONE_IS_FINE: Final[Steps] = ((None, GREEN), (1, YELLOW))
BUSY: Final[Steps] = ((None, GREEN), (BUSY_WARNING, YELLOW), (BUSY_CRITICAL, RED))
MEMORY: Final[Steps] = ((None, GREEN), (MEMORY_WARNING, YELLOW), (MEMORY_HIGH, RED))
RECOMPILES: Final[Steps] = ((None, GREEN), (1, YELLOW), (RECOMPILES_10M, RED))
COMPILE_AGE: Final[Steps] = ((None, GREEN), (COMPILE_WARNING_S, YELLOW), (COMPILE_STUCK_S, RED))
ENTRIES: Final[Steps] = ((None, GREEN), (CACHE_ENTRIES, YELLOW))

# Boards

FLEET: Final = "jitwatch-fleet"
JOB: Final = "jitwatch-job"
FUNCTION: Final = "jitwatch-function"

#: Where Grafana is, and where the runbooks are; `jitwatch dashboards --grafana --runbooks` puts others in.
GRAFANA_URL: Final = "http://localhost:3000"
RUNBOOKS_URL: Final = "{{ $externalURL }}/consoles"
