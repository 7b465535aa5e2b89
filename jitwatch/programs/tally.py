"""Counts keys in bounded memory, such that two counts can be compared although both are cut."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

#: Characters of a key; a longer one is cut and ends with its hash.
_MAX_KEY: Final = 160
_EMPTY: Final = (0, 0)


class Tally:
    """How often each key occurs, with a digest of what belongs to it.

    Past a limit, the keys with the highest hashes are left out. Two tallies therefore leave out mostly the same keys,
    and whether a key was left out or did not occur is known from its hash.

    Args:
        limit: Number of keys that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, tuple[int, int]] = {}
        #: Hash below which keys are kept.
        self._below: int | None = None

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and (self._counts, self._below) == (other._counts, other._below)

    __hash__ = None  # type: ignore[assignment]

    def add(self, key: str, content: int = 0) -> None:
        """Count a key once.

        Args:
            key: What is counted.
            content: A hash of what is counted, whose sum is kept.
        """
        if len(key) > _MAX_KEY:
            key = f"{key[: _MAX_KEY - 17]}…{blake2b(key.encode('utf-8', 'replace'), digest_size=8).hexdigest()}"
        known = self._counts.get(key)
        if known is not None:
            self._counts[key] = (known[0] + 1, (known[1] + content) & 0xFFFFFFFF)
        elif self._below is None or _hash(key) < self._below:
            self._counts[key] = (1, content & 0xFFFFFFFF)
            if len(self._counts) > 2 * self._limit:
                self._cut(self._limit)

    def get(self, key: str) -> tuple[int, int]:
        """How often a key occurs, and its digest; zeros if it does not occur or is left out."""
        return self._counts.get(key, _EMPTY)

    def knows(self, key: str) -> bool:
        """Whether `get()` is right about a key: it was not left out."""
        return key in self._counts or self._below is None or _hash(key) < self._below

    def row(self, limit: int) -> dict[str, Any]:
        """At most `limit` keys as JSON values."""
        one = Tally(limit)
        one._counts, one._below = dict(self._counts), self._below
        if len(one._counts) > limit:
            one._cut(limit)
        return {"of": {key: list(found) for key, found in one._counts.items()}, "below": one._below}

    @classmethod
    def of_row(cls, row: Any) -> Tally:
        """The tally of a row; raises `ValueError`, `TypeError` or `KeyError` if it is invalid."""
        one = cls(max(1, len(row["of"])))
        one._counts = {str(key): (int(number), int(content)) for key, (number, content) in row["of"].items()}
        one._below = None if row["below"] is None else int(row["below"])
        return one

    def _cut(self, limit: int) -> None:
        hashes = sorted(map(_hash, self._counts))
        self._below = hashes[limit]
        self._counts = {key: found for key, found in self._counts.items() if _hash(key) < self._below}


def _hash(key: str) -> int:
    return crc32(key.encode("utf-8", "replace"))
