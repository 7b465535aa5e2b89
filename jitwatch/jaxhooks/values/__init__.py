"""Signatures of calls: leaves, static values, placement and configuration."""
