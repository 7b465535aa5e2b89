"""Runs JAX's own tests with and without the agent and compares the outcomes, test by test.

    git -C CHECKOUT checkout jax-v0.10.2        the version that is installed
    python -m tests.compat.jax_tests CHECKOUT aot_test pjit_test

Exit code 1 if a test that passes without the agent fails with it. The last lines are a row for
docs/transparency.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

#: What the agent could disturb: compiling ahead of time, monitoring, caches, pickles, several devices, arrays, jit.
FILES = (
    "aot_test",
    "monitoring_test",
    "compilation_cache_test",
    "pickle_test",
    "multi_device_test",
    "array_test",
    "pjit_test",
    "api_test",
    "buffer_callback_test",
    "debugging_primitives_test",
    "errors_test",
    "export_test",
    "jaxpr_util_test",
    "memories_test",
    "pmap_test",
    "python_callback_test",
    "source_info_test",
    "stack_test",
    "shard_map_test",
    "tree_util_test",
    "xla_metadata_test",
)
_ROOT = Path(__file__).parents[2]


def outcomes(path: Path, *, with_agent: bool, timeout_s: float) -> dict[str, str]:
    """Outcome of each test of a file: passed, failed or skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        plugin = ["-p", "tests.compat.agent_plugin"] if with_agent else []
        # Without JAX's own configuration and sources, so that the installed JAX is the one that is tested.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "--noconftest",
            "--rootdir",
            str(path.parent),
        ]
        command += [f"--junitxml={report}", "-p", "no:cacheprovider", "-p", "no:jitwatch", *plugin, str(path)]
        environ = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_GENERATED_CASES": "1",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "PYTHONPATH": str(_ROOT),
        }
        try:
            subprocess.run(
                command,
                cwd=path.parent,
                env=environ,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"(the file)": "timeout"}
        if not report.exists():
            return {"(the file)": "crashed"}
        found = {}
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            kinds = {child.tag for child in case}
            name = f"{case.get('classname')}.{case.get('name')}"
            found[name] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        return found


def main() -> int:
    """The command."""
    import jax

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of JAX at the version that is installed")
    parser.add_argument("files", nargs="*", default=FILES, help="files below tests/, without .py")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for a file")
    options = parser.parse_args()
    worse: list[str] = []
    passed = bare_failures = 0
    for name in options.files:
        path = options.checkout.absolute() / "tests" / f"{name}.py"
        if not path.exists():
            continue
        bare = outcomes(path, with_agent=False, timeout_s=options.timeout)
        found = outcomes(path, with_agent=True, timeout_s=options.timeout)
        changed = [test for test, outcome in bare.items() if outcome == "passed" and found.get(test) != "passed"]
        worse += changed
        passed += sum(outcome == "passed" for outcome in found.values())
        bare_failures += sum(outcome == "failed" for outcome in bare.values())
        print(f"{name}: {len(found)} tests, {len(changed)} worse than without the agent", flush=True)
        for test in changed:
            print(f"  {test}: {found.get(test, 'missing')}", flush=True)
    print(f"\n| {jax.__version__} | {platform.python_version()} | {passed} | {bare_failures} | {len(worse)} |")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
