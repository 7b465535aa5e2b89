"""Words donation violations: what happened, what to change, and the note on the user's error."""

from __future__ import annotations

from jitwatch.model.events import DonationViolation
from jitwatch.model.function import argument_of
from jitwatch.render.formats import file_line


def summary(event: DonationViolation) -> str:
    """What happened, of a double donation."""
    if not event.other_leaf:
        return f"one buffer was passed twice to a call of {event.function.name} that donates it"
    more = "" if not event.more else f"; and {event.more} more pair{'s'[: event.more > 1]} of arguments"
    call = f"one call of {event.function.name} donates"
    if event.other_is_donated:
        return f"{call} both {event.leaf} and {event.other_leaf}, which share a buffer{more}"
    return f"{call} {event.leaf}, which shares its buffer with {event.other_leaf}{more}"


def advice(event: DonationViolation) -> str:
    """What to change. It suggests to assign the result to the argument only under a condition."""
    if event.violation == "double_donation":
        copied = event.other_leaf or "one of them"
        return f"copy {copied} before the call (jnp.copy), or do not donate it"
    if event.donor is None:
        return (
            "the call that donated its buffer is unknown; use the result of that call, or copy the array before it "
            "(jnp.copy)"
        )
    argument = event.argument or "the argument"
    is_plain = argument.isidentifier() and argument != "args"
    copied = f"jnp.copy({argument})" if argument == event.donated_leaf else f"jax.tree.map(jnp.copy, {argument})"
    kept = f"copy it before the call: {copied}" if is_plain else "copy it before the call"
    match event.circumstance:
        case "failed":
            return (
                f"that call failed after it had donated {argument}, so its value is lost; restore a checkpoint, or "
                f"{kept}"
            )
        case "pending":
            return (
                f"the result of that call was not assigned yet (a signal handler or a callback ran first); use it "
                f"after the assignment, or {kept}"
            )
        case "device_put":
            return (
                "the array that was used shares the donated buffer: jax.device_put made no copy, because the array was "
                "already on that device; use jnp.copy"
            )
        case "shard":
            return (
                f"the array that was used shares a buffer with {argument}; copy it to the host (np.asarray) "
                "before that call, or use jnp.copy"
            )
        case "in_place":
            return f"that call updates {argument} in place; read its arrays again after it, or copy them before it"
        case "rebound":
            return (
                f"that line assigns its result to {argument}, so the array that was used is another reference to the "
                f"old value; use {argument}, or {kept}"
            )
    return (
        f"if the result of that call is the next value of {argument}, assign it to {argument}; "
        f"if not, do not donate {argument}, or {kept}"
    )


def note(event: DonationViolation) -> str:
    """The note that is added to the user's exception."""
    if event.violation == "double_donation":
        return f"donated and passed again: {summary(event)}; {advice(event)}"
    if event.donor is None:
        return f"donated before: {advice(event)}"
    where = f" at {file_line(event.donated_at)}" if event.donated_at else ""
    argument = event.argument or argument_of(event.donated_leaf or "")
    return f"donated to {event.donor.name}({argument}){where}, leaf {event.donated_leaf}; {advice(event)}"
