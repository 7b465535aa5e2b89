"""Signatures of calls: leaves, static values and placement."""
