"""Selectors, units, colours and names that boards, rules and tests share."""

from __future__ import annotations

from typing import Final

from jitwatch.model.thresholds import THRESHOLDS

#: Labels that tell the processes of a fleet apart. `run` is a label of the scrape target and may be absent.
PROCESS: Final = "job, run, instance"
RUN: Final = "job, run"

#: What every selector of a board says: the variables at its top.
SELECTOR: Final = 'job=~"$job", run=~"$run", instance=~"$instance"'
#: JAX's own small compiles, functions past the cap, and the totals of summary detail.
RESERVED_FUNCTIONS: Final = "__.+__"

#: Seconds that a Prometheus waits between two scrapes; the data source says so to Grafana.
SCRAPE_INTERVAL_S: Final = 15

# Thresholds of what only a Prometheus can see; all others are in `jitwatch.model.thresholds`.

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
BUSY: Final[Steps] = ((None, GREEN), (THRESHOLDS.busy_warn_ratio, YELLOW), (THRESHOLDS.busy_bad_ratio, RED))
DEVICE_IN_USE: Final[Steps] = (
    (None, GREEN),
    (THRESHOLDS.device_memory_warn_ratio, YELLOW),
    (THRESHOLDS.device_memory_bad_ratio, RED),
)
HOST_IN_USE: Final[Steps] = (
    (None, GREEN),
    (THRESHOLDS.host_memory_warn_ratio, YELLOW),
    (THRESHOLDS.host_memory_bad_ratio, RED),
)
RECOMPILES: Final[Steps] = (
    (None, GREEN),
    (THRESHOLDS.recompiles_warn_per_10m, YELLOW),
    (THRESHOLDS.recompiles_bad_per_10m, RED),
)
COMPILE_AGE: Final[Steps] = ((None, GREEN), (THRESHOLDS.compile_warn_s, YELLOW), (THRESHOLDS.compile_bad_s, RED))
ENTRIES: Final[Steps] = ((None, GREEN), (THRESHOLDS.cache_entries_warn, YELLOW))

# Boards

FLEET: Final = "jitwatch-fleet"
JOB: Final = "jitwatch-job"
FUNCTION: Final = "jitwatch-function"

#: Where Grafana is, and where the runbooks are; `jitwatch dashboards --grafana --runbooks` puts others in.
GRAFANA_URL: Final = "http://localhost:3000"
RUNBOOKS_URL: Final = "{{ $externalURL }}/consoles"
