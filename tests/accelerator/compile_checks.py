"""Compiles: events and causes, XLA's passes and autotuning, programs' memory, fingerprints, the persistent cache."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import Any

from tests.accelerator.checks import SMALL, Findings, NotHereError, check, mib, records, short, until

_TOP_EVENTS = 150
#: A program with what XLA tunes on an accelerator: products of matrices, a convolution, a softmax.
_STEP = """
    import jax, jax.numpy as jnp

    def train_step(weights, batch):
        hidden = jax.nn.gelu(batch @ weights["in"])
        images = hidden[:, : 16 * 16 * 8].reshape(-1, 16, 16, 8)
        images = jax.lax.conv_general_dilated(images, weights["kernel"], (1, 1), "SAME",
                                              dimension_numbers=("NHWC", "HWIO", "NHWC"))
        scores = jax.nn.softmax(hidden @ weights["in"].T, axis=-1)
        return (scores.astype(jnp.float32).sum() + images.astype(jnp.float32).sum()) * FACTOR

    def arguments(rows, dtype):
        keys = jax.random.split(jax.random.key(0), 3)
        weights = {"in": jax.random.normal(keys[0], (1024, 2048), dtype),
                   "kernel": jax.random.normal(keys[1], (3, 3, 8, 8), dtype)}
        return weights, jax.random.normal(keys[2], (rows, 1024), dtype)
"""


def _step(factor: float = 1.0) -> tuple[Any, Any]:
    """The function, and what makes its arguments."""
    names: dict[str, Any] = {"FACTOR": factor, "__name__": "accelerator_step"}
    exec(compile(textwrap.dedent(_STEP), __file__, "exec"), names)
    return names["train_step"], names["arguments"]


@check("Compile events: causes, phases, memory of the program", limit_s=100.0)
def compiles(found: Findings) -> None:
    """A compile and its recompiles by shape and dtype; sizes and buffers of the program."""
    import jax
    import jax.numpy as jnp

    import jitwatch

    function, arguments = _step()
    step = jax.jit(function)
    with jitwatch.install(port=0, sample_interval_s=0.3) as watch:
        for rows, dtype in ((256, jnp.bfloat16), (128, jnp.bfloat16), (128, jnp.float32)):
            given = jax.block_until_ready(arguments(rows, dtype))
            jax.block_until_ready(step(*given))
        step(*given)
        seen = [
            one for one in records(watch, "jit.compiled", "jit.recompiled") if short(one["function"]) == "train_step"
        ]
        found.detail("events", seen)
        causes = [one.get("causes") for one in seen]
        found.expect(causes in ([None, ["shape"], ["dtype"]], [[], ["shape"], ["dtype"]]), f"causes are {causes}")
        for one in seen:
            found.expect(one["compile_s"] > 0 and one["trace_s"] and one["lower_s"], f"phases: {one}")
        found.figure("compile_s", ", ".join(f"{one['compile_s']:.2f}" for one in seen))

        def programs() -> list[dict[str, Any]]:
            return [one for one in records(watch, "program.measured") if short(one["function"]) == "train_step"]

        until(lambda: len(programs()) == len(seen))
        measured = programs()
        _memory_of_program(found, measured, jax.jit(_step()[0]).lower(*given).compile(), given)


def _memory_of_program(found: Findings, measured: list[dict[str, Any]], compiled: Any, given: Any) -> None:
    import jax

    try:
        stats = compiled.runtime_executable().get_compiled_memory_stats()
        raw = {name: getattr(stats, name) for name in dir(stats) if name.endswith("_in_bytes")}
        proto = getattr(stats, "serialized_buffer_assignment_proto", b"")
        found.detail("get_compiled_memory_stats", raw)
        found.figure("buffer assignment", f"{len(proto):,} bytes")
    except Exception as error:
        found.figure("buffer assignment", f"{type(error).__name__}: {error}"[:150])
    if not found.expect(measured, "no record program.measured for the function"):
        return
    event = max(measured, key=lambda one: one["argument_bytes"])
    found.figure("programs measured", len(measured))
    found.detail("program.measured", measured)
    size = sum(one.nbytes for one in jax.tree.leaves(given))
    found.expect(event["argument_bytes"] >= size, f"argument_bytes is {event['argument_bytes']}, not {size}")
    found.figure("peak", mib(event.get("peak_bytes")))
    buffers = event.get("peak_buffers") or []
    found.figure("buffers", len(buffers) or event.get("buffers_unknown"))
    found.expect(buffers or event.get("buffers_unknown"), "neither buffers nor a reason why there are none")
    if buffers:
        named = sum(bool(one.get("op")) for one in buffers)
        found.figure("buffers with an operation", f"{named} of {len(buffers)}")


@check("Time inside XLA, autotuning, and a profile on demand", limit_s=120.0)
def profiles(found: Findings) -> None:
    """`profile_compiles` names XLA's passes; a profile of the job has priority, and is whole."""
    import jax
    import jax.numpy as jnp

    import jitwatch
    from jitwatch.jaxhooks import compat

    problem = compat.profiling_problem()
    if problem is not None:
        raise NotHereError(problem)
    function, arguments = _step()
    given = jax.block_until_ready(arguments(256, jnp.bfloat16))
    with (
        tempfile.TemporaryDirectory() as folder,
        jitwatch.install(port=0, sample_interval_s=3600, event_log=folder) as watch,
    ):
        with jitwatch.profile_compiles(folder=folder):
            started = time.perf_counter()
            jax.block_until_ready(jax.jit(function)(*given))
            took = time.perf_counter() - started
        profiled = until(lambda: records(watch, "jit.compile_profiled"), 30.0)
        seen = [one for one in records(watch, "jit.compiled") if short(one["function"]) == "train_step"]
        if found.expect(profiled, f"no record jit.compile_profiled; {watch._agent.session.profiler.problem}"):
            event = profiled[-1]
            found.detail("profile", event)
            inside = sum(one["seconds"] for one in event["xla_passes"])
            compile_s = seen[-1]["compile_s"]
            found.figure("call", f"{took:.2f} s")
            found.figure("compile", f"{compile_s:.2f} s")
            found.figure("profiled", f"{event['profiled_s']:.2f} s")
            found.figure("in passes", f"{inside:.2f} s")
            found.figure("autotuning", f"{event['autotuning_s']:.2f} s")
            found.figure(
                "longest", ", ".join(f"{one['name']} {one['seconds']:.2f} s" for one in event["xla_passes"][:4])
            )
            found.expect(
                inside > 0.5 * event["profiled_s"], f"{inside:.2f} s of {event['profiled_s']:.2f} s are in passes"
            )
            _event_names(found, folder)
        _profile_of_the_job(found, watch, function, arguments)


