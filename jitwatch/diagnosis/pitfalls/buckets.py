"""To which sizes an axis should be padded, from the sizes that it had."""

from __future__ import annotations

from collections.abc import Sequence

_MAX_BUCKETS = 4
#: More work than this is worth another compile.
_MAX_OVERHEAD = 0.25
#: Sizes that are looked at; of more, every so many-th is enough to choose from.
_MAX_LOOKED_AT = 32


def best_buckets(sizes: Sequence[int]) -> tuple[list[int], float]:
    """The fewest sizes (four at most) that cost at most a quarter more work, and what they cost.

    Every size is taken to come equally often, and work to grow with the size.

    Args:
        sizes: Distinct sizes, ascending, two or more.

    Returns:
        The sizes to pad to, ascending, the last one the largest seen; the additional work as a share of the work
        without padding.
    """
    looked_at = _thinned(sizes)
    most = max(1, min(_MAX_BUCKETS, len(looked_at) - 1))
    for count in range(1, most + 1):
        buckets = _split(looked_at, count)
        overhead = _overhead(sizes, buckets)
        if overhead <= _MAX_OVERHEAD:
            break
    return buckets, overhead


def _split(sizes: Sequence[int], count: int) -> list[int]:
    """The `count` sizes to pad to with the least work in all: dynamic programming over the last one of each."""
    n = len(sizes)
    # least[j]: work for the first j sizes with the buckets so far; cut[k][j]: where the last of k + 1 begins.
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
    if len(sizes) <= _MAX_LOOKED_AT:
        return list(sizes)
    stride = -(-len(sizes) // _MAX_LOOKED_AT)
    return list(sizes[::-1][::stride])[::-1]
