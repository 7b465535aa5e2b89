"""The private names of JAX that jitwatch uses, each with a check that it exists here, and queries of JAX's state.

Checked on JAX 0.6.2, 0.7.2, 0.8.3, 0.9.0, 0.9.2, 0.10.2, 0.11.2 and 0.12.0.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import sys
from dataclasses import dataclass
from typing import Any

from jitwatch.jaxhooks.instrument import NotInstrumentableError, target_of
from jitwatch.model.taxonomy import UnwrittenReason

OLDEST = (0, 6, 2)
#: The newest version that the tests have run on. Hooks of newer ones are checked like those of any other.
NEWEST_TESTED = (0, 12)


#: Before it, XLA's profiler logs an error for each session unless TensorFlow is installed (seen on 0.6.2 and 0.7.2).
_SILENT_PROFILER = (0, 8, 3)


@dataclass(frozen=True, slots=True)
class Hook:
    """A private name of JAX that jitwatch instruments, replaces or reads.

    Attributes:
        name: Our name for it.
        owner: The module, or the class as `module:Class`, in which JAX looks it up.
        attribute: The name itself.
        parameters: Its first parameters, to detect another function of that name.
        is_python: Whether it must be a Python function, whose code is replaced.
        sees: What is not seen without this hook, if the hook is optional.
    """

    name: str
    owner: str
    attribute: str
    parameters: tuple[str, ...]
    is_python: bool = True
    sees: str = ""

    def resolve(self) -> Any:
        """Return the module or class that holds the attribute. Raises ImportError or AttributeError."""
        module_name, _, class_name = self.owner.partition(":")
        module = importlib.import_module(module_name)
        return getattr(module, class_name) if class_name else module

    def get(self) -> Any:
        """Return the attribute, of a property its function. Raises ImportError or AttributeError."""
        found = getattr(self.resolve(), self.attribute)
        if isinstance(found, functools.cached_property):
            return found.func
        return found.fget if isinstance(found, property) else found

    def missing(self) -> str | None:
        """Return why the hook cannot be used here, or None if it can."""
        try:
            target = self.get()
        except (ImportError, AttributeError):
            return f"{self.owner}.{self.attribute} does not exist"
        try:
            found = tuple(inspect.signature(target).parameters)
        except (TypeError, ValueError):
            found = ()
        if found[: len(self.parameters)] != self.parameters:
            return f"{self.owner}.{self.attribute} has the parameters {found}, expected to begin with {self.parameters}"
        if self.is_python:
            try:
                target_of(target)
            except NotInstrumentableError as error:
                return f"{self.owner}.{self.attribute}: {error}"
        return None

    def absent(self) -> str | None:
        """Return what is not seen because the hook cannot be used here, and why; None if it can."""
        reason = self.missing()
        return f"{reason}, so {self.sees} are not observed" if reason is not None else None


_PJIT = "jax._src.pjit"
_PXLA = "jax._src.interpreters.pxla"
_ARRAY = "jax._src.array:ArrayImpl"

#: Traces: called on every miss of a jitted function's C++ cache, and by lower, trace and eval_shape.
INFER = Hook("infer", _PJIT, "_infer_params", ("fun", "ji", "args", "kwargs"))
#: The same in 0.9.0 only; from 0.9.1 on this name has another signature.
INFER_0_9_0 = Hook("infer", _PJIT, "_trace_for_jit", ("fun", "ji", "args", "kwargs"))
#: Lowers a jaxpr to StableHLO; called only for a program that was not lowered before.
LOWER = Hook("lower", _PXLA, "lower_sharding_computation", ("closed_jaxpr", "api_name", "fun_name"))
#: Compiles StableHLO with XLA; also called, and returns at once, if the executable exists.
_COMPILING = "the programs that run out of memory while they are compiled"
COMPILE = Hook("compile", f"{_PXLA}:MeshComputation", "compile", ("self", "compiler_options"), sees=_COMPILING)
#: Compiles a StableHLO module, or reads the executable from the persistent cache.
_FINGERPRINTS = "the fingerprints of programs"
COMPILE_MODULE = Hook(
    "compile_module",
    "jax._src.compiler",
    "compile_or_get_cached",
    ("backend", "computation", "devices"),
    sees=_FINGERPRINTS,
)
#: Returns a module as bytes without locations, for the key of the persistent cache. The second parameter was
#: `ignore_callbacks` until 0.11.
CANONICALIZE = Hook("canonicalize", "jax._src.cache_key", "_canonicalize_ir", ("m_original",), sees=_FINGERPRINTS)
#: Makes a key of the persistent cache, hashes the texts in it, reads an entry and writes one.
_MISSES = "the reasons why the persistent cache does not have a program"
_CACHE = "jax._src.compilation_cache"
CACHE_KEY = Hook(
    "cache_key", "jax._src.cache_key", "get", ("module", "devices", "compile_options", "backend"), sees=_MISSES
)
HASH_STRING = Hook("hash_string", "jax._src.cache_key", "_hash_string", ("hash_obj", "str_var"), sees=_MISSES)
CACHE_READ = Hook("cache_read", _CACHE, "get_executable_and_time", ("cache_key",), sees=_MISSES)
CACHE_WRITE = Hook("cache_write", _CACHE, "put_executable_and_time", ("cache_key",), sees=_MISSES)
#: Makes every jitted function, under every name of `jit`.
CREATE = Hook("create", _PJIT, "_cpp_pjit", ("fun", "jit_info"))
#: The separate path of pmap until 0.9; from 0.10 on pmap is a jit of shard_map.
PMAP_LOWER = Hook("pmap_lower", _PXLA, "lower_parallel_callable", ("fun", "axis_name"))
PMAP_COMPILE = Hook("pmap_compile", f"{_PXLA}:PmapComputation", "compile", ("self", "compiler_options"))
PMAP_CREATE = Hook("pmap_create", "jax._src.api", "_cpp_pmap", ("fun", "axis_name"))

#: Clears all caches; the public name.
CLEAR_ALL = Hook("clear_all", "jax", "clear_caches", (), sees="calls of jax.clear_caches()")
#: Clears the caches of one function; JAX sets it on the class of jitted functions whenever it makes one.
CLEAR_ONE = Hook("clear_one", _PJIT, "jit_evict_fn", ("self",), sees="calls of f.clear_cache()")

#: The backends that JAX has created, and the default one.
BACKENDS = Hook("backends", "jax._src.xla_bridge", "_backends", (), is_python=False)
DEFAULT_BACKEND = Hook("default_backend", "jax._src.xla_bridge", "_default_backend", (), is_python=False)
#: Runs a program on the slow path and for AOT-compiled functions; not called on the C++ fast path.
_RUNNING = "the programs that run out of memory"
EXECUTE = Hook("execute", f"{_PXLA}:ExecuteReplicated", "__call__", ("self",), sees=_RUNNING)
#: Raises for a deleted array; called at every use except those in C++.
_USES = "uses of donated arrays outside of jitted functions"
CHECK_DELETED = Hook("check_deleted", _ARRAY, "_check_if_deleted", ("self",), sees=_USES)
#: Wait for an array, and for several at once.
_WAITS = "some calls that wait for donated arrays"
BLOCK = Hook("block", _ARRAY, "block_until_ready", (), is_python=False, sees=_WAITS)
IS_READY = Hook("is_ready", _ARRAY, "is_ready", (), is_python=False, sees=_WAITS)
BLOCK_ALL = Hook("block_all", "jaxlib.xla_client", "batched_block_until_ready", (), is_python=False, sees=_WAITS)
#: The implementation of a jitted call that Python runs: under eager grad, vmap and jvp.
_EAGER = "donations under eager grad, vmap and jvp"
JIT_IMPLEMENTATION = Hook("jit_implementation", f"{_PJIT}:jit_p", "impl", ("args", "jaxpr"), sees=_EAGER)
#: The same until 0.7.
JIT_IMPLEMENTATION_0_7 = Hook("jit_implementation", f"{_PJIT}:pjit_p", "impl", ("args", "jaxpr"), sees=_EAGER)
#: Runs a call that missed the C++ cache.
_EARLIER = "donations of functions that were jitted before, and functions that could donate"
CALL_PYTHON = Hook("call_python", _PJIT, "_pjit_call_impl_python", ("args", "jaxpr"), sees=_EARLIER)
#: Decides whether the C++ fast path may serve later calls of a program; None means that it may not.
_LATER = "later donations, on several devices, of functions that were jitted before"
FASTPATH = Hook("fastpath", _PJIT, "_get_fastpath_data", ("executable",), sees=_LATER)
#: The last step of an ahead-of-time compile.
_AHEAD = "donations of programs that were compiled ahead of time"
LOWERED_COMPILE = Hook(
    "lowered_compile", "jax._src.stages:Lowered", "compile", ("self", "compiler_options"), sees=_AHEAD
)
#: Turns donations into aliases of the StableHLO module, and warns of those that it cannot use.
_MLIR = "jax._src.interpreters.mlir"
MLIR_WARNINGS = Hook("mlir_warnings", _MLIR, "warnings", (), is_python=False, sees="donations that XLA cannot use")

#: Starts the user's profiler; the session of a compile is stopped first. Only used if compiles are profiled.
_PROFILER = "jax._src.profiler"
START_SESSION = Hook("start_trace", f"{_PROFILER}:ProfileSession", "start", ("self",))
#: The same until 0.10; from 0.12 on it calls `ProfileSession.start`, which the job may call, too.
START_TRACE = Hook("start_trace", _PROFILER, "start_trace", ("log_dir",))
#: The session that `start_trace` makes, and the state of the user's.
PROFILER = Hook("profiler", _PROFILER, "_profiler", (), is_python=False)
PROFILER_STATE = Hook("profiler_state", _PROFILER, "_profile_state", (), is_python=False)

#: Names of the job's session in that state: from 0.12 on, and before.
_SESSIONS = ("session", "profile_session")

#: Make arrays that share the buffers of others.
_ALIASES = "some arrays that share the buffers of others"
DEVICE_PUT = Hook("device_put", "jax._src.dispatch", "_batched_device_put_impl", ("xs",), sees=_ALIASES)
ADDRESSABLE_DATA = Hook("addressable_data", _ARRAY, "addressable_data", ("self", "index"), sees=_ALIASES)
ADDRESSABLE_SHARDS = Hook("addressable_shards", _ARRAY, "addressable_shards", ("self",), sees=_ALIASES)
_ASSEMBLE = "make_array_from_single_device_arrays"
MAKE_ARRAY = Hook("make_array", "jax._src.array", _ASSEMBLE, ("shape", "sharding", "arrays"), sees=_ALIASES)


def infer_hook() -> Hook:
    """Return the trace hook of this version."""
    return _first_there(INFER, INFER_0_9_0)


def jit_implementation_hook() -> Hook:
    """Return the hook of a jitted call's implementation in this version."""
    return _first_there(JIT_IMPLEMENTATION, JIT_IMPLEMENTATION_0_7)


