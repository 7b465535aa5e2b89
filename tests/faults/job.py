"""The job that trains while a function of jitwatch fails: what it prints and how it ends must be as without jitwatch.

It jits, donates, changes shapes, catches a violation, uses two threads, a signal handler, a forked child and an
ahead-of-time program, and ends in an exception. Values are printed to the last bit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from functools import partial


def run() -> None:
    """Train."""
    jitwatch = sys.modules.get("jitwatch")
    import jax
    import jax.numpy as jnp
    import numpy as np

    def show(name, tree):
        values = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        print(name, *(f"{one.dtype}{list(one.shape)}:{one.tobytes().hex()[:32]}" for one in values), flush=True)

    @partial(jax.jit, static_argnames=("scale",))
    def loss_of(state, batch, scale=2):
        return ((state["w"] * batch) ** 2).mean() * scale

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        return jax.tree.map(lambda w, g: w - 0.1 * g, state, jax.grad(loss_of)(state, batch))

    state = {"w": jnp.ones(3), "n": jnp.float32(1)}
    for size in (1, 3):
        state = train_step(state, jnp.full((size, 3), 0.5))
        if jitwatch is not None:
            jitwatch.step()
    show("state", state)
    for scale in (3, 4):
        show("loss", loss_of(state, jnp.ones(3), scale=scale))

    old = state
    state = train_step(state, jnp.ones(3))
    try:
        old["w"] + 1
    except Exception as error:
        print("violation", type(error).__mro__[-3].__name__, str(error).splitlines()[0])
    show("after", state)

    compiled = jax.jit(lambda x: x * 2, donate_argnums=0).lower(jnp.ones(2)).compile()
    show("ahead of time", compiled(jnp.ones(2)))
    show("vmap", jax.vmap(loss_of, in_axes=(None, 0))(state, jnp.ones((2, 3))))
    try:
        jax.jit(lambda x: x.no_such_attribute)(1.0)
    except AttributeError as error:
        print("failed", error)
    with contextlib.suppress(TypeError, ValueError):
        loss_of(state, jnp.ones(3), scale=[])

    results = {}

    def work(number):
        results[number] = jax.jit(lambda x: x + number)(jnp.ones(2))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    show("threads", [results.get(i) for i in range(2)])

    def handle(*_):
        show("signal", jax.jit(lambda x: x - 1)(jnp.ones(1)))

    signal.signal(signal.SIGUSR1, handle)
    signal.raise_signal(signal.SIGUSR1)

    child = os.fork()
    if child == 0:
        print("child", flush=True)
        os._exit(0)
    os.waitpid(child, 0)

    if jitwatch is not None:
        for verb in (jitwatch.snapshot, jitwatch.scalars, lambda: str(jitwatch.explain())):
            verb()
        with jitwatch.expected("a planned change"):
            loss_of(state, jnp.ones((4, 3)))
        with jitwatch.steady(on_recompile="count"):
            loss_of(state, jnp.ones((5, 3)))
    else:
        loss_of(state, jnp.ones((4, 3)))
        loss_of(state, jnp.ones((5, 3)))
    jax.clear_caches()
    show("cleared", loss_of(state, jnp.ones(3)))
    raise ValueError("the job ends in an exception")
