"""Whose function and whose line of code a call is about."""