def start_profile_hook() -> Hook:
    """Return the hook of the function that starts the job's profiler in this version."""
    return _first_there(START_SESSION, START_TRACE)


def _first_there(newer: Hook, older: Hook) -> Hook:
    """Return the newer hook unless only the older one exists; a JAX that has neither is taken for a newer one."""
    return older if newer.missing() is not None and older.missing() is None else newer


def missing_hooks() -> dict[str, str]:
    """Return the required hooks that cannot be used here, and why. Imports jax."""
    reason = too_old(version_of("jax"))
    if reason is not None:
        return {"version": reason}
    hooks = (infer_hook(), LOWER, COMPILE, CREATE)
    return {hook.name: reason for hook in hooks if (reason := hook.missing()) is not None}


def absent_hooks() -> list[str]:
    """Return what is not seen here, and why: optional hooks that cannot be used. Imports jax."""
    hooks = [CLEAR_ALL, CLEAR_ONE, EXECUTE, CHECK_DELETED, BLOCK, IS_READY, BLOCK_ALL, jit_implementation_hook()]
    hooks += [CACHE_KEY, HASH_STRING, CACHE_READ, CACHE_WRITE]
    hooks += [COMPILE_MODULE, CANONICALIZE, CALL_PYTHON, FASTPATH, LOWERED_COMPILE, MLIR_WARNINGS]
    hooks += [DEVICE_PUT, ADDRESSABLE_DATA, ADDRESSABLE_SHARDS, MAKE_ARRAY]
    return [reason for hook in hooks if (reason := hook.absent()) is not None]


