"""Renders state and events as text: every sentence and number that a person reads."""
