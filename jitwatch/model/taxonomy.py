"""Closed lists of values: phases, causes, pitfalls, kinds, and reserved labels."""

from __future__ import annotations

from typing import Literal, get_args

#: Version of metric and event names (`build_info{schema}`, event field `schema`).
SCHEMA = 1
Phase = Literal["trace", "lower", "compile"]
#: Why a program is not written to the persistent cache after a miss.
UnwrittenReason = Literal[
    "host_callback",
    "short_compile",
    "small_entry",
    "other_process",
    "write_failed",
    "no_folder",
    "unknown",
]
#: Why the persistent cache does not have a program. Includes the reasons why it was not written before.
MissReason = Literal[
    "first_time",
    "program",
    "xla_flags",
    "version",
    "topology",
    "compile_options",
    "other",
    "evicted",
    "read_failed",
    "host_callback",
    "short_compile",
    "small_entry",
    "other_process",
    "write_failed",
    "no_folder",
    "unknown",
]
MISS_REASONS: tuple[MissReason, ...] = get_args(MissReason)
PHASES: tuple[Phase, ...] = ("trace", "lower", "compile")
#: Why a function was compiled again; the values of the metric label `cause`.
Cause = Literal[
    "shape",
    "dtype",
    "weak_type",
    "tree_structure",
    "static_arg",
    "sharding",
    "device",
    "committed",
    "layout",
    "new_function",
    "config",
    "transform",
    "cache_cleared",
    "aot",
    "unknown",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
#: Causes of recompiles that lose nothing: the first use under a transform, or on another device.
HARMLESS_CAUSES: frozenset[Cause] = frozenset({"transform", "device"})
#: The pitfalls; the values of the metric label `pitfall`. If several apply, the advice of the first is given: the most
#: specific ones come first.
PITFALLS = (
    "identity_hashed_static",
    "static_arg_churn",
    "too_many_statics",
    "unhashable_static",
    "closure_capture",
    "jit_in_loop",
    "mutable_default",
    "shape_churn",
    "weak_type",
    "dtype_flip",
    "sharding_flip",
    "tree_flip",
    "config_flip",
    "cache_thrash",
    "eager_churn",
    "captured_constant",
    "unrolled_loop",
    "compile_during_steady",
    "use_after_donate",
    "double_donation",
    "unusable_donation",
    "missed_donation",
)
#: Kinds of donation violations; the values of the metric label `kind`.
DonationKind = Literal["use_after_donate", "unusable", "double_donation"]
#: What is known of a donating call, or of an array that shares a buffer with a donated one; empty if nothing is.
Circumstance = Literal["", "rebound", "failed", "pending", "device_put", "shard", "in_place"]
DONATION_KINDS: tuple[DonationKind, ...] = get_args(DonationKind)
#: Label of all functions of JAX itself (`convert_element_type`, `jit(add)` …).
JAX_LABEL = "__jax__"
#: Label of the functions past the maximum number of labels.
OTHER_LABEL = "__other__"
#: Label of an unknown function.
UNKNOWN_LABEL = "unknown"
#: Label of the process totals that replace series by function with `detail="summary"`.
ALL_LABEL = "__all__"
