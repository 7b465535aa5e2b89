"""Computes the sizes that an axis should be padded to, from the sizes that it had."""

from __future__ import annotations

from collections.abc import Sequence

_MAX_BUCKETS = 4
#: Past this overhead another bucket is added.
_MAX_OVERHEAD = 0.25
#: Maximum number of sizes to choose from; of more, every n-th is used.
_MAX_CANDIDATES = 32


def best_buckets(sizes: Sequence[int]) -> tuple[list[int], float]:
    """The fewest bucket sizes, at most four, with at most a quarter more work.

    Assumes that every size is equally frequent, and that work is proportional to the size.

    Args:
        sizes: Distinct sizes, ascending, two or more.

    Returns:
        The sizes to pad to, ascending, of which the last is the largest size; and the additional work as a share of the
        work without padding.
    """
    candidates = _thinned(sizes)
    most = max(1, min(_MAX_BUCKETS, len(candidates) - 1))
    for count in range(1, most + 1):
        buckets = _split(candidates, count)
        overhead = _overhead(sizes, buckets)
        if overhead <= _MAX_OVERHEAD:
            break
    return buckets, overhead


def _split(sizes: Sequence[int], count: int) -> list[int]:
    """The `count` bucket sizes with the least total work, by dynamic programming over the last size of each bucket."""
    n = len(sizes)
    # least[j]: work for the first j sizes with the buckets so far; cuts[k][j]: where the last of k + 1 buckets begins.
    least = [0.0] + [float(sizes[j - 1] * j) for j in range(1, n + 1)]
    cuts: list[list[int]] = [[0] * (n + 1)]
    for _ in range(count - 1):
        previous, least, cut = least, [0.0] * (n + 1), [0] * (n + 1)
        for j in range(1, n + 1):
            least[j], cut[j] = min((previous[i] + sizes[j - 1] * (j - i), i) for i in range(j))
        cuts.append(cut)
    buckets, end = [], n
    for cut in reversed(cuts):
        if end == 0:
            break
        buckets.append(sizes[end - 1])
        end = cut[end]
    return buckets[::-1]


def _overhead(sizes: Sequence[int], buckets: Sequence[int]) -> float:
    padded = sum(next(bucket for bucket in buckets if bucket >= size) for size in sizes)
    return padded / sum(sizes) - 1.0 if sum(sizes) else 0.0


def _thinned(sizes: Sequence[int]) -> list[int]:
    if len(sizes) <= _MAX_CANDIDATES:
        return list(sizes)
    stride = -(-len(sizes) // _MAX_CANDIDATES)
    return list(sizes[::-1][::stride])[::-1]
