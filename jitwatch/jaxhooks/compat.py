"""What this JAX offers: its version, and for every hook whether its private name is where we expect it.

Checked on JAX 0.6.2, 0.7.2, 0.8.3, 0.9.0, 0.9.2, 0.10.2, 0.11.2 and 0.12.0.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jitwatch.jaxhooks.instrument import NotInstrumentableError, target_of
from jitwatch.model.taxonomy import UnwrittenReason

OLDEST = (0, 6, 2)
#: The newest version that the tests have run on. A newer one is probed like any other.
NEWEST_TESTED = (0, 12)


@dataclass(frozen=True, slots=True)
class Hook:
    """A private name of JAX that we instrument, replace or read.

    Attributes:
        name: Our name for it.
        owner: The module, or the class as `module:Class`, that JAX looks it up in.
        attribute: The name itself.
        parameters: The first parameters it must have, so that a renamed one is noticed.
        is_python: Whether it must be a Python function, whose code is replaced.
        sees: What is not seen without it, if the rest works all the same.
    """

    name: str
    owner: str
    attribute: str
    parameters: tuple[str, ...]
    is_python: bool = True
    sees: str = ""

    def resolve(self) -> Any:
        """The module or class that holds the attribute. Raises ImportError or AttributeError."""
        module_name, _, class_name = self.owner.partition(":")
        module = importlib.import_module(module_name)
        return getattr(module, class_name) if class_name else module

    def get(self) -> Any:
        """What the name stands for, of a property its function. Raises ImportError or AttributeError."""
        found = getattr(self.resolve(), self.attribute)
        if isinstance(found, functools.cached_property):
            return found.func
        return found.fget if isinstance(found, property) else found

    def missing(self) -> str | None:
        """Why it cannot be used here, or None when it can."""
        try:
            target = self.get()
        except (ImportError, AttributeError):
            return f"{self.owner}.{self.attribute} does not exist"
        found = tuple(_parameters(target))
        if found[: len(self.parameters)] != self.parameters:
            return f"{self.owner}.{self.attribute} takes {found}, expected to begin with {self.parameters}"
        if self.is_python:
            try:
                target_of(target)
            except NotInstrumentableError as error:
                return f"{self.owner}.{self.attribute}: {error}"
        return None

    def absent(self) -> str | None:
        """What is not seen since it cannot be used here, and why; None when it can."""
        reason = self.missing()
        return f"{reason}, so that {self.sees} are not seen" if reason is not None else None


_PJIT = "jax._src.pjit"
_PXLA = "jax._src.interpreters.pxla"
_ARRAY = "jax._src.array:ArrayImpl"

#: Called on every miss of a jitted function's C++ cache, and by lower, trace and eval_shape.
INFER = Hook("infer", _PJIT, "_infer_params", ("fun", "ji", "args", "kwargs"))
#: The same in 0.9.0 alone. From 0.9.1 this name has another signature.
INFER_0_9_0 = Hook("infer", _PJIT, "_trace_for_jit", ("fun", "ji", "args", "kwargs"))
#: Turns a jaxpr into StableHLO; called only when that was not done before.
LOWER = Hook("lower", _PXLA, "lower_sharding_computation", ("closed_jaxpr", "api_name", "fun_name"))
#: Hands StableHLO to XLA; also called, and answered at once, when the executable is there.
COMPILE = Hook(
    "compile",
    f"{_PXLA}:MeshComputation",
    "compile",
    ("self", "compiler_options"),
    sees="the programs that run out of memory while they are compiled",
)
#: Makes every jitted function, whichever name of `jit` it came by.
CREATE = Hook("create", _PJIT, "_cpp_pjit", ("fun", "jit_info"))
#: pmap's own path, until 0.9; from 0.10 pmap is a jit of shard_map.
PMAP_LOWER = Hook("pmap_lower", _PXLA, "lower_parallel_callable", ("fun", "axis_name"))
PMAP_COMPILE = Hook("pmap_compile", f"{_PXLA}:PmapComputation", "compile", ("self", "compiler_options"))
PMAP_CREATE = Hook("pmap_create", "jax._src.api", "_cpp_pmap", ("fun", "axis_name"))

#: Empties all caches; where users find it.
CLEAR_ALL = Hook("clear_all", "jax", "clear_caches", (), sees="calls of jax.clear_caches()")
#: Empties the caches of one function; JAX sets it on the class of jitted functions whenever it makes one.
CLEAR_ONE = Hook("clear_one", _PJIT, "jit_evict_fn", ("self",), sees="calls of f.clear_cache()")

#: The backends that JAX has made, and the one it uses when it is told no other.
BACKENDS = Hook("backends", "jax._src.xla_bridge", "_backends", (), is_python=False)
DEFAULT_BACKEND = Hook("default_backend", "jax._src.xla_bridge", "_default_backend", (), is_python=False)
#: Runs a program on the slow path and for AOT-compiled functions; a call from C++ does not come by.
EXECUTE = Hook(
    "execute", f"{_PXLA}:ExecuteReplicated", "__call__", ("self",), sees="the programs that run out of memory"
)
#: Raises for a dead array; every use but those in C++ comes by.
CHECK_DELETED = Hook(
    "check_deleted", _ARRAY, "_check_if_deleted", ("self",), sees="uses of donated arrays outside of jitted functions"
)
#: Waiting for an array, and for several at once.
_WAITS = "some calls that wait for donated arrays"
BLOCK = Hook("block", _ARRAY, "block_until_ready", (), is_python=False, sees=_WAITS)
IS_READY = Hook("is_ready", _ARRAY, "is_ready", (), is_python=False, sees=_WAITS)
BLOCK_ALL = Hook("block_all", "jaxlib.xla_client", "batched_block_until_ready", (), is_python=False, sees=_WAITS)
#: The implementation of a jitted call where its function is called by Python: under eager grad, vmap and jvp.
_EAGER = "donations under eager grad, vmap and jvp"
JIT_IMPLEMENTATION = Hook("jit_implementation", f"{_PJIT}:jit_p", "impl", ("args", "jaxpr"), sees=_EAGER)
#: The same until 0.7.
JIT_IMPLEMENTATION_0_7 = Hook("jit_implementation", f"{_PJIT}:pjit_p", "impl", ("args", "jaxpr"), sees=_EAGER)
#: Runs a call that missed the cache.
CALL_PYTHON = Hook(
    "call_python",
    _PJIT,
    "_pjit_call_impl_python",
    ("args", "jaxpr"),
    sees="donations of functions that were jitted before, and functions that could donate",
)
#: Decides whether C++ may answer later calls of a program by itself; None says that it may not.
FASTPATH = Hook(
    "fastpath",
    _PJIT,
    "_get_fastpath_data",
    ("executable",),
    sees="later donations, on several devices, of functions that were jitted before",
)
#: The last step of compiling ahead of time.
LOWERED_COMPILE = Hook(
    "lowered_compile",
    "jax._src.stages:Lowered",
    "compile",
    ("self", "compiler_options"),
    sees="donations of programs that were compiled ahead of time",
)
#: Turns StableHLO's donations into aliases, and warns of those that it cannot use.
MLIR_WARNINGS = Hook(
    "mlir_warnings",
    "jax._src.interpreters.mlir",
    "warnings",
    (),
    is_python=False,
    sees="donations that XLA cannot use",
)

#: Makes arrays that share the buffers of others.
_ALIASES = "some arrays that share the buffers of others"
DEVICE_PUT = Hook("device_put", "jax._src.dispatch", "_batched_device_put_impl", ("xs",), sees=_ALIASES)
ADDRESSABLE_DATA = Hook("addressable_data", _ARRAY, "addressable_data", ("self", "index"), sees=_ALIASES)
ADDRESSABLE_SHARDS = Hook("addressable_shards", _ARRAY, "addressable_shards", ("self",), sees=_ALIASES)
MAKE_ARRAY = Hook(
    "make_array",
    "jax._src.array",
    "make_array_from_single_device_arrays",
    ("shape", "sharding", "arrays"),
    sees=_ALIASES,
)

REQUIRED = (INFER, LOWER, COMPILE, CREATE)
PMAP = (PMAP_LOWER, PMAP_COMPILE, PMAP_CREATE)


def _parameters(target: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return []


def infer_hook() -> Hook:
    """The miss hook of this version."""
    return _first_there(INFER, INFER_0_9_0)


def jit_implementation_hook() -> Hook:
    """The implementation of a jitted call in this version."""
    return _first_there(JIT_IMPLEMENTATION, JIT_IMPLEMENTATION_0_7)


def _first_there(newer: Hook, older: Hook) -> Hook:
    """The newer one if it is there, or neither: a JAX that has neither is a newer one."""
    return older if newer.missing() is not None and older.missing() is None else newer


def missing_hooks() -> dict[str, str]:
    """Required hooks that cannot be used here, and why. Imports jax."""
    reason = too_old(version_of("jax"))
    if reason is not None:
        return {"version": reason}
    hooks = (infer_hook(), *REQUIRED[1:])
    return {hook.name: reason for hook in hooks if (reason := hook.missing()) is not None}


def absent_hooks() -> list[str]:
    """What is not seen here, and why: hooks that the rest can do without. Imports jax."""
    hooks = [CLEAR_ALL, CLEAR_ONE, EXECUTE, CHECK_DELETED, BLOCK, IS_READY, BLOCK_ALL, jit_implementation_hook()]
    hooks += [CALL_PYTHON, FASTPATH, LOWERED_COMPILE, MLIR_WARNINGS]
    hooks += [DEVICE_PUT, ADDRESSABLE_DATA, ADDRESSABLE_SHARDS, MAKE_ARRAY]
    return [reason for hook in hooks if (reason := hook.absent()) is not None]


def has_pmap_path() -> bool:
    """Whether pmap compiles by a path of its own here."""
    return all(hook.missing() is None for hook in PMAP)


def jitted_class() -> Any:
    """The class of what `jax.jit` returns, or None where it has another name."""
    return getattr(sys.modules.get("jaxlib._jax"), "PjitFunction", None)


def registered_fields(kind: type) -> tuple[list[str], list[str]] | None:
    """The data and the meta fields that `jax.tree_util.register_dataclass` was told for a class, if it was.

    They are in the closure of the function that JAX made for flattening it (0.6.2 to 0.10.2).
    """
    registry = getattr(sys.modules.get("jax._src.tree_util"), "_registry", None)
    flatten = getattr(registry.get(kind) if isinstance(registry, dict) else None, "to_iter", None)
    names = getattr(getattr(flatten, "__code__", None), "co_freevars", ())
    cells = getattr(flatten, "__closure__", None) or ()
    if names != ("data_fields", "meta_fields"):
        return None
    data, meta = (cell.cell_contents for cell in cells)
    return list(data), list(meta)


def array_class() -> Any:
    """The class of concrete arrays, or None where it has another name."""
    return getattr(sys.modules.get("jax._src.array"), "ArrayImpl", None)


def key_class() -> Any:
    """The class of random keys (`jax.random.key`), or None; it moved in 0.10."""
    modules = map(sys.modules.get, ("jax._src.random.prng", "jax._src.prng"))
    return next((found for one in modules if (found := getattr(one, "PRNGKeyArray", None)) is not None), None)


def is_installed() -> bool:
    """Whether jax can be imported; does not import it."""
    if "jax" in sys.modules:
        return True
    try:
        return importlib.util.find_spec("jax") is not None
    except (ImportError, ValueError):
        return False


def is_imported() -> bool:
    """Whether the job has imported jax, to the end."""
    module = sys.modules.get("jax")
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def version_of(package: str) -> str | None:
    """Installed version of a distribution, without importing it."""
    module = sys.modules.get(package)
    found = getattr(module, "__version__", None)
    if isinstance(found, str):
        return found
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def parse_version(text: str) -> tuple[int, ...]:
    """`0.10.2.dev3` as `(0, 10, 2)`; an unreadable one as `()`."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def too_old(text: str | None) -> str | None:
    """A sentence for a JAX that is older than what is supported, or None."""
    version = parse_version(text or "")
    if version and version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"jax {text} is older than {oldest}, the oldest supported; upgrade with: pip install -U jax jaxlib"
    return None


