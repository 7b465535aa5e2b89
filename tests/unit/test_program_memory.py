"""The largest buffers of a program at its peak: programs whose buffers are known, and invalid bytes."""

from __future__ import annotations

import gc
import itertools
import sys
import time

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

import jitwatch
from jitwatch import agent, guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.memory import assignment, device_memory, hlo, programs
from jitwatch.model.events import ExecutableMeasured
from jitwatch.model.function import Function
from jitwatch.probes import MemoryProbe, ProbeContext
from jitwatch.system.protobuf import MalformedError, encoded, fields
from tests.unit.test_protobuf import field

pytestmark = pytest.mark.usefixtures("compiled_anew")

F = Function("train.f", "f", "/home/ada/train.py:1")
MIB = 1 << 20


@pytest.fixture
def watch():
    # The agent's own probe is left out: the test says when to sample.
    with jitwatch.install(port=0, probes=["compile", "cache"], sample_interval_s=3600) as installed:
        yield installed


@pytest.fixture
def probe(watch):
    running = agent._agent
    subject = MemoryProbe(ProbeContext(running.store, running.emit, running.session))
    subject.start()
    yield subject
    subject.stop()


def finished(steps):
    """The result of a reader."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


def measured(function, *args, **options) -> ExecutableMeasured:
    """The memory of a function's program."""
    executable = Executable(jax.jit(function, **options).lower(*args).compile())
    return programs.Executables().measured(F, executable, 1.0)


class Executable:
    """A program as JAX's caches have it."""

    def __init__(self, compiled: jax.stages.Compiled) -> None:
        self.xla_executable = compiled.runtime_executable()


def line() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


def shown(event: ExecutableMeasured, least: int = 1_000) -> list[tuple[int, str, str, int | None]]:
    """Size, shape, last part of the operation, and line, of the buffers that are not tiny; sorted."""
    rows = [row for row in event.peak_buffers if row["bytes"] >= least]
    assert all(row.get("call_site", __file__).startswith(__file__) for row in rows)
    return sorted(
        (row["bytes"], row["shape"], row["op"].rpartition("/")[2], int(row["call_site"].rpartition(":")[2]))
        if "call_site" in row
        else (row["bytes"], row["shape"], row["op"], 0)
        for row in rows
    )


def total(event: ExecutableMeasured) -> int:
    """Bytes without code."""
    return event.arguments + event.outputs + event.temporaries - event.aliased


# Known programs


def test_buffers_of_a_chain_of_products():
    """The buffers are the argument, the result, and the intermediate product."""
    x = jnp.ones((512, 256))
    found, at = measured(lambda x: x @ x.T @ x, x), line()

    assert [
        (512 * 256 * 4, "f32[512,256]", "argument x", 0),
        (512 * 256 * 4, "f32[512,256]", "dot_general", at),
        (512 * 512 * 4, "f32[512,512]", "dot_general", at),
    ] == shown(found)
    assert total(found) == found.peak
    assert {0.25, 0.5} == {row["share"] for row in found.peak_buffers}


def test_arguments_have_their_paths():
    """Paths are written as in signatures."""
    x = jnp.ones((64, 64))
    found = measured(lambda state, batch: state["w"] @ state["b"][0] + batch, {"w": x, "b": [x]}, x)
    names = {row["op"] for row in found.peak_buffers if row["op"].startswith("argument")}

    assert {"argument state['w']", "argument state['b'][0]", "argument batch"} == names


def test_activations_of_a_gradient_are_alive_at_its_peak():
    """An MLP keeps the outputs of its layers until the gradient has used them."""
    batch, width, layers = 512, 64, 4
    weights = [jnp.ones((width, width)) for _ in range(layers)]

    def loss(weights, x):
        for one in weights:
            x = jnp.tanh(x @ one)
        return (x**2).sum()

    found = measured(jax.grad(loss), weights, jnp.ones((batch, width)))
    activations = [row for row in found.peak_buffers if row["bytes"] == batch * width * 4]

    assert len(activations) >= layers
    assert found.peak >= (layers + 1) * batch * width * 4 + 2 * layers * width * width * 4
    first = loss.__code__.co_firstlineno
    assert {first + 2, first + 3} >= {
        int(row["call_site"].rpartition(":")[2]) for row in activations if "call_site" in row
    }


