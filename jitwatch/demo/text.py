"""The corpus: the language reference that CPython ships for `help()`, as character ids."""

from __future__ import annotations

from collections.abc import Iterator
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt


def load_corpus() -> tuple[npt.NDArray[np.uint8], str]:
    """Read the help topics of this Python, about 460,000 characters, which differ a little between its releases.

    Returns:
        The token ids, `uint8[characters]`, and the vocabulary: the sorted distinct characters of the text, so that id
        `i` stands for `vocabulary[i]`.
    """
    text = "\n".join(topics[name] for name in sorted(topics))
    code_points, ids = np.unique(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"), return_inverse=True)
    if len(code_points) > 256:
        raise ValueError(f"the help topics of this Python use {len(code_points)} characters; an id has room for 256")
    return ids.astype(np.uint8), "".join(map(chr, code_points))


def decode(tokens: npt.NDArray[np.integer], vocabulary: str) -> str:
    """Turn token ids, `int[characters]`, back into text."""
    return "".join(vocabulary[token] for token in tokens)


def batches(
    tokens: npt.NDArray[np.integer], *, batch_size: int, length: int, seed: int
) -> Iterator[npt.NDArray[np.int32]]:
    """Yield one epoch of the text: every window of `length + 1` characters once, in an order shuffled by `seed`.

    Consecutive windows share one character, the last target of one and the first input of the next; an end too short
    for a whole window is left out. The last batch is smaller unless `batch_size` divides the number of windows, so that
    a jitted step compiles a second time for it.

    Yields:
        `int32[batch, length + 1]`: inputs are `[:, :-1]`, targets `[:, 1:]`.
    """
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::length]
    order = np.random.default_rng(seed).permutation(len(windows))
    for start in range(0, len(order), batch_size):
        yield windows[order[start : start + batch_size]].astype(np.int32)
