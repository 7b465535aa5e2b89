"""Environments that lack something: rights, a network, an unpacked package, a module, an operating system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest

from tests.checkout import PACKAGE, ROOT
from tests.process.running import run_python

#: A job that prints what it sees of its agent, also what its endpoint responds: status and content.
JOB = """
import http.client, json, sys, jitwatch
watch = jitwatch.install(port=0)
import jax
jax.jit(lambda x: x + 1)(1.0)
probes = watch.snapshot()["probes"]
seen = {"active": watch.is_active, "down": {name: one["reason"] for name, one in probes.items() if not one["up"]}}
for path in ("/", "/page/main.js", "/metrics", "/healthz"):
    client = http.client.HTTPConnection(*watch.url.removeprefix("http://").split(":"), timeout=30)
    client.request("GET", path)
    answer = client.getresponse()
    seen[path] = answer.status, answer.read().decode()
    client.close()
seen |= {"file": jitwatch.__file__, "compiles": watch.snapshot()["totals"]["compiles"]}
watch.uninstall()
print(json.dumps(seen))
"""
#: An interpreter of another system, as far as Python code can tell: names that it lacks are removed after the packages
#: that choose by the real system are imported.
LIKE_WINDOWS = """
import jax, psutil, os, signal, sys

class NotOnWindows:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotOnWindows)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
for module, names in (
    (os, "fork getuid geteuid getgid getegid getpgrp getpgid getsid uname fchmod register_at_fork sysconf statvfs"),
    (os, "sched_getaffinity O_NOFOLLOW O_NONBLOCK O_CLOEXEC"),
    (signal, "SIGHUP SIGKILL SIGQUIT SIGALRM SIGUSR1 SIGCHLD SIGPIPE setitimer pthread_sigmask"),
):
    for name in names.split():
        hasattr(module, name) and delattr(module, name)
sys.platform = "win32"
"""
LIKE_MACOS = """
import http.client, platform, selectors, socket, ssl, urllib.request
import builtins, io, jax, os, psutil, select, sys

def hiding(real):
    def call(path, *arguments, **options):
        is_psutils = "psutil" in sys._getframe(1).f_code.co_filename
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(("/proc", "/sys")):
            if not is_psutils:
                raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, *arguments, **options)
    return call

builtins.open = io.open = hiding(open)
os.open, os.listdir = hiding(os.open), hiding(os.listdir)
for module, names in (os, "sched_getaffinity pidfd_open memfd_create eventfd pipe2"), (select, "epoll"):
    for name in names.split():
        hasattr(module, name) and delattr(module, name)
sys.platform = "darwin"
"""


def result(done: subprocess.CompletedProcess[str]) -> dict:
    """The JSON object in the last line."""
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_works(seen: dict) -> None:
    """The agent, its metrics and its page work."""
    assert (True, {}) == (seen["active"], seen["down"])
    assert [200] * 4 == [seen[path][0] for path in ("/", "/page/main.js", "/metrics", "/healthz")]
    assert "jitwatch_compiles_total" in seen["/metrics"][1]


@pytest.fixture
def package(tmp_path):
    """A zip file with the package, as an installed one is."""
    path = tmp_path / "jitwatch.zip"
    folder = PACKAGE / "dashboards" if (PACKAGE / "dashboards").is_dir() else ROOT / "dashboards"
    with zipfile.ZipFile(path, "w") as archive:
        for above, base in ((PACKAGE, "jitwatch"), (folder, "jitwatch/dashboards")):
            for one in sorted(above.rglob("*")):
                if one.is_file() and "__pycache__" not in one.parts:
                    name = f"{base}/{one.relative_to(above).as_posix()}"
                    if name not in archive.NameToInfo:
                        archive.write(one, name)
    return path


@pytest.fixture
def read_only(tmp_path, package):
    """An environment whose site-packages cannot be written; it has the packages of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (site,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(site)
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (tmp_path / "work").mkdir()
    folders = [site, *(one for one in site.rglob("*") if one.is_dir()), tmp_path / "work"]
    for folder in folders:
        folder.chmod(0o555)
    # Root may write anywhere, unless it gives up that right.
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    variables = {"HOME": "/nonexistent/home", "TMPDIR": str(tmp_path / "work"), "JAX_PLATFORMS": "cpu"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*drop, str(tmp_path / "env" / "bin" / "python"), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path / "work",
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **variables},
        )

    yield run
    for folder in folders:
        folder.chmod(0o755)


