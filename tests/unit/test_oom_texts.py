"""XLA's texts of out-of-memory errors: the failed allocation, and the largest buffers that they list."""

from __future__ import annotations

import time

import pytest

from jitwatch.jaxhooks.memory.oom_texts import OutOfMemoryText, read_text

GIB = 1 << 30
CPU = "RESOURCE_EXHAUSTED: Out of memory allocating 18014398509481984 bytes."
BFC = (
    "RESOURCE_EXHAUSTED: Allocator (GPU_0_bfc) ran out of memory trying to allocate 12.5GiB (rounded to 13421772800)"
    "requested by op"
)
GPU = """RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.
BufferAssignment OOM Debugging.
BufferAssignment stats:
             parameter allocation:   16.00GiB
              constant allocation:         0B
        maybe_live_out allocation:   16.00GiB
     preallocated temp allocation:    2.00GiB
  preallocated temp fragmentation:         0B (0.00%)
                 total allocation:   32.00GiB
              total fragmentation:         0B (0.00%)
Peak buffers:
\tBuffer 1:
\t\tSize: 2.00GiB
\t\tOperator: op_name="jit(step)/jit(main)/dot_general[dimension_numbers=(((1,), (0,)), ((), ()))]" source_file="/home/ada/model.py" source_line=88 deduplicated_name="fusion.3"
\t\tXLA Label: fusion
\t\tShape: bf16[32768,32768]
\t\t==========================

\tBuffer 2:
\t\tSize: 16.00GiB
\t\tEntry Parameter Subshape: f32[65536,65536]
\t\t==========================

\tBuffer 3:
\t\tSize: 512.0KiB
\t\tXLA Label: copy
\t\tShape: s32[131072]
\t\t==========================
"""  # noqa: E501
TPU = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.00G of 15.48G hbm. Exceeded hbm capacity by 4.52G.

Total hbm usage >= 20.52G:
    reserved        530.00M
    program          20.00G
    arguments         0B

Output size 0B; shares 0B with arguments.

Program hbm requirement 20.00G:
    HLO temp         20.00G (100.0% utilization: Unpadded (20.00G) Padded (20.00G), 0.0% fragmentation (0B))

  Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(step)/jit(main)/transpose(jvp(layer))/mul" source_file="/home/ada/model.py" source_line=41
     Shape: f32[8,128,1024,1024]{3,2,1,0:T(8,128)}
     Unpadded size: 4.00G
     XLA label: fusion.12 = fusion(p0, p1), kind=kLoop, calls=fused_computation.12
     Allocation type: HLO temp
     ==========================

  2. Size: 1.00G
     Shape: bf16[8,128,1024,512]{3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 1.00G
     XLA label: copy.3 = copy(p0)
     Allocation type: HLO temp
     ==========================

  Largest program allocations in vmem:

  1. Size: 16.00G
     Shape: f32[1,1]
"""  # noqa: E501


def test_text_of_cpus_has_the_size_only():
    """Without a list there are no rows."""
    assert OutOfMemoryText(1 << 54) == read_text(CPU)


def test_text_of_the_allocator_of_gpus_has_the_size_only():
    """The size may have a unit."""
    assert OutOfMemoryText(int(12.5 * GIB)) == read_text(BFC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Error allocating device buffer: Attempting to allocate 2.50G. That was not possible.", 5 * GIB // 2),
        ("Attempting to reserve 5.25G at the bottom of memory. That was not possible.", 21 * GIB // 4),
        ("Out of memory while trying to allocate 7406166528 bytes.", 7_406_166_528),
        ("Failed to allocate request for 1.00GiB (1073741824B) on device ordinal 0", None),
        ("out of memory", None),
    ],
)
def test_size_of_the_failed_allocation_is_read(text, expected):
    """The texts of several allocators are known; for other texts there is no size."""
    assert expected == read_text(f"RESOURCE_EXHAUSTED: {text}").allocation_bytes


def test_buffers_of_gpus_are_read():
    """The largest buffer is first; each has shape, operation, line, and share of the total."""
    found = read_text(GPU)

    assert 16 * GIB == found.allocation_bytes
    assert [
        {"bytes": 16 * GIB, "shape": "f32[65536,65536]", "op": "argument", "share": 0.5},
        {
            "bytes": 2 * GIB,
            "shape": "bf16[32768,32768]",
            "op": "jit(step)/jit(main)/dot_general[dimension_numbers=(((1,), (0,)), ((), ()))]",
            "call_site": "/home/ada/model.py:88",
            "share": 0.0625,
        },
        {"bytes": 512 << 10, "shape": "s32[131072]", "op": "copy", "share": 0.0},
    ] == list(found.peak_buffers)


def test_allocations_of_tpus_are_read():
    """Allocations in the main memory are read; the excess is the size of the failed allocation."""
    found = read_text(TPU)

    assert int(4.52 * GIB) == found.allocation_bytes
    assert [
        {
            "bytes": 4 * GIB,
            "shape": "f32[8,128,1024,1024]",
            "op": "jit(step)/jit(main)/transpose(jvp(layer))/mul",
            "call_site": "/home/ada/model.py:41",
            "share": 0.2,
        },
        {"bytes": GIB, "shape": "bf16[8,128,1024,512]", "op": "copy.3", "share": 0.05},
    ] == list(found.peak_buffers)


@pytest.mark.parametrize("text", [GPU, TPU])
@pytest.mark.parametrize("step", [7, 31])
def test_text_that_is_cut_gives_what_it_has(text, step):
    """A message may be cut anywhere."""
    for end in range(0, len(text), step):
        assert all(row["bytes"] > 0 for row in read_text(text[:end]).peak_buffers)


@pytest.mark.parametrize(
    "text",
    ["", "Peak buffers:", "Size: 1G", "Peak buffers:\nSize: 0B\nShape: f32[]", "Peak buffers:\nShape: f32[1]\nSize: x"],
)
def test_text_without_buffers_has_none(text):
    """A text without valid buffers has no rows."""
    assert () == read_text(text).peak_buffers


def test_rows_are_bounded_and_clean():
    """There are at most ten rows; names are one line without control characters."""
    row = '\tBuffer 1:\n\t\tSize: 1.00GiB\n\t\tOperator: op_name="a\x1b[31m' + "x" * 900 + '"\n'
    found = read_text("Peak buffers:\n" + row * 1_000).peak_buffers

    assert 10 == len(found)
    assert {200} == {len(one["op"]) for one in found}
    assert all(one["op"].isprintable() for one in found)


@pytest.mark.parametrize("part", ["Size: 1", "Operator: op_name=", '"', "[", "1" * 30, "\n", "allocate 1 ", "Used 1"])
def test_time_is_linear(part):
    """The texts have megabytes of beginnings of matches."""
    started = time.thread_time()
    read_text("Peak buffers:\nSize: 1G\nShape: " + part * (4_000_000 // len(part)))
    assert time.thread_time() - started < 2