def has_pmap_path() -> bool:
    """Whether pmap compiles on a separate path here."""
    return all(hook.missing() is None for hook in (PMAP_LOWER, PMAP_COMPILE, PMAP_CREATE))


def registered_fields(kind: type) -> tuple[list[str], list[str]] | None:
    """Return the data and meta fields of a class that was registered by `jax.tree_util.register_dataclass`, else None.

    They are in the closure of the function that JAX made for flattening the class (0.6.2 to 0.10.2).
    """
    registry = getattr(sys.modules.get("jax._src.tree_util"), "_registry", None)
    flatten = getattr(registry.get(kind) if isinstance(registry, dict) else None, "to_iter", None)
    names = getattr(getattr(flatten, "__code__", None), "co_freevars", ())
    cells = getattr(flatten, "__closure__", None) or ()
    if names != ("data_fields", "meta_fields"):
        return None
    data, meta = (cell.cell_contents for cell in cells)
    return list(data), list(meta)


def debug_info_of(program: Any) -> Any:
    """Return JAX's names for a program (a jaxpr, closed or not): of its function and its leaves; None without any."""
    return getattr(getattr(program, "jaxpr", program), "debug_info", None)


def source_of(program: Any) -> Any:
    """Return JAX's source text for the function of a program, `name at file:line`, or None."""
    return getattr(debug_info_of(program), "func_src_info", None)


