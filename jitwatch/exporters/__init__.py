"""Outputs of the store: Prometheus, the event log, service discovery, scalars. They never write to the store."""
