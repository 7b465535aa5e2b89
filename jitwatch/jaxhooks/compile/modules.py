"""Fingerprints of programs: the hash of each module of a user's function, before XLA compiles it.

The module is hashed without locations, as MLIR bytecode, so that the hash is equal in every process that compiles the
same program with the same version of JAX. JAX serializes the module for the key of the persistent cache, even if the
cache has no folder (0.6.2 to 0.12), and these bytes are used. If the cache is disabled
(`jax_enable_compilation_cache`), or JAX's bytes contain addresses, the module is serialized here, which takes less than
1 % of the time of trace, lowering and compile (`benchmarks/fingerprints.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.monitoring import CompileSink
from jitwatch.jaxhooks.compile.phases import Module, PhaseClock, Work
from jitwatch.jaxhooks.observer import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.events import CompilerSeen
from jitwatch.model.function import Function

#: Hex digits of a fingerprint: 48 bits, which a metric's value holds exactly.
DIGITS = 12
#: A larger module, or one with more bytes of constants, has no fingerprint: hashing takes a second for a gigabyte.
_MAX_BYTES = 64 << 20
#: JAX's mark of a callback whose address is part of the module, unless it is removed.
_ADDRESS = b"CustomSPMDPartitioning"


OnProgram = Callable[[Function, Module], object]


class ModuleHooks:
    """Sets `Work.module` of each compile of a user's function, before XLA compiles it."""

    def __init__(self, phases: PhaseClock, sink: CompileSink) -> None:
        self._phases = phases
        self._sink = sink
        self._has_compiler = self._has_cache = False
        #: Called with each function and its module, as soon as the fingerprint is known.
        self.on_program: OnProgram = lambda function, module: None
        #: Whether JAX makes no keys although the cache is enabled, because the backend does not support it.
        self._has_no_keys = False
        #: JAX's function without the hook, and the argument with which it removes addresses of callbacks.
        self._canonicalize: Callable[[Any, Any], bytes] = lambda *_: b""
        self._removing: Any = None

    def install(self, patcher: Patcher) -> None:
        """Install the hooks, if this JAX has both functions."""
        found = {hook.name for hook in (compat.COMPILE_MODULE, compat.CANONICALIZE) if patcher.has(hook)}
        if len(found) < 2:
            return
        self._removing = compat.removing_callbacks()
        canonicalize = Observer(self.canonicalize_begun, self.canonicalize_ended)
        self._canonicalize = patcher.instrument(compat.CANONICALIZE.get(), canonicalize)
        patcher.instrument(compat.COMPILE_MODULE.get(), Observer(self.begun, self.ended))

    # Called around JAX's functions

    def begun(
        self,
        backend: Any,
        computation: Any,
        devices: Any,
        _: Any = None,
        host_callbacks: Any = (),
        *__: Any,
        **___: Any,
    ) -> Any:
        """Handle that JAX compiles a module, or reads the executable from the persistent cache."""
        if not self._has_cache and compat.persistent_cache_is_on():
            self._has_cache = True
            self._sink.cache_used()
        work = self._phases.work_of("compile")
        if work is None or work.function is None or work.function.is_internal:
            return None
        if not self._has_compiler:
            self._has_compiler = True
            self._sink.compiler_seen(_compiler(backend, devices))
        work.module = Module(_is_on_all_processes(devices), has_callbacks=bool(host_callbacks))
        has_addresses = bool(host_callbacks) and self._removing is not True
        if has_addresses or self._has_no_keys or not compat.persistent_cache_is_enabled():
            self._complete(work, computation)
        return work, computation

    def ended(self, state: tuple[Work, Any], _: Any) -> None:
        """Handle that there is an executable."""
        work, computation = state
        if work.module is not None and not work.module.has_key:
            self._has_no_keys = True
        self._complete(work, computation)

    def canonicalize_begun(self, _: Any, removing: Any = None, *__: Any, **___: Any) -> Any:
        """Handle that JAX serializes a module for the key of the persistent cache."""
        work = self._phases.work_of("compile")
        return (work, removing) if work is not None and work.module is not None else None

    def canonicalize_ended(self, state: tuple[Work, Any], content: bytes) -> None:
        """Handle that JAX has serialized it."""
        work, removing = state
        module = work.module
        if module is None:
            return
        module.has_key, module.size = True, len(content)
        module.has_address = removing != self._removing and (module.has_callbacks or _ADDRESS in content)
        if not module.has_address:
            self._identified(work, module, content)

    def _complete(self, work: Work, computation: Any) -> None:
        """Set the fingerprint if JAX has not serialized the module, or if its bytes contain addresses."""
        module = work.module
        if module is not None and module.fingerprint is None:
            is_large = work.constant_bytes > _MAX_BYTES
            self._identified(work, module, b"" if is_large else self._canonicalize(computation, self._removing))

    def _identified(self, work: Work, module: Module, content: bytes) -> None:
        """Set the fingerprint from the bytes of a module, unless it is known; empty for no or too many bytes."""
        if module.fingerprint is not None or work.function is None:
            return
        is_hashed = 0 < len(content) <= _MAX_BYTES
        module.fingerprint = hashlib.sha256(content).hexdigest()[:DIGITS] if is_hashed else ""
        self.on_program(work.function, module)


def _compiler(backend: Any, devices: Any) -> CompilerSeen:
    index, processes = compat.process_place() or (0, 1)
    return CompilerSeen(
        jaxlib=compat.version_of("jaxlib") or "",
        platform=str(backend.platform),
        platform_version=str(backend.platform_version),
        device_kind=str(devices.flat[0].device_kind),
        devices=backend.device_count(),
        xla_flags=tuple(compat.xla_flags()),
        process_index=index,
        processes=processes,
    )


def _is_on_all_processes(devices: Any) -> bool:
    """Whether an array of devices has devices of every process; False in a job of one process."""
    place = compat.process_place()
    return place is not None and place[1] > 1 and len({one.process_index for one in devices.flat}) == place[1]
