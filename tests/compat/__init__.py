"""Checks against other projects' own tests; run by hand, see docs/transparency.md."""