def newer_than_tested(text: str | None) -> str | None:
    """A sentence for a JAX that the tests have not run on yet, or None. Its hooks are probed like any other's."""
    version = parse_version(text or "")
    newest = ".".join(map(str, NEWEST_TESTED))
    if not version:
        return f"jax reports the version {text!r}, which cannot be read; its hooks are probed like those of {newest}"
    if version[: len(NEWEST_TESTED)] > NEWEST_TESTED:
        return f"jax {text} is newer than {newest}, the newest tested; each hook is probed and confirmed by use"
    return None


def process_place() -> tuple[int, int] | None:
    """This process's index and the number of processes, if jax.distributed was initialised.

    Reads the state that `jax.distributed.initialize` left. `jax.process_index()` would create a backend.
    """
    module = sys.modules.get("jax._src.distributed")
    state = getattr(module, "global_state", None)
    index, count = getattr(state, "process_id", None), getattr(state, "num_processes", None)
    if getattr(state, "client", None) is None or not isinstance(index, int) or not isinstance(count, int):
        return None
    return index, count


def persistent_cache_is_on() -> bool:
    """Whether JAX's persistent compilation cache has a folder and is enabled."""
    config = getattr(sys.modules.get("jax"), "config", None)
    enabled = getattr(config, "jax_enable_compilation_cache", True)
    return bool(getattr(config, "jax_compilation_cache_dir", None)) and bool(enabled)


