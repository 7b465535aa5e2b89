"""The entry for Prometheus's file discovery: what is in it, when it is there, and what a broken folder does."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

import jitwatch
from jitwatch import guard
from jitwatch.errors import ConfigError
from jitwatch.exporters import discovery
from jitwatch.exporters.discovery import DiscoveryEntry, labels_of, target_of
from jitwatch.jaxhooks import compat
from tests.waiting import wait_until

HOST = socket.gethostname()


def entries(folder):
    """What Prometheus finds: the content of each *.json."""
    return [entry for path in sorted(Path(folder).glob("*.json")) for entry in json.loads(path.read_text())]


@pytest.fixture
def announce(tmp_path):
    """Make an announcement that looks after its file all the time."""
    made = []

    def make(labels=lambda: {"run": "r"}, folder=tmp_path, target="node:10431", update_s=0.01):
        one = DiscoveryEntry(str(folder), target=target, labels=labels, update_s=update_s)
        one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def test_install_with_folder_announces_the_process_until_uninstall(tmp_path):
    """Target, run, machine; a file that everybody may read, and that is gone afterwards."""
    folder = tmp_path / "made" / "for it"
    with jitwatch.install(port=0, run="night", sd_dir=folder) as watch:
        (entry,) = entries(folder)
        (path,) = folder.glob("*.json")

        assert [watch.url.removeprefix("http://")] == entry["targets"]
        labels = entry["labels"]
        assert ("night", HOST) == (labels["run"], labels["host"])
        # No process number: everybody on the machine may read it.
        assert {"run", "host", "__meta_jitwatch_written"} == set(labels)
        assert 0 < int(labels["__meta_jitwatch_written"]) <= time.time()
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
        assert [path] == list(folder.iterdir())
    assert [] == list(folder.iterdir())


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_install_without_folder_writes_nothing_and_has_no_thread(tmp_path, monkeypatch):
    """Off by default."""
    monkeypatch.chdir(tmp_path)
    with jitwatch.install(port=0):
        assert [] == [one.name for one in threading.enumerate() if one.name == "jitwatch-discovery"]
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "host", "expected"),
    [
        ("http://127.0.0.1:10431", "127.0.0.1", "127.0.0.1:10431"),
        ("http://127.0.0.1:10431", "0.0.0.0", f"{HOST}:10431"),
        ("http://[::1]:10431", "::", f"{HOST}:10431"),
        ("https://node7:9000", "node7", "node7:9000"),
        ("http://[fe80::1]:9000", "fe80::1", "[fe80::1]:9000"),
    ],
)
def test_target_is_where_others_find_it(url, host, expected):
    """Who listens on all addresses is found by the machine's name."""
    assert expected == target_of(url, host)


@pytest.mark.parametrize(
    ("url", "index", "expected"),
    [
        ("http://a:1", None, {"run": "r", "host": HOST}),
        ("http://a:1", 0, {"run": "r", "host": HOST, "process_index": "0"}),
        ("https://a:1", 3, {"run": "r", "host": HOST, "process_index": "3", "__scheme__": "https"}),
    ],
)
def test_labels_are_those_of_the_target(url, index, expected):
    """The place in the run where it is known, and TLS where it is spoken."""
    assert expected == labels_of(url, run="r", process_index=index)


def test_launchers_rank_is_the_place_until_jax_knows_better(tmp_path, monkeypatch, announce):
    """Before jax.distributed starts, the launcher's variable tells; afterwards JAX does, and the entry follows."""
    monkeypatch.setenv("SLURM_PROCID", "5")
    with jitwatch.install(port=0, sd_dir=tmp_path):
        assert "5" == entries(tmp_path)[0]["labels"]["process_index"]
    monkeypatch.setattr(compat, "process_place", lambda: (7, 8))
    with jitwatch.install(port=0, sd_dir=tmp_path):
        assert "7" == entries(tmp_path)[0]["labels"]["process_index"]


def test_entry_follows_its_labels(tmp_path, announce):
    """What becomes known later is written at the next look."""
    labels = {"run": "r"}
    announce(lambda: dict(labels))
    labels["process_index"] = "2"
    wait_until(lambda: "2" == entries(tmp_path)[0]["labels"].get("process_index"), what="the label")


def test_living_process_touches_its_entry(tmp_path, announce):
    """So that entries that are old are known to be stale; the content stays, and Prometheus need not read it."""
    one = announce()
    before = Path(one.path).read_bytes()
    os.utime(one.path, (1, 1))
    wait_until(lambda: os.stat(one.path).st_mtime > 1, what="a new time of the file")
    assert before == Path(one.path).read_bytes()


def test_entry_that_was_swept_away_comes_back(tmp_path, announce):
    """A living process is not lost when somebody cleans up too much, the folder included."""
    folder = tmp_path / "sd"
    one = announce(folder=folder)
    os.unlink(one.path)
    folder.rmdir()
    wait_until(lambda: entries(folder), what="an entry")
    assert ["node:10431"] == entries(folder)[0]["targets"]


@pytest.mark.parametrize("place", ["/proc/jitwatch", "/dev/null/sd"])
def test_folder_that_cannot_be_made_is_a_config_error(place):
    """It names the option and the folder, and nothing is left running."""
    with pytest.raises(ConfigError, match=f"sd_dir: {place} cannot be written"):
        jitwatch.install(port=0, sd_dir=place)
    assert {} == jitwatch.snapshot()


