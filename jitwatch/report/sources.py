"""Which files an event log is made of: itself, what was rotated away from it, a whole folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jitwatch.errors import ConfigError

#: `events.jsonl`, its rotated parts `events.jsonl.1`, …, each as it is or compressed.
_PART = re.compile(r"^(?P<log>.+\.jsonl)(?:\.(?P<number>[1-9]\d{0,5}))?(?P<gzip>\.gz)?$")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read.

    Attributes:
        log: The path of the log that it is a part of, the same for all parts.
        size: Bytes on disk; 0 for a pipe.
    """

    path: str
    log: str
    size: int


def find(paths: Iterable[str]) -> list[Source]:
    """Name the files of some logs, each once, in the order in which they were written.

    Args:
        paths: Files and folders. A file brings its rotated parts, a folder all logs that are in it.

    Raises:
        ConfigError: There is no such file, or no log in a folder.
    """
    found: dict[str, Source] = {}
    for path in paths:
        for one in _in_folder(path) if os.path.isdir(path) else _with_parts(path):
            found.setdefault(os.path.realpath(one.path), one)
    return list(found.values())


def _in_folder(folder: str) -> list[Source]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ConfigError(f"the folder {folder!r} cannot be read ({error.strerror})") from error
    logs = sorted({match["log"] for name in names if (match := _PART.match(name))})
    if not logs:
        raise ConfigError(
            f"no event log is in the folder {folder!r}: there is no *.jsonl file. `jitwatch run` writes one into the "
            "working directory, and install(event_log=…) to where it was told"
        )
    return [one for log in logs for one in _parts(folder, log, names)]


def _with_parts(path: str) -> list[Source]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(
            f"the event log {path!r} cannot be read ({error.strerror}); name a file that `jitwatch run` or "
            "install(event_log=…) wrote, or the folder it is in"
        ) from error
    folder, name = os.path.split(path)
    match = _PART.match(name)
    if match is None or match["number"] or match["gzip"]:
        return [Source(path, path, status.st_size)]  # this part, or this pipe, and no other
    try:
        names = os.listdir(folder or ".")
    except OSError:  # a folder that may be entered, but not listed
        names = [name]
    return _parts(folder, name, names)


def _parts(folder: str, log: str, names: Iterable[str]) -> list[Source]:
    """The parts of one log, the oldest first: the one with the highest number."""
    parts = [match for name in names if (match := _PART.match(name)) and match["log"] == log]
    parts.sort(key=lambda match: (-int(match["number"] or 0), match.string))
    paths = [os.path.join(folder, match.string) for match in parts]
    return [Source(path, os.path.join(folder, log), os.path.getsize(path)) for path in paths if not os.path.isdir(path)]
