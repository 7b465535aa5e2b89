"""Finds the files of event logs: a log, its rotated and compressed parts, all logs of a folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from jitwatch.errors import ConfigError

#: The only names of programs that are read: neither a log nor the folder that it names is trusted.
PROGRAM_FILE = re.compile(r"[\w.\-]+\.mlir", re.ASCII)
#: `events.jsonl` and its rotated parts `events.jsonl.1`, …, each compressed or not.
_PART = re.compile(r"^(?P<log>.+\.jsonl)(?:\.(?P<number>[1-9]\d{0,5}))?(?P<gzip>\.gz)?\Z")

#: An open file of this process, such as a pipe of a shell.
_DESCRIPTOR = re.compile(r"^/dev/(?:stdin|fd/\d+)$|^/proc/self/fd/\d+$")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read.

    Attributes:
        log: The path of the log that it is a part of, the same for all parts.
        size: Bytes on disk; 0 for a pipe.
        is_pipe: Whether it is an open pipe of this process, such as `<(zcat events.gz)`.
        problem: What it is if it cannot be read as a log, as the end of a sentence; it is skipped and reported.
    """

    path: str
    log: str
    size: int
    is_pipe: bool = False
    problem: str = ""


def find(paths: Iterable[str]) -> list[Source]:
    """The files of logs with their rotated parts, each once, in order; raises ConfigError if one is missing."""
    found: dict[str, Source] = {}
    for path in paths:
        for one in _in_folder(path) if os.path.isdir(path) else _with_parts(path):
            found.setdefault(os.path.realpath(one.path), one)
    return list(found.values())


def _in_folder(folder: str) -> list[Source]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ConfigError(f"the folder {folder!r} cannot be read ({error.strerror}); check its permissions") from error
    logs = sorted({match["log"] for name in names if (match := _PART.match(name))})
    found = [one for log in logs for one in _parts(folder, log, names)]
    if not found:
        raise ConfigError(
            f"no event log (*.jsonl) in the folder {folder!r}. `jitwatch run` writes one to the working directory, "
            "install(event_log=…) to the given path"
        )
    return found


def _with_parts(path: str) -> list[Source]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(
            f"the event log {path!r} cannot be read ({error.strerror}); name a file that `jitwatch run` or "
            "install(event_log=…) wrote, or the folder it is in"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISFIFO(status.st_mode) and _DESCRIPTOR.match(path):
            return [Source(path, path, 0, is_pipe=True)]
        raise ConfigError(
            f"the event log {path!r} is {kind_of(status.st_mode)}, not a regular file; name a file that `jitwatch run` "
            "or install(event_log=…) wrote, or the folder it is in"
        )
    folder, name = os.path.split(path)
    match = _PART.match(name)
    if match is None or match["number"] or match["gzip"]:
        return [Source(path, path, status.st_size)]  # only this part
    try:
        names = os.listdir(folder or ".")
    except OSError:  # the folder may be entered, but not listed
        names = [name]
    return _parts(folder, name, names)


def _parts(folder: str, log: str, names: Iterable[str]) -> list[Source]:
    """The parts of one log, the oldest first: the one with the highest number."""
    parts = [match for name in names if (match := _PART.match(name)) and match["log"] == log]
    parts.sort(key=lambda match: (-int(match["number"] or 0), match.string))
    paths = [os.path.join(folder, match.string) for match in parts]
    return [_part(path, os.path.join(folder, log)) for path in paths if not os.path.isdir(path)]


def _part(path: str, log: str) -> Source:
    try:
        status = os.stat(path)
    except OSError as error:
        return Source(path, log, 0, problem=f"a broken link ({error.strerror})")
    # Reading a FIFO may block, and a device may be endless.
    problem = "" if stat.S_ISREG(status.st_mode) else kind_of(status.st_mode)
    return Source(path, log, status.st_size, problem=problem)


def kind_of(mode: int) -> str:
    """The type of a file that is not regular, for messages."""
    kinds = (
        (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
        (stat.S_ISDIR, "a folder"),
    )  # fmt: skip
    return next((name for test, name in kinds if test(mode)), "not a regular file")
