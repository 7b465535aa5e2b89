"""Ways out of the store: Prometheus, the event log. They read, and never write back."""
