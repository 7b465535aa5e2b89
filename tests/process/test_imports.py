"""What runs without jax, and imports none of it."""

from __future__ import annotations

from tests.process.running import run_python


def test_expected_works_without_an_agent():
    """Code that announces compiles runs the same where no agent is installed, and imports no jax for it."""
    code = "import sys, jitwatch\nwith jitwatch.expected('x'): print('jax' in sys.modules)"
    done = run_python(code)
    assert ("False\n", "") == (done.stdout, done.stderr)


def test_explain_imports_no_jax():
    """Neither without an agent nor with one that waits for jax."""
    code = (
        "import sys, jitwatch\n"
        "jitwatch.explain()\n"
        "jitwatch.install(port=0)\n"
        "print(jitwatch.explain('step'), callable(jitwatch.explain), 'jax' in sys.modules)"
    )
    done = run_python(code)

    assert "No function has been jitted or compiled since the agent was installed. True False\n" == done.stdout, (
        done.stderr
    )


def test_import_is_light_and_changes_nothing():
    """`import jitwatch` imports no jax, prometheus_client, psutil or structlog, and starts no thread."""
    done = run_python(
        """
        import sys, threading, jitwatch
        heavy = {"jax", "prometheus_client", "psutil", "structlog", "http.server"}
        print(sorted(heavy & set(sys.modules)), threading.active_count())
        """
    )
    assert ("[] 1\n", "") == (done.stdout, done.stderr)


def test_light_import_test_can_fail():
    """The check above notices a heavy import."""
    done = run_python("import sys, psutil; print(sorted({'psutil'} & set(sys.modules)))")
    assert "['psutil']\n" == done.stdout