def test_donated_argument_counts_once():
    """The output uses the memory of the argument, and has its name."""
    found = measured(lambda x, y: x * y, jnp.ones(50_000), jnp.ones(50_000), donate_argnums=0)

    assert [(200_000, "f32[50000]", "argument x", 0), (200_000, "f32[50000]", "argument y", 0)] == shown(found)
    assert 200_000 == found.aliased
    assert 400_000 == total(found)
    assert abs(found.peak - total(found)) < 100


def test_stacked_results_of_a_scan_have_their_line():
    """A loop carries them; the line is that of the operation that writes them."""

    def body(carry, _):
        carry = jnp.tanh(carry)
        return carry, carry

    found, at = measured(lambda x: jax.lax.scan(body, x, None, length=8)[1], jnp.ones(5_000)), line()
    (stacked,) = [row for row in shown(found) if row[0] == 8 * 20_000]

    assert "f32[8,5000]" == stacked[1]
    assert stacked[3] in (at, body.__code__.co_firstlineno + 1)
    assert stacked[2] != "while" or stacked[3]


def test_constant_is_part_of_the_peak():
    """XLA does not count it as an argument."""
    constant = np.random.default_rng(0).random((100, 100), np.float32)
    found = measured(lambda x: x @ jnp.asarray(constant), jnp.ones((10, 100)))
    held = [row for row in shown(found) if row[0] == 40_000]

    assert [(40_000, "f32[100,100]", held[0][2], 0)] == held
    assert held[0][2].startswith(("constant", "argument"))
    assert found.peak >= 40_000 + 2 * 4_000


def test_small_buffers_are_left_out():
    """Buffers below a thousandth of the largest are left out; buffers of equal size are all listed."""
    found = measured(lambda x, y: (x * 2, y + 1), jnp.ones(MIB), jnp.float32(1))
    many = measured(lambda xs: [x + 1 for x in xs], [jnp.ones(5_000)] * 150)

    assert {4 * MIB} == {row["bytes"] for row in found.peak_buffers}
    assert [20_000] * 10 == [row["bytes"] for row in many.peak_buffers]


def test_ten_buffers_at_most_are_listed():
    """The largest ones are listed; the shares are those of the whole peak."""
    found = measured(lambda xs: [x + 1 for x in xs], [jnp.ones(1_000 + n) for n in range(30)])

    assert 10 == len(found.peak_buffers)
    assert [4 * (1_000 + n) for n in (29, 29, 28, 28, 27, 27, 26, 26, 25, 25)] == [
        row["bytes"] for row in found.peak_buffers
    ]
    assert found.peak >= 2 * sum(4 * (1_000 + n) for n in range(30))


def test_peak_is_what_xla_adds_up():
    """The peak is the sum of arguments, outputs, temporaries and constants; shared memory is counted once."""
    x = jnp.ones((128, 128))
    sort = measured(lambda x: jnp.sort(x @ x, axis=0), x)
    cond = measured(lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y + 1, x), x)
    loop = measured(jax.grad(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ x), x).sum()), x)
    for one in (sort, cond, loop):
        assert total(one) <= one.peak <= total(one) + 200


@pytest.mark.parametrize(
    ("dtype", "name"), [("bfloat16", "bf16"), ("int8", "s8"), ("bool", "pred"), ("float8_e4m3fn", "f8e4m3fn")]
)
def test_element_types_have_xlas_names(dtype, name):
    """The names are those in XLA's own text."""
    found = measured(lambda x: x[::2], jnp.zeros(40_000, dtype))
    assert f"{name}[40000]" in {row["shape"] for row in found.peak_buffers}


