"""Differences between programs for two devices: shardings, meshes, partitions."""

from __future__ import annotations

import json

import pytest

from jitwatch.programs import compare_texts
from jitwatch.render import programs as wording
from tests.process.running import run_python

PROGRAMS = """
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    if sys.argv[1] == "gspmd":
        jax.config.update("jax_use_shardy_partitioner", False)
    devices = np.array(jax.devices())
    x = jnp.ones((4, 6))

    def text(spec, mesh=None, **options):
        mesh = mesh or Mesh(devices, ("d",))

        def step(x):
            return jnp.sin(x) * 2

        sharded = jax.jit(step, in_shardings=NamedSharding(mesh, spec), **options)
        return sharded.lower(x).as_text(debug_info=True)

    def generic(spec, mesh=None):
        mesh = mesh or Mesh(devices, ("d",))
        sharded = jax.jit(lambda x: x * 2, in_shardings=NamedSharding(mesh, spec))
        return sharded.lower(x).compiler_ir("stablehlo").operation.get_asm(print_generic_op_form=True)

    one = Mesh(devices[:1], ("d",))
    print(json.dumps({
        "rows": text(P("d")), "again": text(P("d")), "columns": text(P(None, "d")), "one device": text(P("d"), one),
        "generic": generic(P("d")), "generic on one": generic(P("d"), one),
        "renamed axis": text(P("e"), Mesh(devices, ("e",))),
        "donated": text(P("d"), donate_argnums=0),
    }))
"""


@pytest.mark.parametrize("partitioner", ["shardy", "gspmd"])
def test_other_sharding_is_named(partitioner):
    """The argument and both shardings are named; another number of devices, too; an equal sharding is no difference."""
    done = run_python(PROGRAMS, partitioner, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert 0 == done.returncode, done.stderr
    texts = json.loads(done.stdout)

    assert compare_texts(texts["rows"], texts["again"]).is_equal
    columns = compare_texts(texts["rows"], texts["columns"])
    assert [("sharding", "argument x")] == [(one.kind, one.what) for one in columns.changes[:1]]
    assert wording.summary(columns).startswith("The sharding of argument x ")
    assert all((columns.changes[0].before, columns.changes[0].after))

    fewer = compare_texts(texts["rows"], texts["one device"])
    assert ("partitions", 2, 1) in [(one.kind, one.before, one.after) for one in fewer.changes]
    generic = compare_texts(texts["generic"], texts["generic on one"])
    assert ("partitions", 2, 1) in [(one.kind, one.before, one.after) for one in generic.changes]
    donated = compare_texts(texts["rows"], texts["donated"])
    assert ["donation"] == [one.kind for one in donated.changes]
    assert "Argument x is donated now." == wording.summary(donated)
    # GSPMD knows no names of axes.
    renamed = compare_texts(texts["rows"], texts["renamed axis"])
    assert renamed.is_equal == ('"d"' not in texts["rows"])
