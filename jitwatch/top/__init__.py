"""`jitwatch top`: polls running jobs, and shows in the terminal what they compile and what is wrong.

    client → model → view → plain text, JSON, or the live screen of `app`

Nothing here knows the agent or JAX: what is shown is what `GET /api/v1/state` answers, cleaned.
Only `app` needs textual.
"""