def test_nothing_can_be_written(read_only, tmp_path):
    """Neither site-packages nor HOME, TMPDIR and the working directory: the agent works, a command names the file."""
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    seen = result(read_only(str(tmp_path / "job.py")))
    assert_works(seen)
    assert str(tmp_path / "env") in seen["file"]

    done = read_only("-m", "jitwatch", "run", "--port", "0", "-c", "print('ran')")
    assert (0, "ran\n") == (done.returncode, done.stdout), done.stderr
    done = read_only("-m", "jitwatch", "activate")
    assert (1, "") == (done.returncode, done.stdout)
    assert "site-packages/jitwatch.pth cannot be written (Permission denied); use an environment that" in done.stderr
    done = read_only("-m", "jitwatch", "dashboards", "stack")
    assert 1 == done.returncode
    assert "jitwatch: stack cannot be written (Permission denied); name a writable folder\n" == done.stderr


def test_package_in_a_zip_file(package, tmp_path):
    """zipimport: the page, the report's style, completions and dashboards are read from the archive."""
    seen = result(run_python(JOB, PYTHONPATH=str(package), PYTHONSAFEPATH="1"))
    assert_works(seen)
    assert str(package) in seen["file"]
    # By the job, not by a file that is none.
    assert 1 == seen["compiles"]
    commands = """
        import sys
        from jitwatch.cli import main
        from jitwatch.report import html
        assert "</style>" in html.page("title", html.Markup("")) and len(html.page("title", html.Markup(""))) > 1_000
        sys.exit(main(["completion", "bash"]) or main(["dashboards", sys.argv[1]]))
    """
    done = run_python(commands, str(tmp_path / "stack"), PYTHONPATH=str(package), PYTHONSAFEPATH="1")
    assert 0 == done.returncode, done.stderr
    assert "complete -o bashdefault" in done.stdout
    written = {path.relative_to(tmp_path / "stack").as_posix() for path in (tmp_path / "stack").rglob("*.*")}
    assert {"docker-compose.yml", "prometheus/rules/jitwatch.yml", "runbooks/Watchdog.md"} <= written
    assert not {"source", "pictures"} & {name.partition("/")[0] for name in written}


def test_no_network():
    """Not even the loopback interface is up: nothing waits for a name server, and nothing fails."""
    code = """
        import time, jitwatch
        started = time.monotonic()
        watch = jitwatch.install(port=0)
        import jax
        jax.jit(lambda x: x + 1)(1.0)
        print(watch.is_active, watch.snapshot()["totals"]["compiles"], watch.url.startswith("http://127.0.0.1:"))
    """
    apart = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    command = [*apart, sys.executable, "-c", textwrap.dedent(code)]
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    assert "True 1 True\n" == done.stdout, done.stderr


def other_client(folder: Path) -> None:
    """A later major version of prometheus-client, without some of its names."""
    (folder / "prometheus_client").mkdir()
    source = "from . import core\n__version__ = '1.0.0'\nclass CollectorRegistry: pass\n"
    (folder / "prometheus_client" / "__init__.py").write_text(source, encoding="utf-8")
    (folder / "prometheus_client" / "core.py").touch()


def shadow(folder: Path) -> None:
    """A script of the user with the name of the package, found before it by PYTHONPATH."""
    (folder / "prometheus_client.py").write_text("x = 1\n", encoding="utf-8")


