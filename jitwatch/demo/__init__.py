"""The job behind `jitwatch demo`: a character-level transformer trained on the Python documentation.

`text` makes batches of the corpus (no JAX), `model` holds the jitted functions, `train` is the loop.
Importing this package imports nothing, so that the command line can start the agent first.
"""
