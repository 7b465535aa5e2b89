"""A job trains on when a function of jitwatch fails: a sample of the walk in `tests/faults`."""

from __future__ import annotations

from tests.faults.walk import walk


def test_no_fault_of_ours_changes_the_job():
    """Results, exit code, error and standard error are those of the bare job, and each fault is counted or logged."""
    result = walk(every=60)
    assert [] == result.noticed
    assert result.tried["raise"] > 10
    assert result.tried["none"] > 10
    assert result.tried["slow"] > 5


def test_a_fault_that_reaches_the_job_is_noticed():
    """The walk fails where a guard is missing: an entry is such a place by its nature."""
    from tests.faults import walk as module

    entries = module.ENTRIES
    module.ENTRIES = set()
    try:
        result = walk(only="Listeners._on_duration", modes=("raise",), jobs=1)
    finally:
        module.ENTRIES = entries
    assert ["jitwatch.jaxhooks.compile.monitoring.Listeners._on_duration (raise)"] == [
        name for name, _ in result.noticed
    ]
