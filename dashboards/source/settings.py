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
TEXT: Final = "string"

# Colours, by Grafana's names

GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"

#: Grafana's colour of plain text: of what is not known.
UNKNOWN: Final = "text"

Steps = tuple[tuple[float | None, str], ...]


def levels(warn: float | None, bad: float | None = None) -> Steps:
    """Green below both limits, yellow from one and red from the other. What has no value is neither."""
    found: list[tuple[float | None, str]] = [(None, UNKNOWN), (0, GREEN)]
    found += [(value, color) for value, color in ((warn, YELLOW), (bad, RED)) if value is not None]
    return tuple(found)


#: Colours by value, from the lowest.
PLAIN: Final[Steps] = ((None, BLUE),)
NONE_IS_GOOD: Final[Steps] = levels(None, 1)
NONE_IS_FINE: Final[Steps] = levels(1)
BUSY: Final[Steps] = levels(THRESHOLDS.busy_warn_ratio, THRESHOLDS.busy_bad_ratio)
DEVICE_IN_USE: Final[Steps] = levels(THRESHOLDS.device_memory_warn_ratio, THRESHOLDS.device_memory_bad_ratio)
HOST_IN_USE: Final[Steps] = levels(THRESHOLDS.host_memory_warn_ratio, THRESHOLDS.host_memory_bad_ratio)
RECOMPILES: Final[Steps] = levels(THRESHOLDS.recompiles_warn_per_10m, THRESHOLDS.recompiles_bad_per_10m)
COMPILE_AGE: Final[Steps] = levels(THRESHOLDS.compile_warn_s, THRESHOLDS.compile_bad_s)
ENTRIES: Final[Steps] = levels(THRESHOLDS.cache_entries_warn)

#: Least step of a graph of counts: four scrapes, so that each bar has an increase that was seen.
COUNT_STEP: Final = f"{4 * SCRAPE_INTERVAL_S}s"
#: Least extent of an axis of shares.
BUSY_SOFT_MAX: Final = 0.1

# Boards

FLEET: Final = "jitwatch-fleet"
JOB: Final = "jitwatch-job"
FUNCTION: Final = "jitwatch-function"

#: Where Grafana is, and where the runbooks are; `jitwatch dashboards --grafana --runbooks` puts others in.
GRAFANA_URL: Final = "http://localhost:3000"
RUNBOOKS_URL: Final = "{{ $externalURL }}/consoles"
#: The same address for links of boards, which do not know Prometheus's.
RUNBOOKS_IN_GRAFANA: Final = "http://localhost:9090/consoles"
