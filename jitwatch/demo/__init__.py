"""The job behind `jitwatch demo`: a character-level transformer trained on the Python documentation.

`text` yields batches of the corpus (no JAX), `model` has the jitted functions, `train` is the training loop, and
`pitfalls` has an example of each pitfall. Importing this package imports nothing, so that the command line can start
the agent first.
"""
