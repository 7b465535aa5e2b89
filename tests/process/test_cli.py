"""The command line in an interpreter of its own: its help, and what it imports."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.process.running import run_python


class TestStart:
    """What it takes to show a help text, in an interpreter of its own."""

    def test_help_is_shown(self):
        """How long it takes is for a benchmark to say; what it may import is tested below."""
        done = subprocess.run([sys.executable, "-m", "jitwatch", "--help"], capture_output=True, text=True, timeout=30)

        assert (0, "") == (done.returncode, done.stderr)
        assert done.stdout.startswith("usage: jitwatch ")

    def test_cli_imports_nothing_heavy(self):
        """No jax, and nothing that only one command or an installed agent needs."""
        program = "import json, sys, jitwatch.cli; print(json.dumps(sorted(sys.modules)))"
        done = run_python(program)
        loaded = set(json.loads(done.stdout))

        assert set() == loaded & {
            "jax",
            "jaxlib",
            "numpy",
            "structlog",
            "prometheus_client",
            "psutil",
            "urllib.request",
            "textual",
            "jitwatch.top",
        }

    def test_only_the_app_of_top_imports_textual(self):
        """Plain text and JSON do without, and so does `import jitwatch`."""
        program = (
            "import sys, jitwatch, jitwatch.cli.top, jitwatch.top.client, jitwatch.top.view; "
            "print(sorted({'textual', 'rich', 'jax'} & set(sys.modules)))"
        )

        assert "[]\n" == run_python(program).stdout

    def test_importtime_would_show_jax(self):
        """The test above can fail: a process that imports jax has it in sys.modules under that name."""
        program = "import sys, jax; print('jax' in sys.modules, 'numpy' in sys.modules)"
        done = run_python(program)

        assert "True True\n" == done.stdout
