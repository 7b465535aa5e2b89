"""Throughput of `jitwatch report` in MB/s on one core, for a log of real events."""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jitwatch.exporters.eventlog.json_lines import make_renderer
from jitwatch.model.events import Compiled, DonationViolation, Event, Installed, MemorySampled, PitfallFound, RunSummary
from jitwatch.model.function import Change, Function
from jitwatch.render import wording
from jitwatch.report import document, sources, terminal
from jitwatch.report.read import read_logs
from jitwatch.state.store import Store

_FUNCTIONS = [
    Function(f"project.train.layer_{number}", f"layer_{number}", f"/home/me/project/train.py:{number}")
    for number in range(200)
]
_JAX = Function("__jax__", "convert_element_type")
#: Number of distinct lines, which are repeated.
_LINES = 20_000


def events(seed: int) -> Iterator[Event]:
    """Events of a run with many problems: recompiles of user functions and of JAX's own, and what follows from them."""
    dice = random.Random(seed)
    yield Installed(version="0", jax="0.10", jaxlib="0.10", python="3.11", pid=1, url=None, probes=("compile",))
    while True:
        kind = dice.random()
        function = dice.choice(_FUNCTIONS)
        # Each function is called from a few lines.
        site = f"/home/me/project/loop.py:{_FUNCTIONS.index(function) + 200 * dice.randrange(3)}"
        if kind < 0.35:
            yield Compiled(
                function=_JAX, call_site=site, trace_s=0.001, lower_s=0.01, compile_s=dice.random() / 10, thread="Main"
            )
        elif kind < 0.9:
            size = dice.randrange(1, 512)
            event = Compiled(
                function=function,
                call_site=site,
                trace_s=dice.random(),
                lower_s=dice.random() / 10,
                compile_s=dice.random() * 3,
                cache_entries=size,
                thread="MainThread",
                caller="main",
                nth=size + 1,
                causes=("shape",),
                changes=(Change("batch['tokens']", "shape", "int32[8,512]", f"int32[8,{size}]"),),
            )
            yield replace(event, explanation=wording.of_recompile(event))
        elif kind < 0.95:
            yield MemorySampled(
                devices=tuple(
                    {"device": f"gpu:{number}", "in_use_bytes": dice.randrange(2**36), "peak_bytes": 2**36}
                    for number in range(8)
                ),
                host_resident_bytes=2**33,
                host_available_bytes=2**36,
                growth_bytes_per_second={"device": 1.0},
            )
        elif kind < 0.98:
            yield PitfallFound(
                function=function,
                call_site=site,
                pitfall="shape_churn",
                subject="batch['tokens']",
                message="axis 1 of batch['tokens'] had 40 sizes, from 1 to 40, and each one needed a compile",
                advice="Pad to a few sizes, or drop the remainder",
                lost_s=1.0,
            )
        else:
            yield DonationViolation(
                violation="use_after_donate",
                function=function,
                call_site=site,
                leaf="state['w']",
                shape=(64, 64),
                dtype="float32",
                bytes=16_384,
                donated_by=function.label,
                donated_at=site,
                donated_leaf="state['w']",
            )


def write(path: Path, megabytes: float) -> None:
    """Write a log of this size."""
    store, render = Store(run="benchmark"), make_renderer()
    records = (store.apply(event) for event in itertools.islice(events(1), _LINES))
    block = b"".join(render(record) for record in records if record is not None)
    end = store.apply(
        RunSummary(wall_s=3600.0, compiles=0, recompiles=0, failures=0, compile_s=0, busy_s=0, jax_compiles=0)
    )
    assert end is not None
    with open(path, "wb") as file:
        while file.tell() < megabytes * 1e6:
            file.write(block)
        file.write(render(end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=200.0)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.jsonl"
        write(path, options.megabytes)
        size = path.stat().st_size
        print(f"{size / 1e6:.0f} MB")
        for _ in range(options.repeat):
            started = time.process_time()
            fold, tally = read_logs(sources.find([str(path)]))
            read_s = time.process_time() - started
            terminal.render(document.document(fold, tally))
            render_s = time.process_time() - started - read_s
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{size / 1e6 / read_s:6.0f} MB/s  {read_s / tally.lines * 1e6:5.1f} µs a line, "
                f"{render_s * 1e3:.0f} ms for the text, {most:.0f} MiB at most"
            )


if __name__ == "__main__":
    main()
