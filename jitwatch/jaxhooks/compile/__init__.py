"""Compile hooks: the miss hooks, compile phases, the listeners of `jax.monitoring`, refused calls, cleared caches."""