def array_class() -> Any:
    """Return the class of concrete arrays, or None if it has another name."""
    return getattr(sys.modules.get("jax._src.array"), "ArrayImpl", None)


def key_class() -> Any:
    """Return the class of random keys (`jax.random.key`), or None; it moved in 0.10."""
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


def is_imported(name: str = "jax") -> bool:
    """Whether the job has imported a module completely."""
    module = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def version_of(package: str) -> str | None:
    """Return the installed version of a distribution, without importing it."""
    module = sys.modules.get(package)
    found = getattr(module, "__version__", None)
    if isinstance(found, str):
        return found
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def parse_version(text: str) -> tuple[int, ...]:
    """Parse `0.10.2.dev3` as `(0, 10, 2)`, and an unreadable version as `()`."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def too_old(text: str | None) -> str | None:
    """Return a message if this JAX is older than the oldest supported, else None."""
    version = parse_version(text or "")
    if version and version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        upgrade = "upgrade with: pip install -U jax jaxlib"
        return f"jax {text} is older than {oldest}, the oldest supported version; {upgrade}"
    return None


def newer_than_tested(text: str | None) -> str | None:
    """Return a message if this JAX is newer than the newest tested, else None; its hooks are checked all the same."""
    version = parse_version(text or "")
    newest = ".".join(map(str, NEWEST_TESTED))
    if not version:
        return f"jax reports the version {text!r}, which cannot be read; its hooks are probed like those of {newest}"
    if version[: len(NEWEST_TESTED)] > NEWEST_TESTED:
        return f"jax {text} is newer than {newest}, the newest tested version; each hook is probed and confirmed by use"
    return None


def removing_callbacks() -> Any:
    """Return the argument with which `CANONICALIZE` removes the addresses of callbacks from a module."""
    kinds = getattr(sys.modules.get("jax._src.cache_key"), "IgnoreCallbacks", None)
    return kinds.ALL if kinds is not None else True


def xla_flags() -> list[str]:
    """Return the flags of the environment that programs depend on, sorted: those that JAX includes in cache keys."""
    excluded = getattr(sys.modules.get("jax._src.cache_key"), "xla_flags_to_exclude_from_cache_key", ())
    flags = [flag for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") for flag in os.environ.get(name, "").split()]
    return sorted(flag for flag in flags if flag.partition("=")[0] not in excluded)


def process_place() -> tuple[int, int] | None:
    """Return this process's index and the number of processes, if jax.distributed was initialized.

    Reads the state that `jax.distributed.initialize` sets; `jax.process_index()` would create a backend.
    """
    module = sys.modules.get("jax._src.distributed")
    state = getattr(module, "global_state", None)
    index, count = getattr(state, "process_id", None), getattr(state, "num_processes", None)
    if getattr(state, "client", None) is None or not isinstance(index, int) or not isinstance(count, int):
        return None
    return index, count


def persistent_cache_is_enabled() -> bool:
    """Whether JAX makes keys for its persistent compilation cache, on platforms that support it."""
    return bool(getattr(getattr(sys.modules.get("jax"), "config", None), "jax_enable_compilation_cache", True))


def persistent_cache_is_on() -> bool:
    """Whether JAX's persistent compilation cache has a folder and is enabled."""
    config = getattr(sys.modules.get("jax"), "config", None)
    has_folder = bool(getattr(config, "jax_compilation_cache_dir", None))
    return has_folder and bool(getattr(config, "jax_enable_compilation_cache", True))


