"""The options and contexts of JAX's configuration that a compiled program depends on, by name.

Source: `jax._src.config.trace_context()`, a part of the key of JAX's trace and lowering caches. From 0.10 on
`trace_context_names` gives its names; before, the states listed here are read (found by toggling each of them on 0.6.2,
0.7.2, 0.8.3, 0.9.0 and 0.9.2).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from jitwatch.jaxhooks.values.classes import is_of_library, is_one_of
from jitwatch.jaxhooks.values.description import plain_text
from jitwatch.jaxhooks.values.texts import device_name, mesh_text, shorten

DISABLE_JIT = "jax_disable_jit"
#: States before 0.10, of all versions together.
_OLDER_STATES = (
    "jax_debug_key_reuse",
    "jax_check_static_indices",
    "jax_custom_vjp3",
    "jax_random_seed_offset",
    "jax_threefry_partitionable",
    "jax_threefry_gpu_kernel_lowering",
    "jax_use_direct_linearize",
    "jax_use_simplified_jaxpr_constants",
    "jax_remove_size_one_mesh_axis_from_type",
    "check_vma",
    "jax_softmax_custom_jvp",
    "jax_hlo_source_file_canonicalization_regex",
    "jax_enable_pgle",
    "jax_pgle_profiling_runs",
    "jax_numpy_dtype_promotion",
    "jax_error_checking_behavior_nan",
    "jax_error_checking_behavior_divide",
    "jax_error_checking_behavior_oob",
    "jax_enable_x64",
    "jax_default_device",
    "jax_disable_jit",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
    "jax_dynamic_shapes",
    "jax_allow_f16_reductions",
    "eager_constant_folding",
    "jax_no_execution",
    "jax_mutable_array_checks",
    "jax_xla_profile_version",
    "jax_use_shardy_partitioner",
    "jax_high_dynamic_range_gumbel",
)
#: The axis names of `vmap`, set while its programs are made.
AXES = "axis_env_state"
#: Contexts that are not options of JAX's configuration.
_OLDER_CONTEXTS = (
    "mesh_context_manager",
    "abstract_mesh_context_manager",
    "compute_on_context_manager",
    "xla_metadata_context_manager",
    AXES,
)
_SHOWN_AS = {"mesh_context_manager": "mesh", "abstract_mesh_context_manager": "mesh"}

#: Setting a mesh by the older context manager makes other programs than by the newer one.
_SUFFIXES = {"mesh_context_manager": " by `with mesh`"}

Context = tuple[tuple[str, str], ...]


class TraceContext:
    """Reads the trace context; returns the same object as long as JAX's tuple stays equal."""

    def __init__(self) -> None:
        self._last: tuple[Any, Context] | None = None

    def read(self) -> Context:
        """Return name and value of all that is set, ordered by name."""
        config: Any = sys.modules["jax._src.config"]
        raw = config.trace_context()
        last = self._last
        try:
            if last is not None and last[0] == raw:
                return last[1]
        except Exception:
            last = None  # a context of the user that cannot be compared
        found: dict[str, str] = {}
        for name, value in _named(config, raw):
            if _is_set(value):
                found.setdefault(_SHOWN_AS.get(name, name), _text(value) + _SUFFIXES.get(name, ""))
        context = tuple(sorted(found.items()))
        if last is not None and last[1] == context:
            context = last[1]
        self._last = (raw, context)
        return context


def _named(config: Any, raw: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    try:
        names = config.trace_context_names()
    except (AttributeError, NotImplementedError):  # JAX before 0.10; a newer JAX with an older jaxlib
        states = config.config_states
        for name in _OLDER_STATES:
            if name in states:
                yield name, states[name].value
        for name in _OLDER_CONTEXTS:
            yield name, getattr(getattr(config, name, None), "value", None)
        return
    yield from zip(names, raw, strict=False)


def _is_set(value: Any) -> bool:
    """Whether an option, a mesh or another context is set."""
    # Not `value == ()`: some classes of JAX compare only with their own class.
    if value is None or (isinstance(value, tuple) and not value):
        return False
    if not is_of_library(type(value)):
        return True
    # A mesh without axes, or an empty environment of named axes, is not set.
    return not getattr(value, "empty", False) and len(getattr(value, "axis_sizes", "?")) > 0


def _text(value: Any) -> str:
    kind = type(value)
    if kind is tuple:
        return shorten(", ".join(_text(one) for one in value))
    if is_one_of(kind, (str, bool, int, float)):
        return shorten(str(value))
    if not is_of_library(kind):
        # A value that the user put into a context.
        return plain_text(value)
    mesh = mesh_text(value)
    if mesh is not None:
        return mesh
    if hasattr(value, "platform") and hasattr(value, "id"):
        return device_name(value)
    # Contents of the environment of named axes and of XLA's metadata, whose own text is an address.
    axes, metadata = getattr(value, "axis_sizes", None), getattr(value, "val", None)
    if axes is not None:
        return plain_text(dict(axes.items()))
    return plain_text(metadata) if metadata is not None else shorten(str(value))
