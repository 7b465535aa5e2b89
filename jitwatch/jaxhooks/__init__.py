"""The only package that uses private names of JAX; each name is checked before it is used (`compat`).

Nothing here imports jax before the job does: modules are looked up in `sys.modules` when the session is attached.
"""
