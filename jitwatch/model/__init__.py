"""The data model: functions, signatures, events, thresholds and closed lists. Plain data that imports no JAX."""