def _event_names(found: Findings, folder: str) -> None:
    """Names and seconds of the longest events, from which the patterns of `xla_passes` are made."""
    import jax

    files = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True) + glob.glob(f"{folder}/**/*.pb", recursive=True)
    if not found.expect(files, f"no file of the profile in {os.listdir(folder)}"):
        return
    seconds: dict[str, float] = {}
    for plane in jax.profiler.ProfileData.from_file(files[0]).planes:
        for line in plane.lines:
            for event in line.events:
                key = f"{plane.name}: {event.name}"[:160]
                seconds[key] = seconds.get(key, 0.0) + event.duration_ns / 1e9
    longest = sorted(seconds.items(), key=lambda one: -one[1])[:_TOP_EVENTS]
    found.detail("events of the profile", {name: round(value, 4) for name, value in longest})


def _profile_of_the_job(found: Findings, watch: Any, function: Any, arguments: Any) -> None:
    """A trace that the job makes while compiles are profiled."""
    import jax
    import jax.numpy as jnp

    before = len(records(watch, "jit.compile_profiled"))
    given = jax.block_until_ready(arguments(64, jnp.float32))
    with tempfile.TemporaryDirectory() as folder:
        with jitwatch_profiles():
            jax.profiler.start_trace(folder)
            jax.block_until_ready(jax.jit(lambda *each: function(*each) + 1)(*given))
            jax.profiler.stop_trace()
        files = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        found.expect(files, "the job's own profile has no file")
        found.figure("the job's own profile", mib(os.path.getsize(files[0])) if files else "none")
    found.expect(
        len(records(watch, "jit.compile_profiled")) == before, "a compile was profiled during the job's profile"
    )


