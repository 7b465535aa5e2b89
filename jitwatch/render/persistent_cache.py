"""Sentences about the persistent compilation cache: hits, misses and their reasons, programs not written to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from jitwatch.diagnosis.cache_misses import BY_PART, Miss
from jitwatch.model.cache_key import CacheKey, Entry
from jitwatch.render import formats, programs

#: The option to set, by reason; follows a sentence.
_ADVICE: Final[dict[str, str]] = {
    "short_compile": (
        'To write such programs as well, call jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0) '
        "before the first compile"
    ),
    "small_entry": (
        'To write such programs as well, call jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1) '
        "before the first compile"
    ),
    "write_failed": (
        'JAX raises the error instead of a warning after jax.config.update("jax_raise_persistent_cache_errors", True)'
    ),
    "no_folder": (
        "Name a folder that every process can create, read and write, with jax.config.update"
        '("jax_compilation_cache_dir", …) before the first compile'
    ),
    "unknown": 'JAX logs the reason after jax.config.update("jax_explain_cache_misses", True)',
}
#: Explanation and advice by reason; follows '12 programs were not written to it: '.
_WHY: Final[dict[str, str]] = {
    "host_callback": (
        "they call back into Python (jax.debug.print, jax.pure_callback, jax.experimental.io_callback), and this "
        "version of JAX does not write such programs. Every process compiles them again"
    ),
    "short_compile": (
        "each compiled in less than jax_persistent_cache_min_compile_time_secs. To write them as well, call "
        'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0) before the first compile'
    ),
    "small_entry": (
        "each is smaller than jax_persistent_cache_min_entry_size_bytes. To write them as well, call "
        'jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1) before the first compile'
    ),
    "other_process": "only process 0 writes to it",
    "write_failed": f"writing failed. {_ADVICE['write_failed']}",
    "no_folder": f"its folder cannot be used. {_ADVICE['no_folder']}",
    "unknown": _ADVICE["unknown"],
}
#: The same of one program; follows 'it was not written: '.
_NOT_WRITTEN: Final[dict[str, str]] = {
    "host_callback": "it calls back into Python, and this version of JAX does not write such programs",
    "small_entry": "it is smaller than jax_persistent_cache_min_entry_size_bytes",
    "other_process": "only process 0 writes to the cache",
    "write_failed": "writing failed",
    "no_folder": "the folder of the cache cannot be used",
    "unknown": "the reason is not known",
}
#: Parts of a key that are left out if one of these differs too, since their change follows from it.
_FOLLOW: Final[dict[str, frozenset[str]]] = {
    "compile_options": frozenset({"xla_flags", "topology"}),
    "topology": frozenset({"backend"}),
    "computation": frozenset({"jaxlib"}),
}
#: Reasons in words, in the order of the figures; the others are those of programs that were not written.
_REASONS: Final[dict[str, str]] = {
    "first_time": "first time",
    "program": "the program changed",
    "xla_flags": "XLA flags changed",
    "version": "a version changed",
    "topology": "the devices changed",
    "compile_options": "compile options changed",
    "other": "another part of the key changed",
    "evicted": "evicted or deleted",
    "read_failed": "reading failed",
}
_MAX_FLAGS, _MAX_MISSED = 5, 5


def sentences(row: dict[str, Any]) -> list[str]:
    """Hits and misses in a sentence, then one for each reason why programs were not written, then the last misses.

    Args:
        row: As `PersistentCache.row` returns it. Without hits and misses there are no sentences.
    """
    if not row["hits"] and not row["misses"]:
        return []
    answers = f"{formats.count(row['hits'], 'hit')}, {_misses(row['misses'])}"
    reasons = row.get("reasons", {})
    known = [f"{words}: {reasons[reason]:,}" for reason, words in _REASONS.items() if reason in reasons]
    # A first compile needs no explanation, and programs that were not written have sentences of their own.
    missed = [one for one in row.get("missed", ()) if one["reason"] in _REASONS and one["reason"] != "first_time"]
    return [
        f"Persistent compilation cache: {answers}{f' ({text})' if (text := ', '.join(known)) else ''}.",
        *map(_of_reason, row["unwritten"].items()),
        *map(of_missed, missed[:_MAX_MISSED]),
    ]


def of_missed(one: dict[str, Any]) -> str:
    """Why a function was not in the cache, of a row of `missed`."""
    times = "" if one["times"] == 1 else f", {one['times']:,} times"
    return f"{one['function']} was not in the persistent cache{times}: {_lower(one['explanation'])}"


def explanation(
    miss: Miss | None, *, unwritten: str = "", compile_s: float = 0.0, minimum_s: float = 0.0, error: str = ""
) -> str:
    """Why the cache did not have a program, why the program was not written to it, and what to set.

    Args:
        miss: Why the cache did not have the program, if that is known.
        unwritten: Why the program was not written to it; empty if it was.
        compile_s: Seconds of the compile in XLA.
        minimum_s: Seconds that a compile must take to be written.
        error: The error with which writing failed.
    """
    parts: list[str] = []
    # JAX never writes such a program: that its key contains an address is then irrelevant.
    is_callback = unwritten == "host_callback" and miss is not None and _is_address(miss)
    is_same = unwritten == "no_folder" or (bool(unwritten) and miss is not None and miss.reason == unwritten)
    if miss is not None and not is_same and not is_callback:
        parts.append(_of_miss(miss))
    if unwritten:
        verb = "It was not written to the cache" if not parts else "It was not written to the cache either"
        if parts and miss is not None and miss.before is None:
            verb = "It was not written to the cache"
        parts.append(f"{verb}: {_not_written(unwritten, compile_s, minimum_s, error)}")
    reason = unwritten or (miss.reason if miss is not None else "")
    if (advice := _advice(reason, miss)) is not None:
        parts.append(advice)
    return formats.sentences(*parts)


def _of_miss(miss: Miss) -> str:
    now, before = miss.now, miss.before
    if miss.reason == "read_failed":
        return f"Reading it failed ({miss.error})"
    if before is None:
        return "The function was compiled for the first time with this cache"
    if miss.reason == "first_time":
        how = programs.summary(miss.difference) if miss.difference is not None else ""
        text = "It was compiled for these arguments for the first time"
        return f"{text}: {_lower(how).removesuffix('.')}" if how else f"{text}, and for different ones before"
    if miss.reason == "evicted":
        return _of_evicted(now, before)
    if before.key.key == now.key.key:
        what = _not_written(miss.reason, before.compile_s, before.minimum_s, before.detail, was=True)
        return f"It was compiled before, but not written to the cache: {what}"
    if _is_address(miss):
        return (
            "The program contains the address of a callback (jax.experimental.custom_partitioning), which differs in "
            "every process, and so does its key"
        )
    # In the order in which they are given as the reason.
    shown = [part for part, _ in BY_PART if part in miss.parts and not _FOLLOW.get(part, _NONE) & {*miss.parts}]
    text = _listed([_of_part(part, miss) for part in shown] or [_OTHER])
    return f"{text[:1].upper()}{text[1:]}"


def _is_address(miss: Miss) -> bool:
    return miss.reason == "program" and miss.now.key.has_address and "computation" not in miss.parts


def _of_part(part: str, miss: Miss) -> str:
    assert miss.before is not None
    old, new = miss.before.key, miss.now.key
    if part == "jaxlib":
        return f"the version of jaxlib changed from {old.jaxlib} to {new.jaxlib}"
    if part == "backend":
        return f"the backend changed from {_backend(old)} to {_backend(new)}"
    if part == "topology":
        return _of_topology(old, new)
    if part == "xla_flags":
        return _of_flags(old.xla_flags, new.xla_flags)
    if part == "computation":
        if miss.difference is None:
            # Without the comparison: if it has not ended, the record `jit.cache_missed` follows.
            return f"the program changed{' (it could not be compared with the earlier one)' if miss.is_final else ''}"
        how = _lower(programs.summary(miss.difference)).removesuffix(".")
        return f"the program changed: {how}" if not miss.difference.is_equal else "the program changed"
    if part == "compile_options":
        if old.folder != new.folder:
            return (
                f"the compile options changed, since they include the folder of the cache: jax_compilation_cache_dir "
                f"was {old.folder} and is {new.folder} now"
            )
        return (
            "the compile options changed (compiler_options of jax.jit, or options of jax.config that JAX passes to XLA)"
        )
    if part == "compression":
        return "the compression of entries changed (the package zstandard was installed or removed)"
    return "the custom hook of the key (custom_hook in JAX's module cache_key) returned a different string"


_NONE: Final[frozenset[str]] = frozenset()
_OTHER: Final = "an unknown part of its key changed"


def _of_flags(old: Sequence[str], new: Sequence[str]) -> str:
    before, after = (dict(flag.partition("=")[::2] for flag in flags) for flags in (old, new))
    clauses = [f"{_flag(name, after[name])} was added" for name in after if name not in before]
    clauses += [f"{_flag(name, before[name])} was removed" for name in before if name not in after]
    clauses += [
        f"{name} changed from {before[name] or 'no value'} to {after[name] or 'no value'}"
        for name in after
        if name in before and before[name] != after[name]
    ]
    if not clauses:
        return "XLA flags are given in a different form"
    more = len(clauses) - _MAX_FLAGS
    shown = clauses[:_MAX_FLAGS] + ([f"there {'is' if more == 1 else 'are'} {more:,} more"] if more > 0 else [])
    return f"XLA flags changed: {_listed(shown)}"


def _flag(name: str, value: str) -> str:
    return f"{name}={value}" if value else name


def _of_topology(old: CacheKey, new: CacheKey) -> str:
    texts = [f"{formats.count(one.devices, one.device_kind + ' device')}" for one in (old, new)]
    if texts[0] == texts[1]:
        texts = [f"{text} of {_processes(one.processes)}" for text, one in zip(texts, (old, new), strict=True)]
    if texts[0] == texts[1]:
        return f"the topology of the devices changed ({texts[0]})"
    return f"the devices changed from {texts[0]} to {texts[1]}"


def _processes(number: int) -> str:
    return f"{number:,} process{'' if number == 1 else 'es'}"


def _backend(key: CacheKey) -> str:
    return f"{key.platform} {key.platform_version}".strip()


def _of_evicted(now: Entry, before: Entry) -> str:
    if before.key.folder and now.key.folder != before.key.folder:
        return (
            f"It was written to a different folder: jax_compilation_cache_dir was {before.key.folder} and is "
            f"{now.key.folder} now"
        )
    if before.host and now.host and before.host != now.host:
        return (
            f"It was written before on {before.host}, but is not in {now.key.folder} on {now.host}: it was evicted or "
            "deleted, or each machine has a folder of its own"
        )
    return f"It was written before, but is no longer in {now.key.folder}: it was evicted or deleted"


def _not_written(reason: str, compile_s: float, minimum_s: float, error: str, *, was: bool = False) -> str:
    if reason == "short_compile":
        limit = f"jax_persistent_cache_min_compile_time_secs {'was' if was else 'is'} {minimum_s:g} s"
        return f"its compile took {formats.seconds(compile_s)}, and {limit}"
    text = _NOT_WRITTEN.get(reason, _NOT_WRITTEN["unknown"])
    return f"{text} ({error})" if error else text


def _advice(reason: str, miss: Miss | None) -> str | None:
    if reason == "program" and miss is not None and _is_address(miss):
        return (
            'Call jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True) before the first compile'
        )
    if reason == "evicted" and miss is not None and miss.before is not None:
        if miss.before.key.folder == miss.now.key.folder:
            return (
                "If jax_compilation_cache_max_size is set, raise it, or keep all programs with "
                'jax.config.update("jax_compilation_cache_max_size", -1)'
            )
        return None
    if reason == "compile_options" and miss is not None and miss.before is not None:
        if miss.before.key.folder != miss.now.key.folder:
            return (
                "To leave the folder out of the key, call "
                'jax.config.update("jax_persistent_cache_enable_xla_caches", "none") before the first compile'
            )
        return None
    if reason == "read_failed":
        return "JAX does not replace an entry that it cannot read: delete its file in jax_compilation_cache_dir"
    return _ADVICE.get(reason)


def _of_reason(item: tuple[str, dict[str, Any]]) -> str:
    reason, one = item
    named = ", ".join(label if count == 1 else f"{label} {count:,} times" for label, count in one["functions"].items())
    more = one["programs"] - one["jax_programs"] - sum(one["functions"].values())
    who = [named] if named else []
    who += [f"{formats.count(more, 'more program')}"] if more else []
    who += [f"{formats.count(one['jax_programs'], 'small program')} of JAX's own"] if one["jax_programs"] else []
    is_one = one["programs"] == 1
    return (
        f"{formats.count(one['programs'], 'program')} ({'; '.join(who)}), {formats.seconds(one['seconds'])} in XLA, "
        f"{'was' if is_one else 'were'} not written to it: {_WHY[reason]}."
    )


def _misses(number: int) -> str:
    return f"{number:,} miss{'' if number == 1 else 'es'}"


def _listed(clauses: Sequence[str]) -> str:
    return ", and ".join(filter(None, [", ".join(clauses[:-1]), clauses[-1]]))


def _lower(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}" if text[1:2].islower() or text[1:2] == " " else text
