"""Pictures as text and figures as JSON, and jobs that are asked again and again."""

from __future__ import annotations

import json
import threading
import time

import pytest

from jitwatch.errors import ConfigError
from jitwatch.top import jobs
from jitwatch.top.fetching import Answer
from jitwatch.top.finding import Found
from jitwatch.top.frame import Frame
from jitwatch.top.jobs import Wanted, look, nothing_found, trusting
from jitwatch.top.plain import as_json, as_text
from jitwatch.top.tracking import Process
from jitwatch.top.watching import Watches
from tests.unit.top_states import URL, figures, function, health, pitfall, process, site


def test_as_text_has_lines_without_blanks_at_their_ends():
    """For a log or a pipe."""
    text = as_text(Frame(processes=[process(function())]), 80, 24)

    assert text.startswith("4711 · 127.0.0.1:10431 · up 10 min")
    assert [] == [line for line in text.split("\n") if line != line.rstrip()]
    assert text.endswith("train.train_step         1           0     1.00     –       –       1\n")


def test_as_json_has_the_figures_of_each_process():
    """Those that the screen shows, by the names that its docstring promises."""
    rows = (function(), function("train.f", recompiles=3, compiles=4, lost_seconds=2.0, is_in_storm=True))
    one = process(*rows, call_sites=[site()], pitfalls=[pitfall()], health=health(("bad", "F!"), ("warn", "G.")))
    found = json.loads(as_json([one, Process("http://node7:1", "new", 3.0, "no answer within 5 s")]))
    first, second = found["processes"]

    assert ["processes", "schema", "time"] == sorted(found)
    assert (1, URL, "live", "") == (found["schema"], first["url"], first["status"], first["problem"])
    assert [{"level": "bad", "sentence": "F!"}, {"level": "warn", "sentence": "G."}] == first["health"]
    assert [{"level": "gone", "sentence": "no answer within 5 s."}] == second["health"]
    assert ["train.f", "train.train_step"] == [row["function"] for row in first["figures"]["functions"]]
    assert (4711, 5, 3, 1) == (
        int(first["figures"]["run"]), first["figures"]["compiles"], first["figures"]["recompiles"],
        first["figures"]["storms_active"],
    )  # fmt: skip
    assert (None, "new", 3.0) == (second["figures"], second["status"], second["quiet_seconds"])


def test_as_json_names_are_those_of_its_docstring():
    """All of them, and no other."""
    one = process(
        function(), call_sites=[site()], pitfalls=[pitfall()],
        in_progress=[{"function": "f", "phase": "trace", "for_s": 1.0}],
    )  # fmt: skip
    found = json.loads(as_json([one]))
    names = set(found) | set(found["processes"][0]) | set(found["processes"][0]["figures"])
    for part in ("in_progress", "functions", "newest_recompiles", "pitfalls"):
        names |= set(found["processes"][0]["figures"][part][0])
    names |= set(found["processes"][0]["figures"]["memory"]) | set(found["processes"][0]["health"][0])

    assert set() == {
        name for name in names if f"`{name}`" not in as_json.__doc__ and f'"{name}"' not in as_json.__doc__
    }


@pytest.fixture
def watches():
    """Watched jobs that are asked all the time; their threads have ended when the test has."""
    found = Watches(0.001)
    yield found
    found.end()
    deadline = time.monotonic() + 10
    while any(one.name.startswith("jitwatch-top") for one in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_watches_ask_again_and_one_thing_at_a_time(watches):
    """However often a job is added, a single thread asks it."""
    asked = threading.Semaphore(0)

    def ask():
        asked.release()
        return Answer(figures(function()))

    for _ in range(3):
        watches.add(URL, ask)
    for _ in range(5):
        assert asked.acquire(timeout=10)

    assert [f"jitwatch-top-{URL}"] == [one.name for one in threading.enumerate() if one.name.startswith("jitwatch-top")]
    assert [URL] == watches.urls() == watches.living()


def test_watches_show_what_was_answered(watches):
    """All of them, when each has answered once."""
    watches.add(URL, lambda: Answer(figures(function())))
    watches.add("http://node7:1", lambda: Answer(problem="nothing listens there", is_gone=True))
    watches.wait_for_all(10)

    assert [(URL, "live"), ("http://node7:1", "new")] == [(one.url, one.status) for one in watches.processes()]
    assert watches.answers() >= 2


def test_watches_ask_nothing_while_paused(watches):
    """The job is left alone, and asked again when it goes on."""
    asked = threading.Semaphore(0)

    def ask():
        asked.release()
        return Answer()

    watches.pause(True)
    watches.add(URL, ask)

    assert not asked.acquire(timeout=0.3)
    watches.pause(False)
    assert asked.acquire(timeout=10)


def test_look_sends_the_token_to_our_own_processes_only(watches, monkeypatch):
    """Anybody on the machine can listen on a port and call himself jitwatch."""
    sent = {}

    def fake_asker(url, *, token, ca):
        sent[url] = token
        return Answer

    monkeypatch.setattr(jobs, "asker", fake_asker)
    monkeypatch.setattr(
        jobs, "find", lambda *_, **__: [Found("http://127.0.0.1:1", True), Found("http://127.0.0.1:2", False)]
    )
    look(Wanted(token="secret"), watches)
    look(Wanted(urls=("http://127.0.0.1:3",), token="secret"), watches)

    assert {"http://127.0.0.1:1": "secret", "http://127.0.0.1:2": None, "http://127.0.0.1:3": "secret"} == sent


def test_wanted_does_not_show_its_token():
    """In no traceback."""
    assert "secret" not in repr(Wanted(token="secret"))


def test_nothing_found_says_where_it_looked_and_what_to_do():
    """In a sentence or two."""
    assert (
        "No job with jitwatch answers on this machine at the ports 10431 to 10494 of 127.0.0.1. "
        "Start one with: jitwatch run train.py, or give another port or address: jitwatch top 9000 node7:10431"
    ) == nothing_found(Wanted())


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_trusting_refuses_a_file_without_certificates(tmp_path, content):
    """And says what it should be."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"--ca: .*ca\.pem cannot be used .*; give a PEM file with certificates"):
        trusting(str(path))