def test_names_of_element_types_are_those_of_jaxlib():
    """The enumeration only grows."""
    kinds = type(jax._src.lib.xla_client.PrimitiveType.F32)
    named = {name: getattr(kinds, name) for name in dir(kinds) if name.isupper()}
    for name, member in named.items():
        number = int(member.value) if hasattr(member, "value") else int(member)
        expected = {"PRIMITIVE_TYPE_INVALID": "invalid", "OPAQUE_TYPE": "opaque"}.get(name, name.lower())
        assert expected == hlo.ELEMENTS[number]


# Kinds of programs


def events(watch, kind: str = "program.measured") -> list[dict[str, object]]:
    return [record for record in watch.events() if record["event"] == kind]


def test_program_is_logged_once_with_its_buffers(watch, probe):
    """The record, the state's row of the function, and `explain()`."""
    target = jax.jit(lambda x: x @ x.T @ x)
    for _ in range(3):
        target(np.ones((512, 512), np.float32))
        probe.sample_at(0.0)
    (record,) = events(watch)
    (row,) = [row for row in watch.snapshot()["functions"] if row["executable"]]

    assert (MIB, MIB, 3 * MIB) == (record["argument_bytes"], record["output_bytes"], record["peak_bytes"])
    assert 3 == len(record["peak_buffers"])
    assert record["peak_buffers"] == row["executable"]["peak_buffers"]
    assert "buffers_unknown" not in record
    assert "needs 3 MiB at its peak: " in " ".join(str(jitwatch.explain(row["function"])).split())


def test_program_from_an_export_is_measured(watch, probe):
    """The exported function is called in a function of the job."""
    exported = jax.export.export(jax.jit(lambda x: x @ x))(jax.ShapeDtypeStruct((100, 100), np.float32))
    target = jax.jit(lambda x: exported.call(x) + 1)
    target(np.ones((100, 100), np.float32))
    probe.sample_at(0.0)
    (record,) = events(watch)

    assert {40_000} == {row["bytes"] for row in record["peak_buffers"]}


def test_program_of_pmap_and_shard_map_is_measured(watch, probe):
    """The memory is that of each device. On pmap's own path, before JAX 0.8, the program is freed after its compile."""
    x = np.ones((1, 100, 100), np.float32)
    mapped = jax.pmap(lambda x: x @ x)
    mapped(x)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    shard_map = getattr(jax, "shard_map", None)
    if shard_map is None:
        from jax.experimental.shard_map import shard_map
    spec = PartitionSpec("data")
    sharded = jax.jit(shard_map(lambda y: y @ y.transpose(0, 2, 1), mesh=mesh, in_specs=spec, out_specs=spec))
    sharded(x)
    probe.sample_at(0.0)
    found = events(watch)

    assert (1 if compat.has_pmap_path() else 2) == len(found)
    for record in found:
        assert {40_000} == {row["bytes"] for row in record["peak_buffers"] if row["bytes"] > 1_000}


def test_program_without_source_lines_is_measured(watch, probe):
    """The job may have configured JAX to omit them."""
    previous = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    target = jax.jit(lambda x: x @ x + 3)
    try:
        target(np.ones((100, 100), np.float32))
        probe.sample_at(0.0)
    finally:
        jax.config.update("jax_traceback_in_locations_limit", previous)
    (record,) = events(watch)

    assert {40_000} == {row["bytes"] for row in record["peak_buffers"]}


def test_lines_of_libraries_give_way_to_the_users():
    """A program's frames lead from the operation to the user's line."""
    x = jnp.ones((100, 100))
    subject = Executable(jax.jit(lambda x: jnp.linalg.norm(x @ x) * x).lower(x).compile())
    text = subject.xla_executable.hlo_modules()[0].as_serialized_hlo_module_proto()
    if not any(number == 17 and start < end for number, start, end in fields(text)):
        pytest.skip("this version of XLA writes one line for each operation")
    lines = {}
    for is_users in (lambda file: file == __file__, lambda file: None):
        found = programs.Executables(is_users).measured(F, subject, 1.0)
        lines[is_users(__file__)] = [row["call_site"] for row in found.peak_buffers if "call_site" in row]

    assert lines[True]
    assert all(one.startswith(__file__) for one in lines[True])
    assert lines[None]


