"""Ctrl-C while JAX traces and compiles: the traceback and the end of the process are those without the agent."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.launching import BARE, TIMEOUT_S, WAYS, Launcher, Outcome, assert_same, write
from tests.waiting import wait_until

#: Seconds of a processor that a job spends in XLA before it is interrupted; its compile takes several.
BUSY_S = 0.1
#: Says when its program is lowered and XLA is next.
IN_XLA = """
import functools, sys
import jax, jax.monitoring
import jax.numpy as jnp

@functools.partial(jax.jit, {options})
def step(x):
    for n in range(60):
        x = jnp.sin(x @ x) + n
    return x

def lowered(event, duration, **_):
    if event == "/jax/core/compile/jaxpr_to_mlir_module_duration" and is_armed:
        print("lowered", flush=True)

is_armed = False
jax.monitoring.register_event_duration_secs_listener(lowered)
x = jax.block_until_ready(jnp.ones((64, 64)))
is_armed = True

def main():
    return step(x)

main()
print("never")
"""
#: Interrupts itself while it is traced, by every way to trace it.
IN_TRACE = """
import functools, os, signal, traceback
import jax
import jax.numpy as jnp

@functools.partial(jax.jit, donate_argnums=0)
def donor(x):
    os.kill(os.getpid(), signal.SIGINT)
    return x + 1

@jax.jit
def plain(x):
    os.kill(os.getpid(), signal.SIGINT)
    return x + 1

@jax.jit
def outer(x):
    return donor(x) * 2

x = jnp.ones(3)
for call in (
    lambda: donor(x), lambda: plain(x), lambda: outer(x), lambda: jax.vmap(donor)(x),
    lambda: jax.grad(lambda x: donor(x).sum())(x), lambda: donor.lower(x), lambda: donor.trace(x),
    lambda: donor.eval_shape(x), lambda: jax.make_jaxpr(donor)(x), lambda: jax.eval_shape(plain, x),
):
    try:
        call()
    except KeyboardInterrupt:
        traceback.print_exc()
donor(x)
"""


def seconds_of_cpu(pid: int) -> float:
    """What a process has computed so far, all of its threads; seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def interrupt_in_xla(launcher: Launcher, way: str) -> Outcome:
    """Press Ctrl-C once XLA has been at work for a while."""
    with subprocess.Popen(
        launcher.command(way, ["job.py"]),
        cwd=launcher.folder,
        env=launcher.environment(way),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert "lowered\n" == process.stdout.readline()
            before = seconds_of_cpu(process.pid)
            wait_until(
                lambda: seconds_of_cpu(process.pid) >= before + BUSY_S, what="the job to be busy", timeout_s=TIMEOUT_S
            )
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    # JAX crashes at its end, or does not, when a compile was interrupted; without the agent as well.
    code = -signal.SIGINT if process.returncode == -signal.SIGSEGV else process.returncode
    return Outcome(code, out, err)


@pytest.mark.parametrize("options", ["", "donate_argnums=0"], ids=["plain", "donor"])
def test_interrupted_compile_shows_no_frame_of_ours(launcher, options):
    """XLA goes on to the end of the compile; then the traceback is JAX's own."""
    write(launcher.folder, IN_XLA.format(options=options))
    bare = assert_same({way: interrupt_in_xla(launcher, way) for way in (BARE, *WAYS)})

    assert (-signal.SIGINT, "") == (bare.code, bare.stdout)
    assert "backend_compile" in bare.stderr
    assert "KeyboardInterrupt" == bare.stderr.splitlines()[-1]


def test_interrupted_trace_shows_no_frame_of_ours(launcher):
    """By a call, under a transform, ahead of time, or for its shape alone."""
    write(launcher.folder, IN_TRACE)
    bare = assert_same(launcher.outcomes("job.py"))

    assert -signal.SIGINT == bare.code
    assert 11 == bare.stderr.splitlines().count("KeyboardInterrupt")
