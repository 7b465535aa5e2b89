"""The parts of keys of the persistent cache, and the entries of the index: plain data without JAX."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from typing import Any, Final

from jitwatch.model.cleaning import clean

#: The parts of a key in JAX's order.
PARTS: Final = (
    "computation", "jaxlib", "backend", "xla_flags", "compile_options", "topology", "compression", "custom_hook",
)  # fmt: skip
#: Bounds of a row that is read: characters of a text, flags, bytes of an outline.
_MAX_TEXT, _MAX_FLAGS, _MAX_OUTLINE = 2_000, 200, 1 << 20
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class CacheKey:
    """A key of the persistent cache.

    Attributes:
        key: JAX's key.
        parts: A hash of each part in the order of `PARTS`; empty where it is not known.
        jaxlib: Version of jaxlib.
        platform, platform_version: Name and version of the backend.
        xla_flags: The flags that are in the key, sorted.
        device_kind: Kind of the program's devices.
        devices, processes: Number of the program's devices, and of their processes.
        folder: Folder of the cache.
        has_address: Whether the program contains the address of a callback, which differs in every process.
    """

    key: str
    parts: tuple[str, ...]
    jaxlib: str = ""
    platform: str = ""
    platform_version: str = ""
    xla_flags: tuple[str, ...] = ()
    device_kind: str = ""
    devices: int = 1
    processes: int = 1
    folder: str = ""
    has_address: bool = False

    def differing(self, other: CacheKey) -> tuple[str, ...]:
        """Names of the parts that differ, as far as both are known."""
        pairs = zip(PARTS, self.parts, other.parts, strict=False)
        return tuple(name for name, one, two in pairs if one and two and one != two)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the index: one program.

    Attributes:
        key: Its key.
        function: Label of the function.
        file: Name of the file that defines it, without its folder.
        signature: A hash of the types of its arguments, equal in every process.
        time: Unix time of the compile.
        run: Name of the run.
        host: Name of the machine; empty in entries of earlier versions.
        unwritten: Why it was not written to the cache; empty if it was.
        detail: The error with which writing failed.
        compile_s: Seconds of its compile in XLA.
        minimum_s: Seconds that a compile had to take to be written.
        outline: The outline of the program as compressed JSON; empty if none was made.
    """

    key: CacheKey
    function: str
    file: str
    signature: str
    time: float
    run: str = ""
    unwritten: str = ""
    detail: str = ""
    compile_s: float = 0.0
    minimum_s: float = 0.0
    outline: str = ""
    host: str = ""

    @property
    def size(self) -> int:
        """Estimated bytes of its row."""
        key = self.key
        texts = (key.key, key.platform_version, key.folder, self.function, self.detail, self.outline, *key.xla_flags)
        return 500 + sum(map(len, texts))

    def line(self) -> bytes:
        """The entry as a line of JSON, newline included."""
        key = self.key
        row = {
            "v": _VERSION, "key": key.key, "parts": key.parts, "jaxlib": key.jaxlib, "platform": key.platform,
            "version": key.platform_version, "flags": key.xla_flags, "kind": key.device_kind, "devices": key.devices,
            "processes": key.processes, "folder": key.folder, "address": key.has_address, "function": self.function,
            "file": self.file, "signature": self.signature, "time": round(self.time, 3), "run": self.run,
            "unwritten": self.unwritten, "detail": self.detail, "compile_s": self.compile_s,
            "minimum_s": self.minimum_s, "outline": self.outline, "host": self.host,
        }  # fmt: skip
        return json.dumps(row, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Entry:
        """The entry of a line; raises ValueError, TypeError, KeyError or RecursionError if it is invalid."""
        row = json.loads(line)
        if row["v"] != _VERSION or len(row["parts"]) != len(PARTS):
            raise ValueError("another version")
        key = CacheKey(
            key=_text(row["key"]),
            parts=tuple(map(_text, row["parts"])),
            jaxlib=_text(row["jaxlib"]),
            platform=_text(row["platform"]),
            platform_version=_text(row["version"]),
            xla_flags=tuple(map(_text, row["flags"][:_MAX_FLAGS])),
            device_kind=_text(row["kind"]),
            devices=int(row["devices"]),
            processes=int(row["processes"]),
            folder=_text(row["folder"]),
            has_address=row["address"] is True,
        )
        return cls(
            key=key,
            function=_text(row["function"]),
            file=_text(row["file"]),
            signature=_text(row["signature"]),
            time=float(row["time"]),
            run=_text(row["run"]),
            unwritten=_text(row["unwritten"]),
            detail=_text(row["detail"]),
            compile_s=float(row["compile_s"]),
            minimum_s=float(row["minimum_s"]),
            outline=_text(row["outline"], _MAX_OUTLINE),
            host=_text(row.get("host", "")),
        )


def packed(outline: dict[str, Any]) -> str:
    """The row of an outline as a short text."""
    return base64.b85encode(zlib.compress(json.dumps(outline, separators=(",", ":")).encode())).decode()


def unpacked(text: str) -> Any:
    """The row of an outline; raises ValueError if the text is invalid."""
    try:
        unzip = zlib.decompressobj()
        content = unzip.decompress(base64.b85decode(text), _MAX_OUTLINE)
        return json.loads(content)
    except (zlib.error, binascii.Error, RecursionError) as error:
        raise ValueError(str(error)) from None


def _text(value: Any, limit: int = _MAX_TEXT) -> str:
    if type(value) is not str:
        raise TypeError("not a text")
    if len(value) > limit:
        raise ValueError("too long")
    return clean(value, limit)