def unwritten_reason(compile_s: float, *, has_host_callbacks: bool = False) -> UnwrittenReason:
    """Why JAX did not write a program to its persistent cache, by the rules of `compiler._cache_write`.

    Args:
        compile_s: Seconds that the compile took.
        has_host_callbacks: Whether it is known that the program calls back into Python.
    """
    config = getattr(sys.modules.get("jax"), "config", None)
    place = process_place()
    if place is not None and place[0] != 0:
        return "other_process"
    if has_host_callbacks and _refuses_host_callbacks():
        return "host_callback"
    minimum_s = getattr(config, "jax_persistent_cache_min_compile_time_secs", None)
    minimum_bytes = getattr(config, "jax_persistent_cache_min_entry_size_bytes", None)
    if isinstance(minimum_s, int | float) and compile_s < minimum_s:
        return "short_compile"
    if isinstance(minimum_bytes, int) and minimum_bytes > 0:
        return "small_entry"
    return "unknown"


@functools.cache
def _refuses_host_callbacks() -> bool:
    """Whether JAX writes no program that calls back into Python; newer ones (0.12) do."""
    write = getattr(sys.modules.get("jax._src.compiler"), "_cache_write", None)
    return write is not None and "host_callbacks" in inspect.signature(write).parameters


def global_cache_entries() -> int | None:
    """Entries in the two C++ caches that all jitted functions share, or None where they are hidden."""
    module = sys.modules.get(_PJIT)
    caches = [
        getattr(module, name, None) for name in ("_cpp_pjit_cache_fun_only", "_cpp_pjit_cache_explicit_attributes")
    ]
    try:
        return sum(cache.size() for cache in caches)  # type: ignore[union-attr]
    except (AttributeError, TypeError):
        return None
