"""Why the persistent cache did not have a program: two runs for each reason, with a real cache in a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.process.running import run_python

#: A job that compiles one function, or those that `names` lists; the settings are JSON in an argument.
JOB = """
    import json, os, sys
    settings = json.loads(sys.argv[1])
    for name, value in settings.get("environ", {}).items():
        os.environ[name] = value
    import jitwatch
    watch = jitwatch.install(port=0, sample_interval_s=3600, **settings.get("options", {"event_log": "log/"}))
    import jax, jax.numpy as jnp, numpy as np
    from jax._src import cache_key
    config = {
        "jax_compilation_cache_dir": "cache",
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        **settings.get("config", {}),
    }
    for name, value in config.items():
        jax.config.update(name, value)
    if "jaxlib" in settings:
        import jaxlib
        cache_key.jaxlib_version_str = jaxlib.__version__ = settings["jaxlib"]
    if "hook" in settings:
        cache_key.custom_hook = lambda: settings["hook"]

    scaled = lambda w: w * 2
    if "partitioned" in settings:
        from jax.experimental.custom_partitioning import custom_partitioning
        scaled = custom_partitioning(lambda w: w * 2)
        scaled.def_partition(
            partition=lambda mesh, args, result: (mesh, lambda w: w * 2, args[0].sharding, (args[0].sharding,)),
            infer_sharding_from_operands=lambda mesh, args, result: args[0].sharding,
            sharding_rule="i j -> i j",
        )

    def made(name):
        def step(w, x):
            if settings.get("prints"):
                jax.debug.callback(lambda value: None, x[0, 0])
            return scaled(w) - settings.get("rate", 0.001) * jnp.sin(w @ x).sum()
        step.__name__ = step.__qualname__ = name
        return jax.jit(step, **settings.get("jit", {}))

    def put(x):
        if "mesh" not in settings:
            return x
        mesh = jax.make_mesh((settings["mesh"],), ("a",))
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a")))

    shape = 8, settings.get("size", 8)
    for name in settings.get("names", ["step"]):
        made(name)(put(np.ones((8, 8), np.float32)), np.ones(shape, np.float32))
    jitwatch.uninstall()
    state, found = watch.snapshot(), {}
    for record in watch.events():
        if record["event"] in ("jit.compiled", "jit.recompiled") and record["name"] != "<lambda>":
            found[record["name"]] = {
                "result": record["persistent_cache"],
                "reason": record.get("persistent_cache_reason", ""),
                "text": record.get("persistent_cache_explanation", ""),
            }
        elif record["event"] == "jit.cache_missed":
            assert not record.get("is_counted") or found[record["name"]]["reason"] == record["reason"], record
            found[record["name"]] |= {"reason": record["reason"], "text": record["explanation"]}
    print(json.dumps({"found": found, "state": state["persistent_cache"], "errors": [
        one for one in state["metrics"].get("jitwatch_agent_errors_total", []) if one["value"]
    ], "metrics": {
        one["labels"]["reason"]: one["value"]
        for one in state["metrics"].get("jitwatch_persistent_cache_miss_reasons_total", []) if one["value"]
    }}))
"""


def command(settings: dict[str, Any]) -> list[str]:
    return [sys.executable, "-W", "ignore", "job.py", json.dumps(settings)]


def started(folder: Path, **settings: Any) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(textwrap.dedent(JOB), encoding="utf-8")
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.Popen(command(settings), cwd=folder, env=environ, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=120)
    assert 0 == process.returncode
    answer: dict[str, Any] = json.loads(out)
    assert [] == answer["errors"]
    return answer


def run(folder: Path, **settings: Any) -> dict[str, Any]:
    """Run the job in a folder; return what it reports about each function, the state and the metric."""
    return ended(started(folder, **settings))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache, the log and the index of an earlier run."""
    folder = tmp_path_factory.mktemp("earlier")
    answer = run(folder)
    assert {"result": "miss", "reason": "first_time"}.items() <= answer["found"]["step"].items()
    assert "The function was compiled for the first time with this cache." == answer["found"]["step"]["text"]
    assert {"first_time": 1.0} == answer["metrics"]
    return folder