def profiling_problem() -> str | None:
    """Return why no compile can be profiled here; None if one can. Imports jax."""
    reasons = (hook.missing() for hook in (start_profile_hook(), PROFILER, PROFILER_STATE))
    reason = next((one for one in reasons if one is not None), None)
    if reason is None and parse_version(version_of("jaxlib") or "") < _SILENT_PROFILER:
        reason = "the profiler of jaxlib before 0.8.3 writes to stderr"
    if reason is None:
        session = getattr(PROFILER.get(), "ProfilerSession", None)
        if not hasattr(session, "stop") or not any(hasattr(PROFILER_STATE.get(), name) for name in _SESSIONS):
            reason = "jax._src.profiler has no session that can be stopped"
    return reason


def profiler_is_free() -> bool:
    """Whether the job uses no profiler: none runs, no server waits for requests, no profile-guided optimization."""
    module = sys.modules.get(_PROFILER)
    state = getattr(module, "_profile_state", None)
    is_used = any(getattr(state, name, None) is not None for name in _SESSIONS)
    has_server = getattr(module, "_profiler_server", None) is not None
    config = getattr(sys.modules.get("jax"), "config", None)
    return not (is_used or has_server or getattr(config, "jax_enable_pgle", False))


def start_profiler() -> Any:
    """Start a session of JAX's profiler for the host, and return it; raises if another one runs in the process."""
    module = PROFILER.get()
    options = module.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 3
    options.enable_hlo_proto = False
    options.raise_error_on_start_failure = True
    if hasattr(module.ProfileOptions, "device_tracer_level"):
        options.device_tracer_level = 0
    return module.ProfilerSession(options)


def persistent_cache_folder() -> str:
    """The folder of JAX's persistent compilation cache; empty without one."""
    found = getattr(getattr(sys.modules.get("jax"), "config", None), "jax_compilation_cache_dir", None)
    return found if isinstance(found, str) else ""


def persistent_cache_minimum_s() -> float:
    """Minimum seconds of a compile whose program JAX writes to its persistent compilation cache."""
    config = getattr(sys.modules.get("jax"), "config", None)
    found = getattr(config, "jax_persistent_cache_min_compile_time_secs", None)
    return float(found) if isinstance(found, int | float) else 0.0


def has_persistent_cache() -> bool:
    """Whether JAX could open the folder of its persistent cache; it tries only once."""
    return getattr(sys.modules.get(_CACHE), "_cache", True) is not None


def text_of(module: Any) -> str:
    """Return a module as StableHLO without locations."""
    try:
        written = io.BytesIO()
        # `str()` verifies the module, which takes a third of its time.
        module.operation.print(file=written, binary=True, assume_verified=True)
        return written.getvalue().decode()
    except TypeError:
        return str(module)


def options_hash(options: Any, platform: str) -> str:
    """Hash compile options as JAX does for a key; empty if JAX's function does not exist."""
    add = getattr(sys.modules.get("jax._src.cache_key"), "_hash_serialized_compile_options", None)
    if add is None:
        return ""
    state = hashlib.sha256()
    # On GPUs JAX leaves out which devices a program runs on.
    add(state, options, platform == "gpu")
    return state.hexdigest()


def topology_hash(devices: Any) -> str:
    """Hash the topology of devices as JAX does for a key; empty if JAX's function does not exist."""
    add = getattr(sys.modules.get("jax._src.cache_key"), "_hash_accelerator_config", None)
    if add is None:
        return ""
    state = hashlib.sha256()
    add(state, devices)
    return state.hexdigest()


def unwritten_reason(compile_s: float, *, has_host_callbacks: bool = False, write_error: str = "") -> UnwrittenReason:
    """Return why JAX did not write a program to its persistent cache, by the rules of `compiler._cache_write`."""
    config = getattr(sys.modules.get("jax"), "config", None)
    if write_error:
        return "write_failed"
    if not has_persistent_cache():
        return "no_folder"
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
    """Whether JAX writes no program that calls back into Python; 0.12 does."""
    write = getattr(sys.modules.get("jax._src.compiler"), "_cache_write", None)
    return write is not None and "host_callbacks" in inspect.signature(write).parameters


def global_cache_entries() -> int | None:
    """Return the number of entries in the two C++ caches that all jitted functions share, or None if not readable."""
    module: Any = sys.modules.get(_PJIT)
    try:
        caches = (module._cpp_pjit_cache_fun_only, module._cpp_pjit_cache_explicit_attributes)
        return sum(int(cache.size()) for cache in caches)
    except (AttributeError, TypeError):
        return None