# Programs that tell less


class Sizes:
    argument_size_in_bytes, output_size_in_bytes, temp_size_in_bytes = 10, 20, 30
    generated_code_size_in_bytes, alias_size_in_bytes = 40, 10
    serialized_buffer_assignment_proto = b""


class Program:
    """A program with this assignment and this text."""

    def __init__(self, assigned: object, text: object = b"") -> None:
        self.xla_executable = self
        self.sizes = Sizes()
        self.sizes.serialized_buffer_assignment_proto = assigned
        self.text, self.asked = text, 0

    def get_compiled_memory_stats(self):
        return self.sizes

    def cost_analysis(self):
        return {"flops": 1.0}

    def hlo_modules(self):
        self.asked += 1
        if isinstance(self.text, Exception):
            raise self.text
        return [self]

    def as_serialized_hlo_module_proto(self):
        return self.text


def read(program: Program, compile_s: float = 1.0) -> ExecutableMeasured:
    return programs.Executables().measured(F, program, compile_s)


def buffer(number: int, size: int, instruction: int = 7) -> bytes:
    return field(1, field(1, number) + field(2, size) + field(3, field(4, instruction)))


def allocation(index: int, size: int, *slots: tuple[int, int, int], **flags: int) -> bytes:
    """An allocation with slots of identifier, offset and size."""
    numbers = {"is_thread_local": 3, "is_argument": 5, "argument": 6, "is_output": 7, "color": 8, "is_constant": 12}
    fields = field(1, index) + field(2, size)
    fields += b"".join(field(numbers[name], value) for name, value in flags.items())
    return field(3, fields + b"".join(field(9, field(1, a) + field(2, b) + field(3, c)) for a, b, c in slots))


@pytest.mark.parametrize("assigned", [b"", None, "text"])
def test_backend_without_an_assignment_says_so(assigned):
    """The event has sizes and the reason; an implausible peak of XLA is ignored."""
    found = read(Program(assigned))
    assert ((), "the backend lists no buffers", None) == (found.peak_buffers, found.buffers_unknown, found.peak)
    assert 90 == found.total


@pytest.mark.parametrize(("reported", "expected"), [(0, None), (19, None), (29, None), (30, 30), (50, 50), (-1, None)])
def test_peak_of_xla_counts_if_it_is_not_too_low(reported, expected):
    """JAX 0.10 leaves out temporaries on CPUs."""
    program = Program(b"")
    program.sizes.peak_memory_in_bytes = reported
    assert expected == read(program).peak


def test_memory_of_the_host_and_of_threads_is_no_part_of_the_peak():
    """Only memory on the device is counted."""
    data = buffer(1, 100) + allocation(0, 100, (1, 0, 100), is_output=1)
    data += allocation(1, 1_000, (2, 0, 1_000), is_thread_local=1) + allocation(2, 5_000, (3, 0, 5_000), color=5)
    found = read(Program(data))

    assert (100, ["output"]) == (found.peak, [row["op"] for row in found.peak_buffers])


def test_temporaries_without_a_trace_are_not_guessed():
    """It is unknown which of them are alive at the same time."""
    slots = [(n, 64 * n, 64) for n in range(10)]
    found = read(Program(b"".join(buffer(n, 64) for n in range(10)) + allocation(0, 640, *slots)))

    assert (640, ()) == (found.peak, found.peak_buffers)
    assert "the lifetime of some temporaries is unknown" == found.buffers_unknown


