"""What `Device.memory_stats()` gives on real backends, and in odd cases. Numbers in bytes."""

from __future__ import annotations

from typing import Any

from jitwatch.model.devices import Reading

#: XLA's BFC allocator on an 80 GB card with the usual 75 % preallocated; `largest_free_block_bytes` is never filled.
CUDA = {
    "num_allocs": 48_211,
    "bytes_in_use": 41_875_931_136,
    "peak_bytes_in_use": 57_311_248_384,
    "largest_alloc_size": 8_589_934_592,
    "bytes_limit": 63_739_396_096,
    "bytes_reserved": 0,
    "peak_bytes_reserved": 0,
    "largest_free_block_bytes": 0,
    "pool_bytes": 63_739_396_096,
    "peak_pool_bytes": 63_739_396_096,
}
#: The same allocator on ROCm, without what only newer plug-ins set.
ROCM = {
    "num_allocs": 1_024,
    "bytes_in_use": 12_884_901_888,
    "peak_bytes_in_use": 17_179_869_184,
    "largest_alloc_size": 4_294_967_296,
    "bytes_limit": 51_527_024_640,
    "bytes_reserved": 0,
    "peak_bytes_reserved": 0,
    "largest_free_block_bytes": 0,
}
#: A TPU core with 32 GB: the program's stack is reserved, and the free blocks are known.
TPU = {
    "bytes_in_use": 9_126_805_504,
    "bytes_limit": 33_014_415_360,
    "bytes_reservable_limit": 33_014_415_360,
    "bytes_reserved": 268_435_456,
    "largest_alloc_size": 2_147_483_648,
    "largest_free_block_bytes": 23_622_320_128,
    "num_allocs": 3_817,
    "peak_bytes_in_use": 21_474_836_480,
    "peak_bytes_reserved": 536_870_912,
}
CPU = None
#: A plug-in that knows little: what it does not set comes as -1.
UNSET = {"bytes_in_use": 1_000, "peak_bytes_in_use": -1, "bytes_limit": -1, "num_allocs": -1, "bytes_reserved": -1}


def gpu(number: int = 0, statistics: Any = CUDA, problem: str | None = None) -> Reading:
    """A reading of one card."""
    return Reading(f"gpu:{number}", "NVIDIA H100 80GB HBM3", "gpu", statistics, problem)
