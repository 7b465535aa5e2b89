"""Donation: records what donating calls donate, and reports violations and missed donations.

`watched` wraps jitted functions that donate and records their calls in the `ledger`, `indirect` calls that pass no
wrapper. `donated_arrays` handles JAX's array class; `violations` finds violations, `opportunities` missed
donations. `donation_hooks` installs all of them.
"""
