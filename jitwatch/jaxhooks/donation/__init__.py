"""Donation: records what donating calls donate, and reports violations and missed donations.

`watched` wraps jitted functions that donate, `calls` records their calls in the `ledger`, `indirect` those that do not
pass a wrapper. `arrays` and `aliases` handle JAX's array class; `violations`, `native_errors` and `unusable` find
violations, `opportunities` missed donations. `donation_hooks` installs all of them.
"""
