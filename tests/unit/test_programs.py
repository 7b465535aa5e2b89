"""Lowered programs as files: named in the event, bounded, whole or absent."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

import jitwatch
from jitwatch.errors import ConfigError
from jitwatch.system import programs
from jitwatch.system.launchers import process_id
from jitwatch.system.programs import ProgramFiles
from tests.waiting import wait_until


def test_every_compile_of_a_user_function_is_kept_and_named(tmp_path):
    """Two compiles give two files with StableHLO; JAX's own programs are not kept."""
    import jax
    import jax.numpy as jnp

    with jitwatch.install(port=0, hlo_dir=tmp_path / "hlo") as watch:
        double = jax.jit(lambda x: x * 2)
        double(jnp.arange(3))
        double(jnp.arange(4))
        named = [event["hlo"] for event in watch.events(100) if event["event"].startswith("jit.") and "hlo" in event]
    assert sorted(named) == sorted(path.name for path in (tmp_path / "hlo").iterdir())
    first, second = ((tmp_path / "hlo" / name).read_text() for name in named)
    assert "stablehlo.multiply" in first
    assert ("tensor<3xi32>" in first, "tensor<4xi32>" in second) == (True, True)


def test_number_of_files_is_bounded(tmp_path):
    """Past the bound nothing is rendered and nothing written."""
    files = ProgramFiles(str(tmp_path), prefix="", max_files=2)
    names = [files.write("f", lambda: "text") for _ in range(2)]
    assert ["f-0001.mlir", "f-0002.mlir"] == names
    assert None is files.write("f", lambda: pytest.fail("rendered"))


def test_bytes_are_bounded(tmp_path):
    """A program that does not fit any more is left out."""
    files = ProgramFiles(str(tmp_path), prefix="", max_bytes=10)
    assert "f-0001.mlir" == files.write("f", lambda: "12345678")
    assert None is files.write("f", lambda: "12345678")
    assert ["f-0001.mlir"] == [path.name for path in tmp_path.iterdir()]


def test_names_are_safe_for_any_file_system(tmp_path):
    """Functions are named by users; files are not."""
    files = ProgramFiles(str(tmp_path), prefix="3-")
    assert "3-train._lambda_train.py_88-0001.mlir" == files.write("train.<lambda>@train.py:88", lambda: "")
    assert 120 > len(files.write("x" * 500, lambda: "") or "")


def test_failed_write_leaves_nothing(tmp_path):
    """A folder that vanished is an error of ours and leaves no half file."""
    folder = tmp_path / "gone"
    files = ProgramFiles(str(folder), prefix="")
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        files.write("f", lambda: "text")
    assert not folder.exists()


def test_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    """The user is told which option, which path, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"hlo_dir: .*cannot be created.*name a writable folder"):
        jitwatch.install(port=0, hlo_dir=tmp_path / "file" / "hlo")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_second_run_replaces_no_file_of_the_first(tmp_path):
    """Both number from 1; the second one's names begin with what identifies its process, from then on."""
    first, second = ProgramFiles(str(tmp_path), prefix="0-"), ProgramFiles(str(tmp_path), prefix="0-")
    assert "0-f-0001.mlir" == first.write("f", lambda: "first")

    names = [second.write(label, lambda: "second") for label in ("f", "g")]

    own = process_id()
    assert [f"0-{own}-f-0001.mlir", f"0-{own}-g-0002.mlir"] == names
    assert "first" == (tmp_path / "0-f-0001.mlir").read_text()
    assert sorted(["0-f-0001.mlir", *names]) == names_in(tmp_path)


def test_names_of_one_process_that_are_taken_get_a_number(tmp_path):
    """An agent that was installed again in the same process."""
    names = [ProgramFiles(str(tmp_path), prefix="").write("f", lambda: "") for _ in range(4)]

    own = process_id()
    assert ["f-0001.mlir", f"{own}-f-0001.mlir", f"{own}-f-0001-2.mlir", f"{own}-f-0001-3.mlir"] == names


@pytest.mark.parametrize("plant", ["symlink", "hardlink", "fifo", "folder"])
def test_planted_name_is_not_written_to(tmp_path, plant):
    """Whatever somebody put there stays as it is, and so does what it leads to."""
    victim, folder = tmp_path / "victim", tmp_path / "hlo"
    victim.write_text("precious")
    folder.mkdir()
    planted = folder / "f-0001.mlir"
    {
        "symlink": lambda: planted.symlink_to(victim),
        "hardlink": lambda: planted.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(planted),
        "folder": planted.mkdir,
    }[plant]()
    before = os.lstat(planted)

    name = ProgramFiles(str(folder), prefix="").write("f", lambda: "text")

    assert "text" == (folder / name).read_text()
    assert ("precious", before.st_ino) == (victim.read_text(), os.lstat(planted).st_ino)
    assert [planted.name, name] == names_in(folder)


def test_programs_are_private(tmp_path):
    """They show what a model is made of, and its constants."""
    name = ProgramFiles(str(tmp_path), prefix="").write("f", lambda: "text")
    assert 0o600 == stat.S_IMODE((tmp_path / name).stat().st_mode)


def wait_for_the_disk():
    wait_until(
        lambda: "jitwatch-files" not in [one.name for one in threading.enumerate()],
        what="the end of the thread that writes",
    )


def test_disk_that_hangs_holds_up_one_compile(tmp_path, monkeypatch):
    """The first waits for its patience, the others not; when the disk answers, files are written again."""
    release, publish = threading.Event(), programs.files.publish

    def hang(path, data):
        release.wait(30)
        publish(path, data)

    folder = ProgramFiles(str(tmp_path), prefix="", timeout_s=0.1)
    monkeypatch.setattr(programs.files, "publish", hang)
    started = time.monotonic()
    try:
        for _ in range(50):
            assert None is folder.write("f", lambda: "text")
        assert time.monotonic() - started < 3
    finally:
        release.set()
    wait_for_the_disk()
    assert "f-0051.mlir" == folder.write("f", lambda: "text")
    assert ["f-0001.mlir", "f-0051.mlir"] == names_in(tmp_path)


def test_folder_that_hangs_does_not_hold_up_install(tmp_path, monkeypatch):
    """The agent starts; what cannot be written is counted."""
    release = threading.Event()
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: release.wait(30))
    try:
        started = time.monotonic()
        ProgramFiles(str(tmp_path / "hlo"), prefix="", timeout_s=0.05)
        assert time.monotonic() - started < 5
    finally:
        release.set()
    wait_for_the_disk()
