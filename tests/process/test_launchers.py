"""The name of a process, in a child that it forked."""

from __future__ import annotations

from tests.process.running import run_python


def test_process_id_of_a_forked_child_is_its_own():
    """What the parent had asked for does not count in the child."""
    program = (
        "import os, sys\n"
        "from jitwatch.system.launchers import process_id\n"
        "print(process_id(), flush=True)\n"
        "child = os.fork()\n"
        "if child == 0: print(process_id(), flush=True); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    done = run_python(program)
    first, second = done.stdout.split()
    assert first != second
