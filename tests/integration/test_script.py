"""`jitwatch run` of what is no file: standard input, code, a session; each as `python` runs it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from tests.integration.launching import BARE, TIMEOUT_S, Launcher, assert_same

#: What a program can see of how it was started.
SURROUNDINGS = '''
"""A docstring."""
import atexit, sys
def annotated(x: int) -> str: ...
print(annotated.__annotations__, globals().get("__annotations__", "-"))
print(sys.argv, sys.path, sorted(globals()))
print(__name__, globals().get("__file__", "-"), __doc__, repr(__package__), __spec__, __loader__)
print(globals().get("__cached__", "-"), __builtins__, sys.modules["__main__"].__dict__ is globals())
print(repr(sys.stdin.read()))
atexit.register(lambda: print("at exit", "__file__" in globals(), sys.excepthook is sys.__excepthook__))
'''
RAISES = """
def f(x):
    try:
        return 1 / x
    except ZeroDivisionError as error:
        raise ValueError("second") from error

f(0)
"""
PROGRAMS = {
    "surroundings": SURROUNDINGS,
    "surroundings of an exception": SURROUNDINGS + RAISES,
    "surroundings of an exit": SURROUNDINGS + "sys.exit(3)",
    "syntax error": "print('never')\nx = = 1\n",
    "no last newline": "print(1)",
    "nothing": "",
    "pickles": (
        "import pickle\nclass Batch:\n    x = 3\n\none = pickle.loads(pickle.dumps(Batch()))\n"
        "print(one.x, type(one) is Batch)\n"
    ),
    "forks a pool": (
        "import multiprocessing\ndef square(x):\n    return x * x, __name__\n\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('fork').Pool(1) as pool:\n        print(pool.map(square, [2, 3]))\n"
    ),
    "text that is not ASCII": "print('ü → ∞')\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_from_stdin_or_the_command_line(launcher, name):
    """Arguments, `__main__`, `sys.path`, what is left of stdin, traceback and exit code are python's."""
    arguments = ["a", "--port", "3", "-", "--", "-m"]
    for job, text in ((["-"], PROGRAMS[name]), (["-c", PROGRAMS[name]], "a line\n")):
        assert_same(launcher.outcomes(*job, *arguments, ways=["run"], text=text))


@pytest.mark.parametrize("ends_with", ["1 / 0", "import sys; sys.exit(3)", "x = 1"])
def test_session_after_a_script(launcher, ends_with):
    """`python -i` shows the script's own names and traceback, and no exit of ours."""
    (launcher.folder / "job.py").write_text(f"x = 1\n{ends_with}\n")
    look = (
        "print(sorted(globals()))\nimport sys\nlast = getattr(sys, 'last_traceback', None)\n"
        "print(last and (last.tb_lineno, last.tb_next))\n"
    )

    assert_same(launcher.outcomes("job.py", ways=["run"], flags=["-i"], text=look))


def typed(launcher: Launcher, way: str, *lines: str) -> str:
    """What a session in a terminal shows when lines are typed."""
    master, terminal = pty.openpty()
    with subprocess.Popen(
        launcher.command(way, ["-"]),
        env=launcher.environment(way, TERM="dumb", PYTHON_BASIC_REPL="1", NO_COLOR="1"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=launcher.folder,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        seen, deadline = b"", time.monotonic() + TIMEOUT_S
        for number, line in enumerate([*lines, "exit()"], 1):
            while seen.count(b">>> ") < number and time.monotonic() < deadline:
                seen += os.read(master, 4096)
            os.write(master, f"{line}\n".encode())
        process.wait(TIMEOUT_S)
        seen += os.read(master, 65536)
    os.close(master)
    return seen.decode().replace("\r\n", "\n")


def test_code_may_follow_its_option_at_once(launcher):
    """`-cCODE` is `-c CODE`."""
    assert (
        "ran ['-c', 'x']\n"
        == assert_same(launcher.outcomes("-cimport sys; print('ran', sys.argv)", "x", ways=["run"])).stdout
    )


def test_code_of_the_command_line_spawns_a_pool(launcher):
    """Its workers have no main module to look into; those of a program from stdin would look for a file."""
    program = (
        "import multiprocessing\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.map(abs, [-2, 3]))\n"
    )
    assert "[2, 3]\n" == assert_same(launcher.outcomes("-c", program, ways=["run"])).stdout


def test_terminal_is_a_session(launcher):
    """As for `python -`; with functions that compile."""
    lines = ["import jax", "jax.jit(lambda x: x + 1)(1)", "1 / 0", "__name__"]
    bare, run = (typed(launcher, way, *lines) for way in (BARE, "run"))

    assert "Array(2, dtype=int32, weak_type=True)\n" in bare
    assert "ZeroDivisionError" in bare
    # The traceback of a session has other names of files before Python 3.13.
    assert bare.splitlines()[-4:] == run.splitlines()[-4:]
    assert "jitwatch" not in run


def test_closed_stdin_is_an_empty_program(launcher):
    """As for python."""
    for way in (BARE, "run"):
        command = subprocess.list2cmdline(launcher.command(way, ["-"]))
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} <&-"], env=launcher.environment(way), capture_output=True, timeout=TIMEOUT_S
        )
        assert (way, 0, b"", b"") == (way, done.returncode, done.stdout, done.stderr)


def test_command_line_that_lacks_what_to_run_is_an_error():
    """It says what there is to give."""
    for arguments in ([], ["-c"], ["-m"], ["--quiet"]):
        done = subprocess.run([sys.executable, "-m", "jitwatch", "run", *arguments], capture_output=True, text=True)
        assert 2 == done.returncode
        assert "expected a script: its path, - for standard input" in done.stderr
