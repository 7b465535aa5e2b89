"""The only package that touches names which JAX keeps private; each stands behind a probe of its own.

Nothing here imports jax before the job does: modules are looked up in `sys.modules` when attached.
"""
