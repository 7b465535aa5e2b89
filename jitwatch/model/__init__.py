"""The facts: functions, signatures, events, memory. Plain data that imports nothing of JAX."""
