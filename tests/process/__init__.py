"""Tests that start processes of their own; they need no server program."""
