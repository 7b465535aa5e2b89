"""`jitwatch top` in a real terminal, with real jobs; and as text and JSON for pipes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jitwatch.top.view import width
from tests.integration import jobs
from tests.integration.conftest import free_port, running_job
from tests.integration.terminal import WAIT_S, running_terminal
from tests.waiting import wait_until

pytestmark = pytest.mark.server

TOP = [sys.executable, "-m", "jitwatch", "top"]
#: What is said of a job that has compiled each function once; on a slow machine it compiles most of its time.
NOTHING_WRONG = r"^(✓ Healthy: no function has recompiled|◐ Compiling took )"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])[;m]")


def command(*arguments: str, **variables: str) -> str:
    """What is typed into the shell."""
    return shlex.join(["env", *(f"{name}={value}" for name, value in variables.items()), *TOP, *arguments])


def top(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command with its output in a pipe."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
    return subprocess.run(
        [*TOP, *arguments], env={**kept, **variables}, capture_output=True, text=True, encoding="utf-8", timeout=60
    )


@contextlib.contextmanager
def idle_job(path: Path, program: str = jobs.IDLE, **options):
    with running_job(path, program, **options) as job:
        yield job, job.line()["url"]


@contextlib.contextmanager
def misbehaving_job(folder: Path):
    with running_job(folder / "train.py", jobs.MISBEHAVES, arguments=[str(folder)]) as job:
        url = job.line()["url"]
        # From then on it knows how long a step takes.
        wait_until(lambda: step_of(url) > 2, timeout_s=WAIT_S, what="steps of the job")
        yield url


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory):
    """Address of a job that goes on making every mistake."""
    with misbehaving_job(tmp_path_factory.mktemp("misbehaves")) as url:
        yield url


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """Address of a job that does nothing."""
    with idle_job(tmp_path_factory.mktemp("idle") / "idle.py") as (_, url):
        yield url


@pytest.fixture
def terminal(tmp_path):
    """A shell on a screen of 80 by 24."""
    with running_terminal(tmp_path) as one:
        yield one


def fits(lines: list[str], columns: int, rows: int) -> bool:
    """Whether a screen is filled by its own lines, none of them broken by the terminal."""
    return len(lines) == rows and all(width(line) <= columns for line in lines)


class TestScreen:
    """The live view."""

    def test_misbehaving_job_is_reported_in_80_by_24(self, terminal, tmp_path):
        """Who runs, what is wrong, the table, the newest recompiles and what to change, each in its place."""
        # A job of its own: after some minutes more functions are in a storm, and long names take the room.
        with misbehaving_job(tmp_path) as url:
            terminal.type(command(url, "--interval", "0.5"))
            terminal.wait_for(r"^- (\d+ s ago|just now): \w+ at train\.py:\d+: \w+ \d+ → \d+")
            lines = terminal.wait_for(r"^✗ \w+.* in a recompile storm:( |$)")
        text = "\n".join(lines)

        assert fits(lines, 80, 24), text
        assert re.match(r"✗ Memory ran out ", lines[0]), text
        title = r"^misbehaves · 127\.0\.0\.1:\d+ · up [\d a-z]+ · step [\d,]+, \d+ ms each$"
        assert re.search(title, text, re.MULTILINE), text
        counts = r"^\d+ compiles · \d+ recompiles · compiling \d+ % of the time · \d storms? now"
        assert re.search(counts, text, re.MULTILINE), text
        assert re.search(r"\d+ donation violations · gpu:0 [\d.]+ GiB of 80 GiB", text), text
        assert re.search(r"^─Functions by lost \(\d+\)─+$", text, re.MULTILINE), text
        head = "^function( +compiles)? +recompiles +seconds +lost +of run( +cached)? +cause"
        assert re.search(head, text, re.MULTILINE), text
        row = r"^\S*sample( +\d+){1,2} +\d+\.\d\d +\d+\.\d\d +\S+ \S*%?( +\d+)? +static_arg"
        assert re.search(row, text, re.MULTILINE), text
        assert re.search(r"^─Advice \(\d+\)─+$", text, re.MULTILINE), text
        assert any(line.startswith("  → ") for line in lines), text
        assert " q quit  s sort by lost  p pause  f r c show one part" == lines[-1]

    def test_screen_follows_the_size_of_the_terminal(self, terminal, misbehaving):
        """More where there is room, less where there is none, whatever size the environment claims; no broken line."""
        terminal.type(command(misbehaving, COLUMNS="80", LINES="24"))
        terminal.wait_for("^function .* cause$")
        small = len([line for line in terminal.lines() if line])
        terminal.resize(120, 40)
        wide = terminal.wait_for_picture(40, " cached ")
        terminal.resize(60, 20)
        narrow = terminal.wait_for_picture(20, "^function +recompiles")

        assert fits(wide, 120, 40), "\n".join(wide)
        assert small < len([line for line in wide if line])
        assert fits(narrow, 60, 20), "\n".join(narrow)
        assert any(line.startswith("✗ ") for line in narrow)

    def test_keys_sort_and_pause(self, terminal, misbehaving):
        """The order is named; while paused nothing moves, and afterwards it goes on."""
        terminal.type(command(misbehaving, "--interval", "0.2"))
        terminal.wait_for("s sort by lost")
        terminal.press("s")
        terminal.wait_for("s sort by seconds")
        terminal.press("p")
        paused = terminal.wait_for("p resume  paused")
        before = step_of(misbehaving)
        wait_until(lambda: step_of(misbehaving) > before + 20, what="steps of the job")

        assert paused == terminal.lines()
        terminal.press("p")
        terminal.wait_for("p pause")
        wait_until(lambda: terminal.lines()[:-1] != paused[:-1], timeout_s=WAIT_S, what="new figures")

    @pytest.mark.parametrize("end", ["q", "C-c", signal.SIGTERM, signal.SIGHUP])
    def test_terminal_is_left_as_it_was(self, terminal, idle, tmp_path, end):
        """By q, by Ctrl-C, and when it is killed: the old screen, the cursor, the echo."""
        terminal.type("stty -a > before; echo what was before")
        terminal.wait_for("^what was before")
        terminal.type(f"{command(idle)}; echo code=$?")
        terminal.wait_for("^idle · ")
        assert "1" == terminal.flag("alternate_on")
        if isinstance(end, str):
            terminal.press(end)
        else:
            os.kill(child_of(terminal), end)
        terminal.wait_for_shell()
        lines = terminal.wait_for(rf"^code={0 if isinstance(end, str) else 128 + end}$")

        assert any(line.startswith("what was before") for line in lines)
        terminal.type("stty -a > after; echo compared")
        terminal.wait_for("^compared")
        assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()

    def test_stopped_view_gives_the_terminal_back_and_goes_on(self, terminal, idle):
        """By Ctrl-Z, as other programs that use the whole screen."""
        terminal.type(command(idle))
        terminal.wait_for("^idle · ")
        terminal.press("C-z")
        terminal.wait_for_shell()
        terminal.type("echo $((6 * 7)) in between")
        terminal.wait_for("^42 in between")
        terminal.type("fg")
        terminal.wait_for("^idle · ")
        assert "1" == terminal.flag("alternate_on")
        terminal.press("s")
        terminal.wait_for("s sort by seconds")

    def test_job_that_ends_is_reported_and_comes_back(self, terminal, tmp_path):
        """With its last figures while it is gone, and as a new one when another starts at the same address."""
        port = str(free_port())
        with idle_job(tmp_path / "many.py", jobs.MANY, arguments=[port]):
            terminal.type(command(port, "--interval", "0.3"))
            terminal.wait_for(NOTHING_WRONG)
        lines = terminal.wait_for(rf"^– Ended .*: nothing listens at 127\.0\.0\.1:{port} any more\.$")
        assert any(line.startswith(f"many · 127.0.0.1:{port} · up ") for line in lines)
        assert any("f_" in line for line in lines)
        with idle_job(tmp_path / "many.py", jobs.MANY, arguments=[port]):
            terminal.wait_for(NOTHING_WRONG)

    def test_job_that_hangs_is_reported(self, terminal, tmp_path):
        """It is not taken for one that has ended, and not for one that is well."""
        with idle_job(tmp_path / "idle.py") as (job, url):
            terminal.type(command(url, "--interval", "0.3"))
            terminal.wait_for("^✓ Healthy")
            job.process.send_signal(signal.SIGSTOP)
            try:
                terminal.wait_for(r"^! Not responding for \d+ s: no response within 5 s\.$")
            finally:
                job.process.send_signal(signal.SIGCONT)
            terminal.wait_for("^✓ Healthy")

    def test_jobs_are_found_when_they_start(self, terminal, tmp_path):
        """Before that, it says what to do."""
        port = str(free_port())
        terminal.type(command(JITWATCH_PORT=port))
        terminal.wait_for("^No job with jitwatch responds on this machine")
        with idle_job(tmp_path / "many.py", jobs.MANY, arguments=[port]):
            lines = terminal.wait_for(NOTHING_WRONG)
            assert any("many" in line for line in lines[:3])

    def test_two_processes_have_a_row_each(self, terminal, tmp_path):
        """A row each, their functions summed and marked where they differ; tab looks at one of them."""
        coordinator = f"127.0.0.1:{free_port()}"
        with contextlib.ExitStack() as running:
            both = [
                running.enter_context(
                    running_job(tmp_path / f"{index}.py", jobs.ONE_OF_TWO, arguments=[str(index), coordinator])
                )
                for index in (0, 1)
            ]
            urls = [job.line()["url"] for job in both]
            for job in both:
                job.tell()
                job.line()
            terminal.type(command(*urls, "--interval", "0.5"))
            lines = terminal.wait_for(r"train_step +3 \(1–2\) +1 \(0–1\)")
            text = "\n".join(lines)
            assert fits(lines, 80, 24), text
            assert re.search(r"^ ✓ both/0 ", text, re.MULTILINE), text
            assert re.search(r"^ ! both/1 ", text, re.MULTILINE), text
            assert "! both/1: train_step recompiled once in the last" in text
            terminal.press("Tab", "Tab")
            lines = terminal.wait_for("tab process: both/1 ")
            assert any(line.startswith("▸! both/1 ") for line in lines)
            assert any(re.search(r"train_step +2 +1 ", line) for line in lines)
            terminal.press("Up")
            terminal.wait_for("^▸✓ both/0 ")

    def test_no_colours_where_they_are_not_wanted(self, terminal, misbehaving):
        """NO_COLOR leaves the marks; without it there are colours."""
        terminal.type(command(misbehaving))
        terminal.wait_for("^✗ ")
        assert any(COLOUR.search(line) for line in terminal.lines(styles=True))
        terminal.press("q")
        terminal.wait_for_shell()
        terminal.type(command(misbehaving, NO_COLOR="1"))
        wait_until(lambda: terminal.flag("alternate_on") == "1", what="the screen")
        terminal.wait_for("^✗ ")
        assert [] == [line for line in terminal.lines(styles=True) if COLOUR.search(line)]

    def test_dumb_terminal_gets_plain_text_again_and_again(self, terminal, idle, tmp_path):
        """It cannot move its cursor: no escape is sent. `q` and Enter end it."""
        (tmp_path / "sent").touch()
        terminal.tmux("pipe-pane", f"cat > {tmp_path / 'sent'}")
        terminal.type(command(idle, "--interval", "0.3", TERM="dumb") + "; echo code=$?")
        wait_until(lambda: (tmp_path / "sent").read_text().count("Healthy:") >= 2, what="two texts")
        terminal.press("q", "Enter")
        terminal.wait_for("^code=0")

        printed = (tmp_path / "sent").read_text().partition("idle · ")[2].partition("code=")[0]
        assert "\x1b" not in printed

    def test_missing_textual_is_reported(self, terminal, idle, tmp_path):
        """The message says what to install; text and JSON do without."""
        path = without_textual(tmp_path)
        terminal.resize(160, 24)
        terminal.type(command(idle, PYTHONPATH=path) + "; echo code=$?")
        lines = terminal.wait_for("^code=1$")

        assert any("the live view needs textual; run: " in line for line in lines)
        assert not any("Traceback" in line for line in lines)
        assert 0 == top(idle, "--once", PYTHONPATH=path).returncode
        assert 0 == top(idle, "--json", PYTHONPATH=path).returncode


class TestPipe:
    """Without a terminal."""

    @pytest.mark.parametrize("arguments", [[], ["--once"]])
    def test_picture_is_plain_text(self, misbehaving, arguments):
        """One of them, with no escape, within a hundred columns."""
        done = top(misbehaving, *arguments)
        lines = done.stdout.splitlines()

        assert (0, "") == (done.returncode, done.stderr)
        assert lines[0].startswith("misbehaves · 127.0.0.1:")
        assert any(line.startswith("✗ ") for line in lines)
        assert any(line.startswith("Advice") for line in lines)
        assert "\x1b" not in done.stdout
        assert 100 >= max(map(width, lines))

    def test_json_is_one_object(self, misbehaving, idle):
        """With a process for each address."""
        done = top("--json", misbehaving, idle)
        found = json.loads(done.stdout)
        by_run = {one["figures"]["run"]: one for one in found["processes"]}

        assert (0, "") == (done.returncode, done.stderr)
        assert {"misbehaves", "idle"} == set(by_run)
        assert ("live", "good") == (by_run["idle"]["status"], by_run["idle"]["health"][0]["level"])
        assert by_run["misbehaves"]["figures"]["recompiles"] > 50
        assert "shape" in {cause for row in by_run["misbehaves"]["figures"]["functions"] for cause in row["causes"]}

    def test_reader_may_have_seen_enough(self, misbehaving):
        """`| head -1` is no reason for a traceback."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JITWATCH_")}
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as closed:
            done = subprocess.run(
                [*TOP, misbehaving, "--once"], env=kept, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
            )

        assert (1, "") == (done.returncode, done.stderr)

    def test_output_may_lack_our_characters(self, misbehaving):
        """An old terminal shows question marks, and no traceback."""
        done = top(misbehaving, "--once", PYTHONIOENCODING="ascii")

        assert (0, "") == (done.returncode, done.stderr)
        assert done.stdout.isascii()

    def test_strange_names_are_shown_as_they_are(self, tmp_path):
        """Brackets are no markup, and a lambda has its place."""
        port = str(free_port())
        # As few as are all shown, whatever each of them took to compile.
        few = jobs.MANY.replace("range(105)", "range(20)")
        with idle_job(tmp_path / "few.py", few, arguments=[port]) as (_, url):
            text = top(url, "--once").stdout

        assert "{brace} [x] (y) $z ^a" in text
        assert "more function" not in text
        assert re.search(r"<lambda>", text)

    def test_no_job_is_reported_on_stderr(self):
        """With what to do, and exit code 1; the JSON is there even so."""
        port = str(free_port())
        text, as_json = top("--once", JITWATCH_PORT=port), top("--json", JITWATCH_PORT=port)

        assert (1, "") == (text.returncode, text.stdout)
        where = f"on this machine (127.0.0.1, ports {port} to "
        assert text.stderr.startswith(f"jitwatch: No job with jitwatch responds {where}")
        assert "jitwatch run train.py" in text.stderr
        assert (1, []) == (as_json.returncode, json.loads(as_json.stdout)["processes"])

    def test_job_that_does_not_answer_is_reported(self):
        """Which and why, and exit code 1 since there is nothing to see."""
        port = free_port()
        done = top(str(port), "--once")

        assert (1, f"127.0.0.1:{port}\n– nothing listens there.\n") == (done.returncode, done.stdout)

    def test_bad_address_is_an_error(self):
        """One line that says what was expected."""
        done = top("node7:x", "--once")

        assert (1, "") == (done.returncode, done.stdout)
        assert done.stderr.startswith("jitwatch: expected a port, host:port or http(s)://host:port, got 'node7:x'")
        assert 1 == done.stderr.count("\n")

    def test_jobs_of_this_machine_are_found(self, tmp_path):
        """At the port that JITWATCH_PORT names, or one of those after it."""
        port = free_port()
        with idle_job(tmp_path / "many.py", jobs.MANY, arguments=[str(port)]) as (_, url):
            done = top("--json", JITWATCH_PORT=str(max(port - 3, 1)))

        assert url in [one["url"] for one in json.loads(done.stdout)["processes"]]

    def test_token_comes_from_a_file_or_the_environment(self, tmp_path):
        """Without it, or with a wrong one, it says so; it is in no output."""
        (tmp_path / "token").write_text("s3cret\n")
        with idle_job(tmp_path / "idle.py", JITWATCH_TOKEN="s3cret") as (_, url):
            by_file, by_variable = (
                top(url, "--once", "--token-file", str(tmp_path / "token")),
                top(url, "--once", JITWATCH_TOKEN="s3cret"),
            )
            none, wrong = top(url, "--once"), top(url, "--once", JITWATCH_TOKEN="other")

        assert (0, 0) == (by_file.returncode, by_variable.returncode)
        assert by_file.stdout.startswith("idle · ")
        assert "– it needs a token: use --token-file or JITWATCH_TOKEN." in none.stdout
        assert "– the token is not accepted." in wrong.stdout
        assert "s3cret" not in by_file.stdout + by_variable.stdout + none.stdout + wrong.stdout

    def test_https_needs_a_certificate_that_is_trusted(self, tmp_path):
        """Given with --ca; without, it says what is wrong."""
        key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=job",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
            check=True, capture_output=True,
        )  # fmt: skip
        with idle_job(tmp_path / "idle.py", JITWATCH_TLS_CERT=str(cert), JITWATCH_TLS_KEY=str(key)) as (_, url):
            trusted, untrusted = top(url, "--once", "--ca", str(cert)), top(url, "--once")
            plain = top(url.replace("https", "http"), "--once")

        assert url.startswith("https://127.0.0.1:")
        assert (0, "idle") == (trusted.returncode, trusted.stdout.partition(" ")[0])
        assert re.search(r"– its certificate is not trusted \(.*\): use --ca\.", untrusted.stdout)
        assert re.search("– the connection was closed; if the port serves https, use", plain.stdout)

    def test_jax_is_never_imported(self, idle):
        """The view starts in no time, and on a machine without JAX."""
        program = (
            "import sys, jitwatch.cli as cli\n"
            "code = cli.main(sys.argv[1:])\n"
            "heavy = {'jax', 'jaxlib', 'numpy', 'prometheus_client', 'structlog', 'textual', 'rich'}\n"
            "print(code, sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "top", "--once", idle], capture_output=True, text=True, timeout=60
        )

        assert "0 []" == done.stdout.splitlines()[-1]


def step_of(url: str) -> int:
    """How far the job is; 0 before its first step."""
    return json.loads(top(url, "--json").stdout)["processes"][0]["figures"]["step"] or 0


def child_of(terminal) -> int:
    """Process of the command that runs in the shell."""
    shell = terminal.flag("pane_pid")
    return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[-1])


def without_textual(folder: Path) -> str:
    """A path on which textual is not installed."""
    package = folder / "hidden" / "textual"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'textual'\", name='textual')\n")
    return os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
