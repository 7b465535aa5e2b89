"""Simulated processes of many jobs: what jitwatch exports for them, without JAX and without the jobs.

    python -m benchmarks.simulation --targets 400 --detail full

One process serves all of them on one port, each at a path of its own, and prints the port. The text is not written
here: the events of a job go into the store of the agent, and the agent's exposition renders it. What a job does is
simulated in real time: steps, recompiles with different causes, memory of several devices, a storm here and there,
and runs that end and start again. The processes of a run do the same, and each run has values of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from jitwatch._version import __version__
from jitwatch.exporters import prometheus
from jitwatch.exporters.prometheus import Exposition
from jitwatch.model.events import (
    Compiled,
    CompilerSeen,
    DonorMade,
    Event,
    ExecutableMeasured,
    FunctionWrapped,
    PitfallFound,
    Stepped,
    StormEnded,
    StormStarted,
)
from jitwatch.model.function import Function
from jitwatch.model.rows import DeviceRow
from jitwatch.model.taxonomy import CAUSES, SCHEMA, Cause
from jitwatch.probes.rows import series_of
from jitwatch.server.routes import accepts_gzip
from jitwatch.state.store import Store

Detail = Literal["full", "summary", "mixed"]

PROCESSES_OF_A_RUN: Final = 8
DEVICES: Final = 4
#: Seconds for which the processes of a run export the same values. Less than a scrape interval, so that two scrapes of
#: one process never get the same.
_FRESH_S: Final = 12.0
#: Every so many seconds, a run recompiles a function.
_RECOMPILE_S: Final = 120.0
#: Share of the recompiles that show a pitfall.
_PITFALL_SHARE: Final = 0.1
#: Mean seconds between two storms of a run, and of a storm.
_CALM_S: Final = 4 * 3600.0
_STORM_S: Final = 300.0
#: Seconds for which a run lives.
_LIFE_S: Final = (3600.0, 6 * 3600.0)
_STEP_S: Final = 0.4
_GIB: Final = 1 << 30
_PROBES: Final = ("process", "compile", "cache", "donation", "memory", "divergence")
_GROWING: Final = ("device", "live_arrays", "host")
_PROCESS_INDEX: Final = b'process_index="0"'


@dataclass
class Run:
    """A distributed job whose processes do the same, from its start to its end and its next start.

    Args:
        number: Its number, from which all that is random follows.
        details: The details that are asked for, each with a store of its own.
        functions: Number of functions; one in four donates.
        clock: Unix time in seconds.
    """

    number: int
    details: tuple[Literal["full", "summary"], ...] = ("full",)
    functions: int = 30
    clock: Callable[[], float] = time.time
    restarts: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.number)
        self._rendered: dict[tuple[str, str], tuple[float, bytes, str]] = {}
        self._start(self.clock() - self._random.uniform(0, _LIFE_S[0]))

    def render(self, detail: Literal["full", "summary"], accept: str, index: int) -> tuple[bytes, str]:
        """The exposition of one of its processes, and the content type."""
        now = self.clock()
        at, body, content_type = self._rendered.get((detail, accept), (0.0, b"", ""))
        if now - at >= _FRESH_S:
            self._advance(now)
            body, content_type = self._expositions[detail].render(accept)
            self._rendered[detail, accept] = (now, body, content_type)
        return body.replace(_PROCESS_INDEX, b'process_index="%d"' % index, 1), content_type

    def _start(self, at: float) -> None:
        """Begin at a time, in the past for a run that is not new: import, jit and compile everything."""
        self.restarts += 1
        self._now, self._steps, self._busy_s, self._rest_s = at, 0, 0.0, 0.0
        self._ends = at + self._random.uniform(*_LIFE_S)
        self._storm: Function | None = None
        options = {"run": f"run-{self.number}", "process": "0", "clock": lambda: self._now}
        self._stores = {
            detail: Store(is_summary=detail == "summary", monotonic=lambda: self._now, **options)  # type: ignore[arg-type]
            for detail in self.details
        }
        self._expositions = {detail: Exposition(store.tables) for detail, store in self._stores.items()}
        self._functions = [
            Function(f"train.layers.function_{number}", f"function_{number}", f"train.py:{10 + number}")
            for number in range(self.functions)
        ]
        self._donors = self._functions[::4]
        for store in self._stores.values():
            store.set_info("build", (__version__, str(SCHEMA), "0.10.2", "0.10.2", "3.11.2", "linux"))
            store.set_process_place(0, PROCESSES_OF_A_RUN)
            for probe in _PROBES:
                store.set("probe_up", 1.0, (probe,))
        self._apply(
            CompilerSeen(
                jaxlib="0.10.2",
                platform="gpu",
                platform_version="cuda 12.8",
                device_kind="H100",
                devices=DEVICES * PROCESSES_OF_A_RUN,
                processes=PROCESSES_OF_A_RUN,
            )
        )
        for function in self._functions:
            self._apply(FunctionWrapped(function=function))
        for function in self._donors:
            self._apply(DonorMade(function=function))
        internal = Function("__jax__", "convert_element_type")
        for function in (internal, *self._functions):
            self._compile(function)
        for nth, function in enumerate(self._functions):
            self._compile(function, CAUSES[nth % 7])
        self._advance(max(at, self.clock()))

    def _advance(self, now: float) -> None:
        """Do all that the run does until a time."""
        if now >= self._ends:
            self._start(now)
            return
        passed, self._now = now - self._now, now
        self._step(passed)
        for _ in range(min(50, self._happens(passed / _RECOMPILE_S))):
            function = self._random.choice(self._functions)
            self._compile(function, self._random.choice(CAUSES))
            if self._random.random() < _PITFALL_SHARE:
                self._apply(
                    PitfallFound(function=function, pitfall="shape_churn", subject="x", message="shapes", advice="pad")
                )
        self._storms(passed)
        for store in self._stores.values():
            self._sample(store)

    def _step(self, passed: float) -> None:
        """Training steps, whose durations vary; a few events for all of them."""
        self._rest_s += passed
        steps = int(self._rest_s / _STEP_S)
        self._rest_s -= steps * _STEP_S
        self._steps += steps
        for part in _shares(steps, 4):
            self._apply(Stepped(steps=part, duration_s=part * _STEP_S * self._random.uniform(0.6, 1.4)))
        calls = {one.label: (self._steps, self._now, self._steps << 30) for one in self._donors}
        for store in self._stores.values():
            store.set_calls(calls)

    def _storms(self, passed: float) -> None:
        """Begin and end recompile storms."""
        if self._storm is None and self._happens(passed / _CALM_S):
            self._storm = self._random.choice(self._functions)
            self._apply(StormStarted(function=self._storm, recompiles=5, within_s=60.0))
        elif self._storm is not None and self._happens(passed / _STORM_S):
            self._apply(StormEnded(function=self._storm, recompiles=20, lasted_s=60.0, lost_s=30.0))
            self._storm = None

    def _compile(self, function: Function, *causes: Cause) -> None:
        spent_s = self._random.expovariate(0.5)
        program = f"{self._random.getrandbits(48):012x}"
        self._busy_s += spent_s
        self._apply(
            Compiled(
                function=function,
                trace_s=0.1 * spent_s,
                lower_s=0.1 * spent_s,
                compile_s=0.8 * spent_s,
                cache_entries=None if function.is_internal else 2 + len(causes),
                causes=causes,
                program=program,
                on_all_processes=True,
            )
        )
        if not function.is_internal:
            size = self._random.getrandbits(30)
            self._apply(
                ExecutableMeasured(
                    function=function, arguments=size, outputs=size, temporaries=size, code=1 << 20, flops=1e12
                )
            )

    def _sample(self, store: Store) -> None:
        """What the probes read while the job runs."""
        noise = self._random.uniform
        store.set_total("compile_busy_seconds", self._busy_s)
        store.set("compiles_in_progress", 0.0)
        store.set("compile_oldest_in_progress_seconds", 0.0)
        store.set("compiling_fingerprint", 0.0)
        store.set("jit_global_cache_entries", 1000.0 + self.functions)
        store.set_by_function("jit_cache_entries", {one.label: 3.0 for one in self._functions})
        for name, series in series_of([self._device(number) for number in range(DEVICES)]).items():
            store.set_series(name, series)
        store.set_series("memory_growth_bytes_per_second", {(kind,): noise(-1e4, 1e4) for kind in _GROWING})
        store.set("host_memory_total_bytes", 1024.0 * _GIB)
        store.set("host_memory_available_bytes", float(int(noise(600, 700) * _GIB)))
        store.set("host_cpu_ratio", round(noise(0.2, 0.4), 3))
        store.set("process_threads", 300.0)
        store.set("child_processes", 8.0)
        store.set("child_processes_resident_memory_bytes", float(int(noise(30, 32) * _GIB)))
        store.set("child_processes_cpu_ratio", round(noise(4, 6), 3))
        store.set("child_processes_threads", 64.0)
        store.set("child_processes_open_files", 400.0)
        for probe in _PROBES:
            store.set("collect_duration_seconds", noise(1e-5, 1e-2), (probe,))
        for component in ("events", "sampler", "scrape"):
            store.add("agent_overhead_seconds", noise(1e-3, 1e-2), (component,))

    def _device(self, number: int) -> DeviceRow:
        in_use = int(self._random.uniform(50, 60) * _GIB)
        return {
            "device": f"gpu:{number}",
            "device_kind": "H100",
            "platform": "gpu",
            "stats_supported": True,
            "in_use_bytes": in_use,
            "in_use_from": "device",
            "peak_bytes": 64 * _GIB,
            "limit_bytes": 75 * _GIB,
            "in_use_ratio": in_use / (75 * _GIB),
            "reserved_bytes": 70 * _GIB,
            "largest_free_block_bytes": 10 * _GIB,
            "live_arrays": 2000 + self._random.randrange(10),
            "live_array_bytes": in_use - _GIB,
            "problem": None,
        }

    def _happens(self, expected: float) -> int:
        """How often something happened that was expected so often."""
        whole = int(expected)
        return whole + (self._random.random() < expected - whole)

    def _apply(self, event: Event) -> None:
        for store in self._stores.values():
            store.apply(event)


def _shares(total: int, parts: int) -> list[int]:
    """A whole number in nearly equal parts, without those that are 0."""
    return [part for number in range(parts) if (part := (total + number) // parts)]


class Fleet:
    """All targets: the process `index` of the run `number`, at `/NUMBER/INDEX/metrics`.

    Args:
        targets: Number of processes.
        detail: What they export. `mixed`: full for process 0 of each run, a summary for the others.
        functions: Number of functions of each process.
    """

    def __init__(self, targets: int, detail: Detail, functions: int) -> None:
        self._detail: Detail = detail
        details: tuple[Literal["full", "summary"], ...] = ("full", "summary") if detail == "mixed" else (detail,)
        self.runs = [
            Run(number, details=details, functions=functions) for number in range(-(-targets // PROCESSES_OF_A_RUN))
        ]

    def detail_of(self, index: int) -> Literal["full", "summary"]:
        """The detail of a process of a run."""
        if self._detail == "mixed":
            return "full" if index == 0 else "summary"
        return self._detail

    def render(self, path: str, accept: str) -> tuple[bytes, str] | None:
        """The exposition at a path, and its content type; None if there is none."""
        parts = path.strip("/").split("/")
        if len(parts) != 3 or parts[2] != "metrics" or not all(part.isdecimal() for part in parts[:2]):
            return None
        number, index = int(parts[0]), int(parts[1])
        if number >= len(self.runs) or index >= PROCESSES_OF_A_RUN:
            return None
        return self.runs[number].render(self.detail_of(index), accept, index)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, as the server of a process does: compressed if asked, one answer for a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            found = self.render(head[0].split(" ")[1], headers.get("accept", ""))
            if found is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                body, content_type = found
                is_packed = accepts_gzip(headers.get("accept-encoding", ""))
                body = gzip.compress(body, compresslevel=2, mtime=0) if is_packed else body
                encoding = "Content-Encoding: gzip\r\n" if is_packed else ""
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{encoding}"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                writer.write(body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def target_groups(port: int, targets: int) -> list[dict[str, object]]:
    """All targets as entries of a file of targets, as the processes of real jobs on machines of their own."""
    return [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {
                "__metrics_path__": f"/{run}/{index}/metrics",
                "instance": f"node-{number:05d}:10431",
                "run": f"run-{run}",
                "host": f"node-{number:05d}",
                "process_index": str(index),
            },
        }
        for number in range(targets)
        for run, index in (divmod(number, PROCESSES_OF_A_RUN),)
    ]


async def _serve(fleet: Fleet, port: int) -> None:
    server = await asyncio.start_server(fleet.answer, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=400, help="number of processes (default: 400)")
    parser.add_argument("--functions", type=int, default=30, help="functions of each process (default: 30)")
    parser.add_argument("--detail", choices=get_args(Detail), default="full", help="(default: full)")
    parser.add_argument("--port", type=int, default=0, help="(default: any free port)")
    options = parser.parse_args()
    # The exposition lets the training thread run after each family; here is none.
    prometheus.pause = lambda _: None  # type: ignore[attr-defined]
    asyncio.run(_serve(Fleet(options.targets, options.detail, options.functions), options.port))


if __name__ == "__main__":
    main()
