"""Compiles, their phases and what caused them."""
