"""The alerts, each with a page in `runbooks/` and tests in `prometheus/tests/` where it fires and where not."""
