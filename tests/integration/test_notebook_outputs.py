"""Notebooks: every output of every cell is that without the agent."""

from __future__ import annotations

import json

from tests.integration.launching import assert_same, write

CELLS = """
CELLS = [
    'import os; os.environ.get("INSTALL") and __import__("jitwatch").install(port=0); None',
    "import functools, jax, jax.numpy as jnp",
    "@functools.partial(jax.jit, donate_argnums=0)\\ndef step(x):\\n    return x * 2\\n\\nstep",
    "for n in range(1, 9):\\n    x = step(jnp.ones(n))\\nx",
    "@functools.partial(jax.jit, donate_argnums=0)\\ndef step(x):\\n    return x * 3\\n\\nstep(x).sum()",
    "import warnings\\nwarnings.warn('mine')\\nstep.lower(jnp.ones(3)).as_text()[:20]",
    "@jax.jit\\ndef fails(x):\\n    return x.there_is_none\\n\\nfails(x)",
    "step(jnp.ones(3), jnp.ones(3))",
    "step.__doc__, step.__name__, step.__module__, isinstance(step, type(jax.jit(abs)))",
    "import sys, threading\\nsys.stderr.write('mine')\\n"
    "thread = threading.Thread(target=print, args=('of a thread',))\\nthread.start()\\nthread.join()",
    "%timeit -n 1 -r 1 -q step(jnp.ones(5))",
]
"""
NOTEBOOK = (
    CELLS
    + """
import json, nbformat
from nbclient import NotebookClient

notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell, id=f"c{n}") for n, cell in enumerate(CELLS)])
NotebookClient(notebook, timeout=200, kernel_name="here", allow_errors=True, record_timing=False).execute()
for cell in notebook.cells:
    print(json.dumps(cell.outputs))
"""
)
SHELL = (
    CELLS
    + """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell(colors="nocolor", history_manager=None)
for cell in CELLS:
    print(shell.run_cell(cell, store_history=True).success)
"""
)


def test_outputs_of_a_notebook(launcher):
    """A kernel in which a cell installs the agent, or which has it by the environment."""
    spec = {"argv": [str(launcher.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    folder = launcher.folder / "jupyter/kernels/here"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({**spec, "display_name": "here"}))
    write(launcher.folder, NOTEBOOK)
    path = str(launcher.folder / "jupyter")

    bare = assert_same(launcher.outcomes("job.py", ways=["install", "autoinstall"], JUPYTER_PATH=path))

    outputs = [json.loads(line) for line in bare.stdout.splitlines()]
    assert 11 == len(outputs)
    assert ["AttributeError", "TypeError"] == [one["ename"] for cell in outputs for one in cell if "ename" in one]


def test_outputs_of_a_shell(launcher):
    """IPython in a process of its own."""
    write(launcher.folder, SHELL)
    bare = assert_same(launcher.outcomes("job.py"))
    assert (9, 2) == (bare.stdout.splitlines().count("True"), bare.stdout.splitlines().count("False"))
