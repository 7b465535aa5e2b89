"""Lowered programs as files: named in the event, bounded, whole or absent."""

from __future__ import annotations

import pytest

import jitwatch
from jitwatch import programs
from jitwatch.errors import ConfigError
from jitwatch.programs import ProgramFiles


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


def test_number_of_files_is_bounded(tmp_path, monkeypatch):
    """Past the bound nothing is rendered and nothing written."""
    monkeypatch.setattr(programs, "MAX_FILES", 2)
    files = ProgramFiles(str(tmp_path), prefix="")
    names = [files.write("f", lambda: "text") for _ in range(2)]
    assert ["f-0001.mlir", "f-0002.mlir"] == names
    assert None is files.write("f", lambda: pytest.fail("rendered"))


def test_bytes_are_bounded(tmp_path, monkeypatch):
    """A program that does not fit any more is left out."""
    monkeypatch.setattr(programs, "MAX_BYTES", 10)
    files = ProgramFiles(str(tmp_path), prefix="")
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
    with pytest.raises(ConfigError, match=r"hlo_dir: .*cannot be made.*name a folder that can be written"):
        jitwatch.install(port=0, hlo_dir=tmp_path / "file" / "hlo")
