"""The state of a run: reduced from events, read by every exporter."""
