"""The corpus: the language reference that CPython ships for `help()`, as character ids."""

from __future__ import annotations

from collections.abc import Iterator
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt


def load_corpus(max_chars: int | None = None) -> tuple[npt.NDArray[np.uint8], str]:
    """Read the help topics of this Python, joined in sorted key order.

    The text is the same for one Python release and differs a little between releases.

    Args:
        max_chars: keep only the first so many characters; all (about 460,000) by default.

    Returns:
        The token ids, `uint8[characters]`, and the vocabulary: the sorted distinct characters of
        the text, so that id `i` stands for `vocabulary[i]`.
    """
    text = "\n".join(topics[name] for name in sorted(topics))[:max_chars]
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
    """Yield one epoch: every window of the text once, in an order shuffled by `seed`.

    Consecutive windows share one character, the last target of one and the first input of the
    next, so each character is predicted once; an end too short for a whole window is left out.

    The last batch holds what remains and is smaller unless `batch_size` divides the number of
    windows. A jitted step compiles a second time for it.

    Args:
        tokens: the text, `int[characters]`.
        batch_size: windows in a batch.
        length: characters to predict in a window.
        seed: seed of the shuffle; give each epoch its own.

    Yields:
        `int32[batch, length + 1]`: inputs are `[:, :-1]`, targets `[:, 1:]`.
    """
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::length]
    order = np.random.default_rng(seed).permutation(len(windows))
    for start in range(0, len(order), batch_size):
        yield windows[order[start : start + batch_size]].astype(np.int32)
