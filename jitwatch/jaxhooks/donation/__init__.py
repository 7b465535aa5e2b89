"""Donation: functions that donate are watched, what they took is remembered in the dead arrays, misuse is told.

`arrays` and `guards` touch JAX's array class, `ledger` says who took what, `watched` and `donors` see the calls
that donate, `misuse` the errors of dead arrays, `unusable` the donations that XLA could not use.
"""
