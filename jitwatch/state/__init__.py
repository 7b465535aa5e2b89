"""The state of a run: the aggregates of its events, read by every exporter."""
