"""The terminal view: asks one or several jobs for their state, and shows what is wrong with them.

    finding, fetching → figures → tracking, health → layout → plain text or a live screen

Nothing here knows the agent or JAX: what is shown is what `GET /api/v1/state` says, cleaned.
"""
