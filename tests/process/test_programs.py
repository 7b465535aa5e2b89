"""Files of programs, written by several processes at once."""

from __future__ import annotations

import subprocess
import sys


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    """Without a rank all of them begin with the same names."""
    program = (
        "import sys\n"
        "from jitwatch.system.programs import ProgramFiles\n"
        "files = ProgramFiles(sys.argv[1], prefix='')\n"
        "print(*(files.write('f', lambda: sys.argv[2] + str(n)) for n in range(50)))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    jobs = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "abc"]
    named = {name: job.communicate(timeout=120)[0].split() for name, job in zip("abc", jobs, strict=True)}

    assert sorted(one for names in named.values() for one in names) == names_in(tmp_path)
    assert {f"{name}{n}" for name in "abc" for n in range(50)} == {path.read_text() for path in tmp_path.iterdir()}
    assert all(f"{name}{n}" == (tmp_path / named[name][n]).read_text() for name in "abc" for n in range(50))