@pytest.fixture
def folder(earlier: Path, tmp_path: Path) -> Path:
    """A copy of this folder."""
    return Path(shutil.copytree(earlier, tmp_path / "run"))


def entry_of(folder: Path, name: str = "jit_step") -> Path:
    """The file of the cache for a program."""
    (found,) = (folder / "cache").glob(f"{name}-*-cache")
    return found


CHANGES: list[Any] = [
    ("program", {"rate": 0.002}, r"The program changed: the constant 0.001 changed to 0.002\."),
    ("program", {"jit": {"donate_argnums": 0}}, r"The program changed: argument 0 is donated now\."),
    (
        "xla_flags",
        {"environ": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true --xla_dump_to=dump"}},
        r"XLA flags changed: --xla_cpu_enable_fast_math=true was added\.",
    ),
    ("version", {"jaxlib": "0.0.7"}, r"The version of jaxlib changed from [\d.]+ to 0\.0\.7\."),
    (
        "compile_options",
        {"jit": {"compiler_options": {"xla_cpu_enable_fast_math": True}}},
        "The compile options changed",
    ),
    ("other", {"hook": "mine"}, "The custom hook of the key .* returned a different string"),
    (
        "first_time",
        {"size": 16},
        r"It was compiled for these arguments for the first time: argument 1 changed from float32\[8,8\] to "
        r"float32\[8,16\]",
    ),
    ("first_time", {"names": ["other"]}, "The function was compiled for the first time with this cache"),
    (
        "short_compile",
        {"rate": 0.5, "config": {"jax_persistent_cache_min_compile_time_secs": 100.0}},
        r"The program changed: .*\. It was not written to the cache either: its compile took .* s, and "
        r"jax_persistent_cache_min_compile_time_secs is 100 s\. To write",
    ),
    (
        "small_entry",
        {"rate": 0.5, "config": {"jax_persistent_cache_min_entry_size_bytes": 2**30}},
        "it is smaller than jax_persistent_cache_min_entry_size_bytes",
    ),
]


@pytest.mark.parametrize(("reason", "settings", "text"), CHANGES)
def test_what_changed_since_the_earlier_run_is_said(folder, reason, settings, text):
    """The reason is in the record, in words, in the state and in the metric."""
    answer = run(folder, **settings)
    (found,) = answer["found"].values()
    assert ("miss", reason) == (found["result"], found["reason"])
    assert re.search(text, found["text"]), found["text"]
    assert {reason: 1.0} == answer["metrics"]
    assert {reason: 1} == answer["state"]["reasons"]
    assert found["text"] == answer["state"]["missed"][0]["explanation"]


def test_hit_says_nothing_and_flags_without_effect_change_nothing(folder):
    answer = run(folder, environ={"XLA_FLAGS": "--xla_dump_to=dump"})
    assert {"step": {"result": "hit", "reason": "", "text": ""}} == answer["found"]
    assert ({}, [], {}) == (answer["state"]["reasons"], answer["state"]["missed"], answer["metrics"])
    assert "hit" == run(folder)["found"]["step"]["result"]


def test_all_changes_are_named(folder):
    """Of two earlier programs, the one with more equal parts is compared."""
    flags = "--xla_cpu_enable_fast_math=true --xla_cpu_multi_thread_eigen=false"
    run(folder, names=["second"], environ={"XLA_FLAGS": flags})
    changed = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    found = run(folder, names=["second"], environ=changed, rate=0.002)["found"]["second"]
    assert "xla_flags" == found["reason"]
    assert (
        "XLA flags changed: --xla_cpu_multi_thread_eigen=false was removed, and --xla_cpu_enable_fast_math changed "
        "from true to false, and the program changed: the constant 0.001 changed to 0.002." == found["text"]
    )


TWO_DEVICES: dict[str, Any] = {"mesh": 2, "environ": {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}}


def test_other_devices(folder):
    """The program runs on two devices now."""
    found = run(folder, **TWO_DEVICES)["found"]["step"]
    assert "topology" == found["reason"]
    assert found["text"].startswith("The devices changed from 1 cpu device to 2 cpu devices, and the program changed: ")
    assert "compile options" not in found["text"]


def test_address_of_a_callback_in_the_key(tmp_path):
    """Each process has a different key, unless the option of the advice is set."""
    settings = {"partitioned": True, **TWO_DEVICES}
    assert "first_time" == run(tmp_path, **settings)["found"]["step"]["reason"]
    found = run(tmp_path, **settings)["found"]["step"]
    if found["result"] == "miss":  # the address may be the same by chance
        assert "program" == found["reason"]
        assert "The program contains the address of a callback" in found["text"]
        assert 'jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)' in found["text"]

    advised = {"jax_remove_custom_partitioning_ptr_from_cache_key": True}
    run(tmp_path, config=advised, **settings)
    assert "hit" == run(tmp_path, config=advised, **settings)["found"]["step"]["result"]


def test_evicted_entry(folder):
    entry_of(folder).unlink()
    found = run(folder)["found"]["step"]
    assert "evicted" == found["reason"]
    assert "It was written before, but is no longer in cache: it was evicted or deleted." in found["text"]


def test_another_folder(folder):
    """Up to JAX 0.10, the folder is part of the key, since it is the path of XLA's own autotuning cache."""
    moved = {"jax_compilation_cache_dir": "elsewhere"}
    found = run(folder, config=moved)["found"]["step"]
    assert found["reason"] in ("compile_options", "evicted")
    assert "jax_compilation_cache_dir was cache and is elsewhere now" in found["text"]
    if found["reason"] == "compile_options":
        assert "since they include the folder of the cache" in found["text"]
        assert 'call jax.config.update("jax_persistent_cache_enable_xla_caches", "none")' in found["text"]

    # As advised.
    without = {"jax_persistent_cache_enable_xla_caches": "none"}
    run(folder, config=without)
    found = run(folder, config={"jax_compilation_cache_dir": "third", **without})["found"]["step"]
    assert "evicted" == found["reason"]
    assert (
        "It was written to a different folder: jax_compilation_cache_dir was cache and is third now." == found["text"]
    )
    shutil.copytree(folder / "cache", folder / "fourth")
    answer = run(folder, config={"jax_compilation_cache_dir": "fourth", **without})
    assert "hit" == answer["found"]["step"]["result"]


def test_program_that_was_only_read_is_remembered(tmp_path):
    """The cache had the program before there was an index: the part that changed later is known, but not how."""
    run(tmp_path, options={})
    assert "hit" == run(tmp_path)["found"]["step"]["result"]
    found = run(tmp_path, rate=0.002)["found"]["step"]
    assert "program" == found["reason"]
    assert "The program changed (it could not be compared with the earlier one)." == found["text"]


def test_not_written_before(tmp_path):
    """The first run names the minimum; the second run, which writes the program, names it as well."""
    first = run(tmp_path, config={"jax_persistent_cache_min_compile_time_secs": 100.0})["found"]["step"]
    second = run(tmp_path)["found"]["step"]
    assert ["short_compile"] * 2 == [first["reason"], second["reason"]]
    assert "It was not written to the cache: its compile took" in first["text"]
    assert "It was compiled before, but not written to the cache: its compile took" in second["text"]
    assert "jax_persistent_cache_min_compile_time_secs was 100 s" in second["text"]
    assert "hit" == run(tmp_path)["found"]["step"]["result"]


def test_corrupted_entry(folder):
    entry_of(folder).write_bytes(b"\0")
    found = run(folder)["found"]["step"]
    assert "read_failed" == found["reason"]
    assert re.search(r"Reading it failed \(\w+: .*\)\. JAX does not replace an entry", found["text"])


def test_failed_write(folder):
    """The entry is a link into a folder that does not exist."""
    entry = entry_of(folder)
    entry.unlink()
    entry.symlink_to("/nonexistent/entry")
    found = run(folder)["found"]["step"]
    assert "write_failed" == found["reason"]
    assert re.search(r"writing failed \(FileNotFoundError: .*nonexistent|writing failed \(FileNotFound", found["text"])


def test_folder_that_cannot_be_used(folder):
    """A file has the name of the folder."""
    answer = run(folder, names=["step", "second"], config={"jax_compilation_cache_dir": "job.py"})
    assert ["no_folder"] * 2 == [one["reason"] for one in answer["found"].values()]
    texts = [one["text"] for one in answer["found"].values()]
    assert all("It was not written to the cache: the folder of the cache cannot be used" in text for text in texts)
    # JAX tries it once.
    assert "(FileExistsError: " in texts[0]


def test_callback(tmp_path):
    """Versions of JAX that write no program with a callback say so; others find the program again."""
    first, second = (run(tmp_path, prints=True)["found"]["step"] for _ in range(2))
    if first["reason"] == "host_callback":
        assert "host_callback" == second["reason"]
        assert "it calls back into Python" in second["text"]
        assert "address" not in second["text"]
    else:
        assert "hit" == second["result"]


def test_index_of_another_job_does_not_confuse(folder):
    """Another program file in the same folder, with a function of the same name."""
    (folder / "job.py").rename(folder / "other.py")
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    arguments = [sys.executable, "-W", "ignore", "other.py", json.dumps({"rate": 0.25})]
    process = subprocess.Popen(arguments, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True)
    assert "first_time" == ended(process)["found"]["step"]["reason"]
    assert "hit" == run(folder)["found"]["step"]["result"]


def test_two_processes_at_once(folder):
    """Both processes write, and a third one knows the programs of both."""
    pair = [started(folder, names=[name]) for name in ("left", "right")]
    assert ["first_time"] * 2 == [one["reason"] for process in pair for one in ended(process)["found"].values()]
    found = run(folder, names=["left", "right"], rate=0.002)["found"]
    assert ["program"] * 2 == [one["reason"] for one in found.values()]
    assert all("the constant 0.001 changed to 0.002" in one["text"] for one in found.values())


def test_option_names_the_folder_and_without_one_there_is_no_index(tmp_path):
    options = {"cache_index": "index"}
    run(tmp_path, options=options)
    assert [".index"] == [path.suffix for path in (tmp_path / "index").iterdir()]
    assert "program" == run(tmp_path, options=options, rate=0.002)["found"]["step"]["reason"]
    without = run(tmp_path, options={}, rate=0.003)
    assert {"step": {"result": "miss", "reason": "", "text": ""}} == without["found"]


def test_redacted(folder):
    """A constant may be the value of a static argument: it is neither kept nor shown."""
    options = {"event_log": "log/", "redact": True}
    found = run(folder, options=options, rate=0.125)["found"]["step"]
    assert "program" == found["reason"]
    assert "0.125" not in found["text"]
    assert "0.001" not in found["text"]


def test_cache_that_is_named_after_gevent_has_patched_threads(tmp_path):
    """The index would need a green thread, and waiting for its queue would stop the job: there are no reasons."""
    pytest.importorskip("gevent")
    done = run_python(
        """
        import sys
        import jitwatch
        watch = jitwatch.install(port=0, event_log=sys.argv[1] + "/log.jsonl")
        import gevent.monkey
        gevent.monkey.patch_all()
        import jax
        jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "/cache")
        print([float(jax.jit(lambda x: x + one)(1.0)) for one in range(2)])
        jitwatch.uninstall()
        """,
        str(tmp_path),
        timeout_s=60,
    )
    assert (0, "[1.0, 2.0]\n", "") == (done.returncode, done.stdout, done.stderr)