@pytest.mark.parametrize("make", [other_client, shadow])
def test_unusable_prometheus_client(make, tmp_path):
    """/metrics says why it has none, once in the log, in the state, and in doctor; all else works."""
    make(tmp_path)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_python(JOB, PYTHONPATH=path, PYTHONSAFEPATH="1")
    seen = result(done)
    reason = f"{tmp_path}/prometheus_client"
    assert (True, 1, 200, 200) == (seen["active"], seen["compiles"], seen["/"][0], seen["/healthz"][0])
    assert 503 == seen["/metrics"][0]
    assert seen["/metrics"][1].startswith(reason)
    assert "cannot be used (cannot import name" in seen["/metrics"][1]
    assert 1 == done.stderr.count("jitwatch: the job continues without /metrics: ")
    assert "Traceback" not in done.stderr

    checks = """
        from jitwatch.cli import doctor
        print(*next((one.status, one.text) for one in doctor._packages() if one.name == "prometheus-client"))
    """
    done = run_python(checks, PYTHONPATH=path, PYTHONSAFEPATH="1")
    assert done.stdout.startswith(f"fail {reason}"), done.stderr
    assert "; it hides the installed prometheus-client: " in done.stdout
    assert done.stdout.endswith(" rename it, or remove its folder from PYTHONPATH\n")


@pytest.mark.parametrize("names", [("platform",), ("structlog", "psutil", "html")], ids=["of JAX", "of jitwatch"])
def test_shadowed_module(names, tmp_path):
    """Files of the user take the place of modules that are imported: the job runs, or fails as without jitwatch."""
    for name in names:
        (tmp_path / f"{name}.py").write_text("x = 1\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    job = "import jax\nprint(jax.jit(lambda x: x + 1)(1.0))"
    bare = run_python(job, PYTHONPATH=path, PYTHONSAFEPATH="1")
    watched = run_python(f"import jitwatch\njitwatch.install(port=0)\n{job}", PYTHONPATH=path, PYTHONSAFEPATH="1")
    assert (bare.returncode, bare.stdout) == (watched.returncode, watched.stdout), watched.stderr


def test_shadowed_jitwatch(tmp_path):
    """Python's own error names the file."""
    (tmp_path / "jitwatch.py").write_text("x = 1\n", encoding="utf-8")
    done = run_python("from jitwatch import install", PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1")
    assert f"cannot import name 'install' from 'jitwatch' ({tmp_path}/jitwatch.py)" in done.stderr


def test_windows_is_refused():
    """The import works, and the job runs without the agent; with `strict`, and on the command line, it is an error."""
    code = """
        import jitwatch
        watch = jitwatch.install(port=0)
        print(watch.is_active, float(jax.jit(lambda x: x + 1)(1.0)))
        try:
            jitwatch.install(strict=True)
        except jitwatch.JitwatchError as error:
            print(error)
        from jitwatch.cli import main
        print(main(["report", "logs"]))
    """
    done = run_python(LIKE_WINDOWS + textwrap.dedent(code))
    text = "Windows is not supported: use Linux, WSL or a container"
    assert f"False 2.0\n{text}\n1\n" == done.stdout, done.stderr
    assert f"jitwatch: {text}; the job runs without jitwatch\njitwatch: {text}\n" == done.stderr


def test_without_what_linux_has(tmp_path):
    """As on macOS, without /proc and epoll: everything starts, with `strict`, and `top` needs an address."""
    code = """
        watch = jitwatch.install(port=0, strict=True, event_log=sys.argv[1])
        seen = {"down": {k: v for k, v in watch.snapshot()["probes"].items() if not v["up"]}}
        jax.jit(lambda x: x + 1)(1.0)
        seen["metrics"] = urllib.request.urlopen(watch.url + "/metrics", timeout=30).read().decode()
        url = watch.url
        from jitwatch.cli import main
        code = main(["top", "--once", url])
        watch.uninstall()
        report = main(["report", "--output", sys.argv[1] + ".txt", sys.argv[1]])
        print(json.dumps(seen | {"top": code, "report": report}))
    """
    log = str(tmp_path / "events.jsonl")
    done = run_python(LIKE_MACOS + "import json, jitwatch\n" + textwrap.dedent(code), log)
    seen = result(done)
    assert ({}, 0, 0) == (seen["down"], seen["top"], seen["report"]), done.stderr
    assert "jitwatch_compiles_total" in seen["metrics"]