def trace(*events: tuple[int, ...]) -> bytes:
    """Events of kind, buffer, and the buffer whose memory is shared."""
    return field(
        4,
        b"".join(
            field(1, b"".join(field(number, value) for number, value in zip((1, 2, 5), one, strict=False)))
            for one in events
        ),
    )


def test_trace_of_the_heap_says_what_is_alive():
    """Before JAX 0.10; memory that two buffers share is freed with the last of them."""
    slots = [(1, 0, 100), (2, 100, 60), (3, 160, 80), (4, 0, 100), (9, 100, 10)]
    heap = trace((0, 1), (0, 2), (1, 2), (2, 4, 1), (1, 1), (0, 3), (0, 9), (1, 3), (1, 4), (0, 777))
    data = b"".join(buffer(n, size) for n, _, size in slots) + allocation(3, 240, *slots)
    found = read(Program(data + heap))

    assert [100, 80, 10] == [row["bytes"] for row in found.peak_buffers]


def test_list_of_xla_says_what_is_alive():
    """From JAX 0.10 on."""
    slots = [(1, 0, 100), (2, 100, 60), (3, 0, 80)]
    data = b"".join(buffer(n, size) for n, _, size in slots) + allocation(3, 160, *slots)
    data += field(5, field(1, 3) + field(2, encoded(3) + encoded(2) + encoded(55)))
    assert [80, 60] == [row["bytes"] for row in read(Program(data)).peak_buffers]


def test_large_constants_are_not_copied():
    """The program is not serialized; the buffers have kinds instead of names."""
    data = buffer(1, 100 * MIB) + allocation(0, 100 * MIB, (1, 0, 100 * MIB), is_constant=1)
    data += buffer(2, 50 * MIB) + allocation(1, 50 * MIB, (2, 0, 50 * MIB), is_argument=1, argument=3)
    program = Program(data)
    found = read(program)

    assert ["constant", "argument 3"] == [row["op"] for row in found.peak_buffers]
    assert "the program is too large to read the names of its operations" == found.buffers_unknown
    assert 0 == program.asked


def test_program_that_would_stop_the_job_is_not_serialized():
    """Serializing holds the GIL, for at most a hundredth of the compile, within limits."""
    data = b"".join(itertools.chain.from_iterable((buffer(n, 1), allocation(n, 1, (n, 0, 1))) for n in range(16_000)))
    assert 0.03 < len(data) * programs._SERIALIZING_S < 0.5
    short, long = Program(data), Program(data)

    assert read(short, 1.0).buffers_unknown.startswith("the program is too large")
    assert "" == read(long, 100.0).buffers_unknown
    assert (0, 1) == (short.asked, long.asked)


def test_assignment_that_is_too_large_is_not_read():
    """The event has only the sizes, in one step."""
    started = time.thread_time()
    found = read(Program(bytes(5 * MIB)))

    assert ("the program is too large", ()) == (found.buffers_unknown, found.peak_buffers)
    assert time.thread_time() - started < 1


@pytest.mark.parametrize("text", [RuntimeError("freed"), None, b"", b"\x1a\x05abc", b"\xff"])
def test_text_that_cannot_be_read_leaves_kinds(text):
    """The program was freed, or the bytes are not a valid message."""
    found = read(Program(buffer(1, 100) + allocation(0, 100, (1, 0, 100), is_output=1), text))
    assert [("output", 100)] == [(row["op"], row["bytes"]) for row in found.peak_buffers]


def test_failure_of_the_reader_leaves_the_sizes(monkeypatch):
    """Any failure is counted."""
    monkeypatch.setattr(guard, "reraise", False)
    monkeypatch.setattr(assignment, "peak_of", lambda *_: 1 / 0)
    assert (90, "the buffer assignment cannot be read") == ((found := read(Program(b"x"))).total, found.buffers_unknown)


