"""Keys of the persistent cache: the hash of each part, whether an entry existed, and why one was not written.

JAX hashes eight parts into one key. The texts (flags, versions, compression, the custom hook) are observed when JAX
hashes them, and the fingerprint of the module is known (`compile.modules`). Compile options and topology are hashed
again with JAX's own functions, which takes some 30 µs. Without a cache folder none of this is done.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.monitoring import CompileSink
from jitwatch.jaxhooks.compile.phases import Lookup, Module, PhaseClock, Work
from jitwatch.jaxhooks.observer import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.cache_key import CacheKey
from jitwatch.model.cleaning import clean

#: Maximum characters of an error's message or a version.
_MAX_TEXT = 300
#: Maximum number of topologies whose hash is kept, and of keys of one module.
_MAX_TOPOLOGIES, _MAX_KEYS = 64, 8
_DIGITS = 16


@dataclass(slots=True, eq=False)
class _Key:
    """The parts from which JAX makes a key.

    Attributes:
        texts: The texts that it hashed.
    """

    computation: Any
    devices: Any
    options: Any
    backend: Any
    compression: str
    texts: list[str] = field(default_factory=list)


class CacheKeyHooks:
    """Reports what JAX does with the persistent cache for each program of a user's function."""

    def __init__(self, phases: PhaseClock, sink: CompileSink) -> None:
        self._phases = phases
        self._sink = sink
        self._topologies: dict[tuple[str, tuple[int, ...]], str] = {}
        #: The key that JAX is making, by the identity of the compile.
        self._making: dict[int, _Key] = {}

    def install(self, patcher: Patcher) -> None:
        """Install the hooks, if this JAX has all functions."""
        hooks = (compat.CACHE_KEY, compat.HASH_STRING, compat.CACHE_READ, compat.CACHE_WRITE)
        found = [patcher.has(hook) for hook in hooks]  # reports all that are missing
        if not all(found):
            return
        patcher.instrument(compat.HASH_STRING.get(), Observer(self.string_begun))
        patcher.instrument(compat.CACHE_KEY.get(), Observer(self.key_begun, self.key_ended, self.key_failed))
        patcher.instrument(compat.CACHE_READ.get(), Observer(self.read_begun, self.read_ended, self.read_failed))
        patcher.instrument(compat.CACHE_WRITE.get(), Observer(self.write_begun, lambda *_: None, self.write_failed))

    # Called around JAX's functions

    def key_begun(
        self, module: Any, devices: Any, compile_options: Any, backend: Any, compression: Any = "", *_: Any, **__: Any
    ) -> Any:
        """Handle that JAX begins to make a key."""
        work = self._work()
        if work is None or not compat.persistent_cache_is_on():
            return None
        key = _Key(module, devices, compile_options, backend, str(compression))
        self._making[id(work)] = key
        return work, key

    def string_begun(self, _: Any, text: Any, *__: Any, **___: Any) -> None:
        """Handle that JAX hashes a text into a key."""
        if self._making:
            work = self._phases.work_of("compile")
            key = self._making.get(id(work)) if work is not None else None
            if key is not None and len(key.texts) < 1_000:
                key.texts.append(str(text))

    def key_ended(self, state: tuple[Work, _Key], result: str) -> None:
        """Handle that JAX has made a key."""
        work, key = state
        self._making.pop(id(work), None)
        assert work.module is not None
        keys = work.module.keys
        if len(keys) < _MAX_KEYS:
            keys[result] = key

    def key_failed(self, state: tuple[Work, _Key], _: BaseException) -> None:
        """Handle that JAX failed to make a key."""
        self._making.pop(id(state[0]), None)

    def read_begun(self, cache_key: Any, *_: Any, **__: Any) -> Any:
        """Handle that JAX looks up a program in the cache."""
        work = self._work()
        if work is None or work.module is None:
            return None
        found = work.module.keys.get(cache_key)
        return (work, cache_key, found) if found is not None else None

    def read_ended(self, state: tuple[Work, str, _Key], result: Any) -> None:
        """Handle that JAX has read the program, or that the cache does not have it."""
        self._looked_up(*state, is_hit=result[0] is not None)

    def read_failed(self, state: tuple[Work, str, _Key], error: BaseException) -> None:
        """Handle that reading failed; JAX warns and compiles the program."""
        if isinstance(error, Exception):
            self._looked_up(*state, is_hit=False, error=_message(error))

    def write_begun(self, cache_key: Any, *_: Any, **__: Any) -> Any:
        """Handle that JAX writes a program to the cache."""
        work = self._work()
        lookup = work.module.lookup if work is not None and work.module is not None else None
        return lookup if lookup is not None and lookup.key.key == cache_key else None

    def write_failed(self, lookup: Lookup, error: BaseException) -> None:
        """Handle that writing failed; JAX warns."""
        lookup.write_error = _message(error)

    def _work(self) -> Work | None:
        """The compile of a user's function in this thread."""
        work = self._phases.work_of("compile")
        return work if work is not None and work.module is not None else None

    def _looked_up(self, work: Work, name: str, key: _Key, *, is_hit: bool, error: str = "") -> None:
        module, function = work.module, work.function
        if module is None or function is None or module.lookup is not None:
            return
        is_wanted = self._sink.cache_wants(name, is_hit=is_hit)
        if is_hit and not is_wanted:
            return
        module.lookup = lookup = Lookup(
            key=self._key(name, key, module) if is_wanted else CacheKey(name, ()),
            is_hit=is_hit,
            signature=work.signature,
            error=error,
            text=partial(compat.text_of, key.computation) if not is_hit else str,
            size=module.size,
            before_s=work.before_s,
        )
        # Neither the module nor its options are kept any longer than JAX keeps them.
        module.keys = {}
        if is_wanted:
            self._sink.cache_read(function, lookup)
        else:
            lookup.text = str

    def _key(self, name: str, key: _Key, module: Module) -> CacheKey:
        flat = list(key.devices.flat)
        platform, version = str(key.backend.platform), str(key.backend.platform_version)
        jaxlib = compat.version_of("jaxlib") or ""
        flags = tuple(sorted({text for text in key.texts if text.startswith("-")}))
        parts = (
            module.fingerprint or "",
            _hash(jaxlib),
            _hash(platform, version),
            _hash(*flags),
            compat.options_hash(key.options, platform)[:_DIGITS],
            self._topology(key.devices, flat, platform)[:_DIGITS],
            _hash(key.compression),
            _hash(key.texts[-1] if key.texts else ""),
        )
        return CacheKey(
            key=name,
            parts=parts,
            jaxlib=jaxlib,
            platform=platform,
            platform_version=clean(version, _MAX_TEXT),
            xla_flags=tuple(clean(flag, _MAX_TEXT) for flag in flags),
            device_kind=clean(str(flat[0].device_kind), _MAX_TEXT),
            devices=len(flat),
            processes=len({device.process_index for device in flat}),
            folder=clean(compat.persistent_cache_folder(), _MAX_TEXT),
            has_address=module.has_address,
        )

    def _topology(self, devices: Any, flat: list[Any], platform: str) -> str:
        which = platform, tuple(device.id for device in flat)
        found = self._topologies.get(which)
        if found is None:
            if len(self._topologies) >= _MAX_TOPOLOGIES:
                self._topologies.clear()
            found = self._topologies[which] = compat.topology_hash(devices)
        return found


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()[:_DIGITS]


def _message(error: BaseException) -> str:
    """The class and the first line of an error of the file system or of JAX."""
    text = str(error).strip().partition("\n")[0]
    return clean(f"{type(error).__name__}: {text}", _MAX_TEXT)