def test_folder_that_breaks_later_is_counted_and_does_no_harm(tmp_path, monkeypatch, announce):
    """The disk is full, or somebody put a file in the folder's place: counted, tried again, never raised."""
    monkeypatch.setattr(guard, "reraise", False)
    failed = threading.Event()
    guard.set_sink(lambda component: failed.set() if component == "discovery" else None)
    folder = tmp_path / "sd"
    (tmp_path / "disk").mkdir()
    folder.symlink_to(tmp_path / "disk")
    announce(folder=folder)
    (tmp_path / "file").write_text("in the way")
    # In one go: between two steps the agent would make the folder again.
    os.replace(tmp_path / "file", folder)
    try:
        assert failed.wait(20)
        folder.unlink()
        wait_until(lambda: entries(folder), what="an entry")
    finally:
        guard.set_sink(None)


def test_no_reader_ever_sees_half_an_entry(tmp_path, announce):
    """While it is written again and again, each look finds one whole entry."""
    number = [0]

    def labels():
        number[0] += 1
        return {"run": "r" * 2000, "number": str(number[0])}

    announce(labels, update_s=0.0)
    for _ in range(300):
        assert 1 == len(entries(tmp_path))


def test_folder_that_hangs_is_left_behind(tmp_path, announce, monkeypatch):
    """A dead network folder does not keep the job from ending."""
    release = threading.Event()
    one = announce(update_s=60)
    monkeypatch.setattr(os, "unlink", lambda path: release.wait(30))
    one.close(timeout_s=0.05)
    assert one._thread.is_alive()
    release.set()
    one._thread.join(20)


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hardlink", "fifo"])
def test_planted_entry_is_replaced_and_not_followed(tmp_path, announce, kind):
    """In a folder where everybody writes; neither at the start nor at a look, and its time stays as well."""
    victim, folder = tmp_path / "victim", tmp_path / "sd"
    victim.write_text("precious")
    os.utime(victim, (1, 1))
    folder.mkdir(mode=0o777)
    path = folder / f"jitwatch-{HOST}-10431.json"

    def plant():
        planted = folder / "planted"
        if kind == "hardlink":
            planted.hardlink_to(victim)
        elif kind == "fifo":
            os.mkfifo(planted)
        else:
            planted.symlink_to(victim if kind == "symlink" else tmp_path / "not there")
        # In one go: between two steps the agent would write its entry again.
        os.replace(planted, path)

    plant()
    one = announce(folder=folder, target="node:10431")
    assert str(path) == one.path
    assert stat.S_ISREG(os.lstat(path).st_mode)
    plant()
    wait_until(lambda: stat.S_ISREG(os.lstat(path).st_mode) and os.lstat(path).st_nlink == 1, what="a file of its own")
    assert ("precious", 1) == (victim.read_text(), victim.stat().st_mtime)
    assert ["sd", "victim"] == sorted(os.listdir(tmp_path))


def test_planted_draft_is_not_followed(tmp_path, announce):
    """The name that drafts had could be guessed: <entry>.<pid>.tmp."""
    victim, folder = tmp_path / "victim", tmp_path / "sd"
    victim.write_text("precious")
    folder.mkdir(mode=0o777)
    draft = folder / f"jitwatch-{HOST}-10431.json.{os.getpid()}.tmp"
    draft.symlink_to(victim)
    announce(folder=folder, target="node:10431")
    assert ("precious", True) == (victim.read_text(), draft.is_symlink())


def test_folder_in_place_of_the_entry_is_a_config_error(tmp_path):
    """And no draft is left."""
    (tmp_path / f"jitwatch-{HOST}-10431.json").mkdir()
    with pytest.raises(ConfigError, match=r"sd_dir: .* cannot be written"):
        DiscoveryEntry(str(tmp_path), target="node:10431", labels=dict).start()
    assert 1 == len(os.listdir(tmp_path))
    wait_until(
        lambda: "jitwatch-discovery" not in [one.name for one in threading.enumerate()], what="the end of the thread"
    )


def test_entry_of_the_next_process_is_not_taken_away(tmp_path, announce):
    """Only the very file that this process wrote."""
    one = announce(update_s=60)
    os.replace(one.path, tmp_path / "old")
    Path(one.path).write_text("[]")
    one.close()
    assert "[]" == Path(one.path).read_text()


def test_folder_that_hangs_does_not_hold_up_the_start(tmp_path, monkeypatch):
    """The entry is written when it answers."""
    release, replace = threading.Event(), discovery.files.replace
    monkeypatch.setattr(discovery.files, "replace", lambda *given: release.wait(30) and replace(*given))
    one = DiscoveryEntry(str(tmp_path), target="node:10431", labels=dict, first_s=0.05)
    started = time.monotonic()
    try:
        one.start()
        assert time.monotonic() - started < 5
        assert [] == entries(tmp_path)
    finally:
        release.set()
    wait_until(lambda: entries(tmp_path), what="an entry")
    one.close(timeout_s=20)


def test_failure_after_a_hang_is_counted_and_tried_again(tmp_path, monkeypatch):
    """Nobody waits for the first entry any more, so nobody can be told; the next look writes it."""
    monkeypatch.setattr(guard, "reraise", False)
    replace, calls = discovery.files.replace, []
    late = threading.Event()

    def fail_once(*given):
        calls.append(given)
        if len(calls) == 1:
            late.wait(30)
            raise OSError(5, "Input/output error")
        return replace(*given)

    monkeypatch.setattr(discovery.files, "replace", fail_once)
    one = DiscoveryEntry(str(tmp_path), target="node:10431", labels=dict, update_s=0.01, first_s=0.05)
    one.start()
    late.set()
    wait_until(lambda: entries(tmp_path), what="an entry")
    one.close(timeout_s=20)
