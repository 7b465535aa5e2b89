"""Checks on a GPU or a TPU: `python -m tests.accelerator` runs them and writes a table. See docs/accelerators.md."""