def test_instructions_are_found_by_their_identifiers():
    """Bytes that only look like an identifier are ignored; a literal of megabytes is skipped."""
    meta = field(7, field(2, b"jit(f)/add") + field(3, b"/home/ada/train.py") + field(4, 12))
    decoy = field(2, b"constant") + field(8, field(35, 7) + bytes(200_000)) + field(35, 8)
    wanted = field(2, b"add") + field(3, field(2, 11) + field(3, encoded(4) + encoded(2))) + meta + field(35, 7)
    small = field(2, b"mul") + field(8, field(35, 7)) + field(35, 9)
    data = field(1, b"jit_f") + field(3, field(2, decoy) + field(2, small) + field(2, wanted))
    found = finished(hlo.instructions_of(data, {7}, lambda _: True))

    assert {7} == set(found)
    assert ("add", "jit(f)/add", "/home/ada/train.py:12") == (
        found[7].opcode,
        found[7].op_name,
        found[7].call_site,
    )
    assert "f32[4,2]" == hlo.shape_of(data, found[7], ())


def test_other_values_at_the_same_place_do_not_name_a_buffer():
    """An instruction with the same shape may have the same value, as in a loop; one with another shape has not."""

    def instruction(number: int, opcode: bytes, op_name: bytes, *dimensions: int) -> bytes:
        shape = field(3, field(2, 11) + field(3, b"".join(map(encoded, dimensions))))
        meta = field(7, field(2, op_name) + field(3, b"/home/ada/train.py") + field(4, number)) if op_name else b""
        return field(2, field(2, opcode) + shape + meta + field(35, number))

    slots = [(1, 0, 64), (2, 0, 64), (3, 0, 64)]
    data = b"".join(buffer(n, 64, 10 * n) for n in (1, 2, 3)) + allocation(0, 64, *slots)
    data += field(5, field(1, 0) + field(2, encoded(1)))
    for dimensions, expected in (((4, 4), ("jit(f)/tanh", "/home/ada/train.py:30")), ((2, 8), ("copy", None))):
        text = instruction(10, b"copy", b"", 4, 4) + instruction(20, b"add", b"jit(f)/add", 16)
        text += instruction(30, b"tanh", b"jit(f)/tanh", *dimensions)
        (row,) = read(Program(data, field(3, text))).peak_buffers
        assert ("f32[4,4]", *expected) == (row["shape"], row["op"], row.get("call_site"))


def test_frames_that_lead_in_a_circle_end():
    """A frame is its own parent."""
    frames = field(1, b"/lib/a.py") + field(3, field(1, 1) + field(3, 5)) + field(4, field(1, 1) + field(2, 1))
    data = field(3, field(2, field(7, field(15, 1)) + field(35, 7))) + field(17, frames)

    assert "/lib/a.py:5" == finished(hlo.instructions_of(data, {7}, lambda _: None))[7].call_site
    assert finished(hlo.instructions_of(data, {7}, lambda _: False))[7].call_site is None


# Bytes of any kind


@pytest.fixture(scope="module")
def real() -> tuple[bytes, bytes]:
    """An assignment and a program of XLA."""
    executable = Executable(jax.jit(jax.grad(lambda x: jnp.tanh(x @ x).sum())).lower(jnp.ones((64, 64))).compile())
    sizes = executable.xla_executable.get_compiled_memory_stats()
    text = executable.xla_executable.hlo_modules()[0].as_serialized_hlo_module_proto()
    return sizes.serialized_buffer_assignment_proto, text