def jitwatch_profiles() -> Any:
    """`jitwatch.profile_compiles()`."""
    import jitwatch

    return jitwatch.profile_compiles()


#: A job whose arguments are: the folder of the persistent cache, that of the log, and the factor in its program.
_JOB = f"""
    import json, sys
    import jax
    cache, log, factor = sys.argv[1:]
    jax.config.update("jax_compilation_cache_dir", cache or None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    import jitwatch
    FACTOR = float(factor)
{_STEP}
    with jitwatch.install(port=0, sample_interval_s=3600, event_log=log) as watch:
        given = arguments(64, jnp.float32)
        value = float(jax.jit(train_step)(*given))
        found = [one for one in watch.events(10_000) if one["event"] == "jit.compiled"
                 and one["name"] == "train_step"]
    late = [one for one in watch.events(10_000) if one["event"] == "jit.cache_missed"]
    print("RESULT " + json.dumps({{"events": found, "late": late, "value": value,
                                  "platform": jax.default_backend()}}))
"""


def _job(found: Findings, cache: str, log: str, factor: float, **environment: str) -> dict[str, Any]:
    """Run the job in a process of its own; what it found."""
    script = os.path.join(log, "job.py")
    if not os.path.exists(script):
        with open(script, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(_JOB))
    ended = subprocess.run(
        [sys.executable, script, cache, os.path.join(log, ""), str(factor)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
        },
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"the job ended with {ended.returncode}: {ended.stderr[-1500:]}")
    found.detail("stderr of the job", ended.stderr[-500:])
    found.expect("jitwatch" not in ended.stderr, f"the agent wrote to stderr: {ended.stderr[-300:]}")
    result: dict[str, Any] = json.loads(lines[-1][len("RESULT ") :])
    found.detail(f"job {environment}", result)
    return result


@check("Fingerprints of a program in two processes", limit_s=110.0)
def fingerprints(found: Findings) -> None:
    """Equal for the same program, different for another one; the agent does not print."""
    with tempfile.TemporaryDirectory() as log:
        jobs = [_job(found, "", log, factor) for factor in (2.0, 2.0, 3.0)]
    programs = [[one.get("program") for one in job["events"]] for job in jobs]
    found.figure("programs", ", ".join(str(one[0])[:8] if one else "none" for one in programs))
    found.expect(all(len(one) == 1 and one[0] for one in programs), f"programs: {programs}")
    found.expect(programs[0] == programs[1], "the same program has two fingerprints")
    found.expect(programs[0] != programs[2], "two programs have one fingerprint")


@check("Persistent cache: hit, and reasons of misses", limit_s=150.0, environment=SMALL)
def persistent_cache(found: Findings) -> None:
    """In processes one after the other: nothing there, a hit, a changed program, a changed flag of XLA."""
    flag = f"{os.environ.get('XLA_FLAGS', '')} --xla_llvm_disable_expensive_passes=true".strip()
    steps: list[tuple[str, float, dict[str, str], tuple[str, str | None]]] = [
        ("first run", 2.0, {}, ("miss", "first_time")),
        ("same program", 2.0, {}, ("hit", None)),
        ("changed program", 3.0, {}, ("miss", "program")),
        ("changed flag", 3.0, {"XLA_FLAGS": flag}, ("miss", "xla_flags")),
    ]
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as log:
        for name, factor, environment, wanted in steps:
            job = _job(found, cache, log, factor, **environment)
            (event,) = job["events"]
            reason = event.get("persistent_cache_reason") or next((one["reason"] for one in job["late"]), None)
            outcome = (event["persistent_cache"], reason)
            explanation = event.get("persistent_cache_explanation") or ""
            found.figure(name, f"{outcome[0]}{f', {reason}' if reason else ''}, {event['compile_s']:.2f} s")
            found.detail(f"{name}: explanation", explanation)
            found.expect(outcome == wanted, f"{name}: {outcome}, not {wanted}; {explanation}")
        found.detail("files", sorted(os.listdir(cache))[:40])