def test_bytes_that_are_cut_are_read_or_refused(real):
    """The bytes are cut at each position."""
    assigned, text = real
    for end in range(len(assigned)):
        found = read(Program(assigned[:end], text))
        assert found.total == 90
    for end in range(0, len(text), 7):
        assert read(Program(assigned, text[:end])).peak > 0


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_bytes_that_are_wrong_are_read_or_refused(real, data):
    """Some or all bytes of a real program are replaced."""
    changed = []
    for one in real:
        content = bytearray(one)
        for _ in range(data.draw(st.integers(0, 5))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        changed.append(bytes(content))
    found = read(Program(*changed))

    assert found.total == 90
    assert len(found.peak_buffers) <= 10


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(assigned, text):
    """Only the documented error is raised."""
    assert read(Program(assigned, text)).total == 90
    for steps in (assignment.peak_of(assigned, 10), hlo.instructions_of(text, {0, 7}, lambda _: True)):
        try:
            finished(steps)
        except MalformedError:
            continue


def test_time_of_hostile_bytes_is_linear():
    """The messages have many of the smallest parts."""
    started = time.thread_time()
    for part in (field(1, b""), field(3, b""), field(4, field(1, b"")), field(5, b""), allocation(0, 0, (0, 0, 0))):
        read(Program(part * (MIB // 16 // len(part))))
    for part in (
        field(3, b""),
        field(3, field(2, b"")),
        field(3, field(2, field(35, 0)) * 2),
        field(17, field(4, b"")),
    ):
        read(Program(buffer(0, 1, 0) + allocation(0, 1, (0, 0, 1)), part * (MIB // 16 // len(part))))
    assert time.thread_time() - started < 30


# The budget of a sample


def test_reading_is_continued_in_the_next_sample():
    """A budget that is used up ends a sample, but does not drop the program."""
    executables = programs.Executables()
    data = b"".join(buffer(n, 1) + allocation(n, 1, (n, 0, 1)) for n in range(2_000))
    program = Program(data)
    executables.add(F, program, 1.0)
    found, rounds = [], 0
    while not found and rounds < 10_000:
        found += executables.measure(1e-4)
        rounds += 1

    assert rounds > 3
    assert [2_000] == [one.peak for one in found]


def test_program_is_not_kept_alive_between_two_samples():
    """Its buffer assignment is read to the end; the names are missing."""
    executables = programs.Executables()
    data = b"".join(buffer(n, 1) + allocation(n, 1, (n, 0, 1)) for n in range(2_000))
    program = Program(data + buffer(9_000, MIB) + allocation(9_000, MIB, (9_000, 0, MIB), is_output=1))
    executables.add(F, program, 1.0)
    assert [] == list(executables.measure(1e-4))
    assert 1 == len(executables._unfinished)
    del program
    gc.collect()

    assert all(one.reference() is None for one in executables._waiting)
    (found,) = executables.measure(60.0)
    assert {"output"} == {row["op"] for row in found.peak_buffers}


def test_sleep_of_gevent_is_not_used(monkeypatch):
    """It would make a loop of events in a thread of the agent."""
    monkeypatch.setattr(programs.time, "sleep", lambda _: pytest.fail("not the original"))
    executables, program = programs.Executables(), large()
    executables.add(F, program, 1.0)
    assert 1 == len(list(executables.measure(60.0)))
    assert executables.measured(F, program, 1.0) is not None
    device_memory.live_arrays()


def large(count: int = 2_000) -> Program:
    """A program that takes longer to read than the budget of a sample."""
    return Program(b"".join(buffer(n, 1) + allocation(n, 1, (n, 0, 1)) for n in range(count)))


def test_many_large_programs_are_all_measured():
    """A partly read program is finished first, and none is lost if a job compiles all of its functions at its start."""
    executables, kept, found = programs.Executables(), [large() for _ in range(5)], []
    for one in kept:
        executables.add(F, one, 1.0)
    for _ in range(10_000):
        found += executables.measure(2e-3)
        assert len(executables._unfinished) <= 1

    assert 5 == len(found)
    assert {2_000} == {one.peak for one in found}


def test_newest_program_may_come_first():
    """The program that has just failed precedes a partly read one."""
    executables, first, last = programs.Executables(), large(20_000), Program(b"")
    executables.add(F, first, 1.0)
    assert [] == list(executables.measure(1e-3))
    executables.add(F, last, 1.0)
    found = next(executables.measure(60.0, newest_first=True))

    assert "the backend lists no buffers" == found.buffers_unknown
    executables.forget()
    assert [] == list(executables.measure(60.0))


@pytest.mark.parametrize("newest_first", [False, True])
def test_latest_program_of_a_function_is_measured_first(newest_first):
    """The report takes the first measurement after a compile for that of its program: the earlier one was begun."""
    executables, early, late = programs.Executables(), large(20_000), large(10)
    executables.add(F, early, 1.0)
    assert [] == list(executables.measure(1e-3))
    assert 1 == len(executables._unfinished)
    executables.add(F, late, 1.0)
    executables.add(Function("g", "g"), other := large(30), 1.0)
    found = list(executables.measure(60.0, newest_first=newest_first))

    assert [10, 20_000] == [one.peak for one in found if one.function == F]
    assert 3 == len(found)
    del other


def test_early_program_waits_until_the_late_one_is_read():
    """An out-of-memory error looks at those that wait first, which may be older than the one that was begun."""
    executables, early, late = programs.Executables(), large(10), large(20_000)
    executables.add(F, early, 1.0)
    executables.add(F, late, 1.0)
    assert [] == list(executables.measure(1e-3))
    found = list(executables.measure(60.0, newest_first=True))

    assert [20_000, 10] == [one.peak for one in found]


def test_storm_of_programs_is_not_read():
    """If a function recompiles often, only the buffers of programs that are larger than all before are read."""
    executables, many = programs.Executables(), programs._MANY

    def of(label: str, size: int) -> ExecutableMeasured:
        program = Program(buffer(1, size) + allocation(0, size, (1, 0, size), is_output=1))
        program.sizes.output_size_in_bytes = size
        return executables.measured(Function(label, label, None), program, 1.0)

    assert [True] * many + [False] * 3 == [bool(of("f", 100).peak_buffers) for _ in range(many + 3)]
    assert "the function recompiles often, and larger programs of it were read" == of("f", 99).buffers_unknown
    assert of("f", 101).peak_buffers
    assert not of("f", 101).peak_buffers
    assert of("g", 1).peak_buffers


def test_functions_that_are_known_are_bounded(monkeypatch):
    """The job has an unlimited number of functions."""
    monkeypatch.setattr(programs, "_MAX_LABELS", 10)
    executables = programs.Executables()
    for number in range(100):
        executables.measured(
            Function(f"f{number}", "f", None), Program(buffer(1, 1) + allocation(0, 1, (1, 0, 1))), 1.0
        )
    assert len(executables._reader._known) <= 10


def test_equal_texts_are_one_object():
    """The ring keeps thousands of records."""
    found = measured(lambda xs: [x + 1 for x in xs], [jnp.ones(5_000)] * 20)
    assert 1 == len({id(row["shape"]) for row in found.peak_buffers})


def test_slow_serializing_is_remembered(monkeypatch):
    """The programs of a backend are larger than their assignments suggest."""
    executables = programs.Executables()
    subject, clock = large(1_000), iter(range(1_000_000))
    monkeypatch.setattr(programs.time, "thread_time", lambda: next(clock))
    asked = [executables.measured(F, subject, 1.0).buffers_unknown for _ in range(2)]

    assert ["", "the program is too large to read the names of its operations"] == asked
    assert 1 == subject.asked


def test_programs_of_jax_are_not_measured():
    """Operations outside of jit are JAX's own: nothing is kept or read."""
    executables = programs.Executables()
    executables.on_compiled = lambda *_: pytest.fail("asked")
    executables.add(Function("__jax__", "add"), Program(b""), 1.0)
    assert [] == list(executables.measure(1.0))


def test_compile_reads_nothing_of_the_program(watch):
    """The sampler reads the program later."""
    program = Program(b"x", RuntimeError("read"))
    program.get_compiled_memory_stats = lambda: pytest.fail("read")
    agent._agent.session.executables.add(F, program, 1.0)
    agent._agent.session.executables.forget()
