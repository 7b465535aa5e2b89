"""Why the persistent cache did not have a program: the index, the reasons, their sentences and the thread."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jitwatch
from jitwatch import guard
from jitwatch.diagnosis import cache_misses
from jitwatch.diagnosis.cache_misses import BY_PART, CacheIndex, Miss, difference_of
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.phases import Lookup
from jitwatch.model.cache_key import PARTS, CacheKey, Entry, packed, unpacked
from jitwatch.model.events import CacheMissed, Compiled
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature, Value
from jitwatch.model.taxonomy import MISS_REASONS, UnwrittenReason
from jitwatch.probes import cache_misses as probe
from jitwatch.probes.cache_misses import CacheMisses, signature_hash
from jitwatch.programs import outline_of
from jitwatch.render import persistent_cache
from jitwatch.render.persistent_cache import explanation
from jitwatch.state.persistent_cache import REASONS, PersistentCache
from jitwatch.state.tables import NoSeries
from jitwatch.system import files, index_files
from jitwatch.system.index_files import IndexFiles
from tests.unit.test_persistent_cache import cache_in
from tests.waiting import wait_until

HASHES = tuple(f"{number:016x}" for number in range(len(PARTS)))
KEY = CacheKey(
    "jit_step-0a",
    HASHES,
    jaxlib="0.10.2",
    platform="gpu",
    platform_version="cuda 12.8",
    xla_flags=("--xla_a=1",),
    device_kind="H100",
    devices=8,
    processes=1,
    folder="/cache",
)
NOW = Entry(KEY, "train.step", "train.py", "ab", time=2_000.0)
STEP = Function("train.step", "step", "/home/ada/train.py:10")


def entry(name: str = "jit_step-0b", *, parts: dict[str, str] | None = None, **options: Any) -> Entry:
    """An earlier program, whose key differs in these parts."""
    of_key = {field: options.pop(field) for field in list(options) if hasattr(KEY, field)}
    hashes = tuple((parts or {}).get(part, one) for part, one in zip(PARTS, HASHES, strict=True))
    return replace(NOW, key=replace(KEY, key=name, parts=hashes, **of_key), **{"time": 1_000.0} | options)


def index_of(*earlier: Entry, **options: Any) -> CacheIndex:
    index = CacheIndex(**options)
    for one in earlier:
        index.add(one)
    return index


def program(rate: str = "1.000000e-03") -> str:
    return (
        "module @jit_step attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {\n"
        "  func.func public @main(%arg0: tensor<f32>) -> (tensor<f32>) {\n"
        f"    %cst = stablehlo.constant dense<{rate}> : tensor<f32>\n"
        "    %0 = stablehlo.multiply %arg0, %cst : tensor<f32>\n"
        "    return %0 : tensor<f32>\n  }\n}\n"
    )


def outline(rate: str = "1.000000e-03") -> str:
    return packed(outline_of(program(rate)).row())


class TestEntry:
    """One line of the index."""

    def test_line_is_read_as_it_was_written(self):
        one = replace(NOW, unwritten="short_compile", detail="x", outline=outline(), compile_s=0.4, minimum_s=1.0)
        one = replace(one, host="node7")
        assert one == Entry.of_line(one.line())
        assert b"\n" == one.line()[-1:]
        assert outline_of(program()).row() == unpacked(one.outline)
        assert len(one.line()) < 2_000

    def test_line_of_an_earlier_version_has_no_host(self):
        row = json.loads(replace(NOW, host="node7").line())
        del row["host"]
        assert NOW == Entry.of_line(json.dumps(row).encode())

    def test_hostile_texts_are_cleaned(self):
        one = replace(NOW, function="train\x1b[31m.step\n", key=replace(KEY, xla_flags=("--xla_\u202ea",)))
        read = Entry.of_line(one.line())
        assert "\x1b" not in read.function
        assert "\n" not in read.function
        assert "\u202e" not in read.key.xla_flags[0]

    @pytest.mark.parametrize(
        "line",
        [
            b"", b"{", b"7", b"[]", b"null", b"{}", NOW.line()[:-20], NOW.line().replace(b'"v":1', b'"v":9'),
            NOW.line().replace(b'"devices":8', b'"devices":"x"'), NOW.line().replace(b'"flags":[', b'"flags":[7,'),
            NOW.line().replace(b'"file":"train.py"', b'"file":null'), b"[" * 100_000, b"\xff\xfe", b'{"v":1,"parts":7}',
            NOW.line().replace(b'"train.py"', b'"' + b"x" * 5_000 + b'"'),
            NOW.line().replace(b'"time":2000.0', b'"time":' + b"9" * 5_000),
        ],
    )  # fmt: skip
    def test_line_that_is_none_is_skipped(self, line, tmp_path):
        """The lines around it are read."""
        folder = tmp_path / "index"
        folder.mkdir()
        (folder / "jitwatch-cache-x.index").write_bytes(b"\n".join([entry("a").line(), line, entry("b").line()]))
        misses = CacheMisses(str(folder), run="r")
        misses._load()
        assert {"a", "b"} == {one.key.key for one in misses._index.entries()}

    @pytest.mark.parametrize("text", ["", "{", "~~~~", packed({})[:-3], "\u1234"])
    def test_outline_that_is_none(self, text):
        assert difference_of(replace(NOW, outline=text), outline_of(program())) is None

    def test_outline_of_another_form(self):
        assert difference_of(replace(NOW, outline=packed({"version": 99})), outline_of(program())) is None


class TestIndex:
    """The entries of the index, and the earlier program that a new one is compared with."""

    def test_first_time(self):
        assert Miss("first_time", NOW) == index_of().why(NOW)
        others = entry(function="train.loss"), entry("c", file="other.py")
        assert Miss("first_time", NOW) == index_of(*others).why(NOW)

    @pytest.mark.parametrize(("part", "reason"), BY_PART)
    def test_part_that_differs_is_the_reason(self, part, reason):
        before = entry(parts={part: "ff"})
        assert Miss(reason, NOW, before, (part,)) == index_of(before).why(NOW)

    def test_first_of_several_parts_is_the_reason(self):
        before = entry(parts={"computation": "ff", "xla_flags": "ff", "compile_options": "ff"})
        found = index_of(before).why(NOW)
        assert ("xla_flags", ("computation", "xla_flags", "compile_options")) == (found.reason, found.parts)

    def test_unknown_part_is_no_difference(self):
        assert "other" == index_of(entry(parts={"topology": ""})).why(NOW).reason

    def test_same_key_was_evicted_or_never_written(self):
        assert "evicted" == index_of(entry(KEY.key)).why(NOW).reason
        assert "host_callback" == index_of(entry(KEY.key, unwritten="host_callback")).why(NOW).reason
        assert "unknown" == index_of(entry(KEY.key, unwritten="<b>")).why(NOW).reason

    def test_other_types_are_a_first_time(self):
        before = entry(parts={"computation": "ff"}, signature="cd")
        assert Miss("first_time", NOW, before, ("computation",)) == index_of(before).why(NOW)

    def test_most_similar_program_is_compared(self):
        """The same program under other flags, rather than a newer one of other types or with other constants."""
        same = entry("a", parts={"xla_flags": "ff"})
        newer = entry("b", parts={"computation": "ff"}, time=1_500.0)
        other = entry("c", parts={"computation": "ff"}, signature="cd", time=1_900.0)
        assert same == index_of(same, newer, other).why(NOW).before
        assert newer == index_of(newer, other).why(NOW).before

    def test_program_that_is_still_used_was_not_replaced(self):
        """A function with two programs for the same types: the one that this process used is not compared."""
        index = index_of(entry("a", parts={"computation": "aa"}), entry("b", parts={"computation": "bb"}, time=1_500.0))
        index.use("b")
        assert "a" == index.why(NOW).before.key.key

    def test_address_in_the_program(self):
        before = entry(parts={"computation": "ff"}, has_address=True)
        now = replace(NOW, key=replace(KEY, has_address=True))
        assert Miss("program", now, before) == index_of(before).why(now)

    def test_reading_failed(self):
        assert Miss("read_failed", NOW, error="OSError: x") == index_of(entry()).why(NOW, "OSError: x")

    def test_newest_entries_are_kept(self):
        index = index_of(*(entry(f"k{number}") for number in range(30)), max_entries=10)
        assert [f"k{number}" for number in range(20, 30)] == [one.key.key for one in index.entries()]
        assert "k19" not in index
        assert 10 == len(index)
        assert index.why(entry("new")).before.key.key in index

    def test_bytes_are_bounded(self):
        index = index_of(*(entry(f"k{number}", outline="x" * 10_000) for number in range(30)), max_bytes=60_000)
        assert 5 == len(index)

    def test_older_entry_of_a_key_does_not_replace_a_newer_one(self):
        index = index_of(entry("a", time=5.0, run="new"), entry("a", time=4.0, run="old"))
        assert "new" == index.get("a").run
        index.add(entry("a", time=6.0, run="newest"))
        assert ("newest", 1) == (index.get("a").run, len(index))

    def test_limits(self):
        assert (10_000, 12 << 20) == (cache_misses.MAX_ENTRIES, cache_misses.MAX_BYTES)

    def test_storm_of_programs_is_not_compared_with_itself(self, monkeypatch):
        """A function with thousands of programs: the time of each would grow with their number."""
        compared = []
        real = CacheKey.differing
        monkeypatch.setattr(CacheKey, "differing", lambda *keys: compared.append(1) or real(*keys))
        index = index_of(
            *(
                entry(f"k{number}", signature=str(number), parts={"computation": f"{number:016x}"})
                for number in range(100, 3_000)
            )
        )
        assert "first_time" == index.why(replace(NOW, signature="new")).reason
        assert len(compared) < 300
        # Of those for the same types none is left out.
        assert "k700" == index.why(replace(NOW, signature="700")).before.key.key


class TestFiles:
    """The folder that processes share."""

    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "index"

    def test_each_process_writes_its_own_file(self, folder, monkeypatch):
        for name in ("one", "two"):
            monkeypatch.setattr(index_files, "process_id", lambda name=name: name)
            IndexFiles(str(folder)).write([name.encode() + b"\n"])
        assert {b"one", b"two", b""} == set(IndexFiles(str(folder)).read())
        assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    def test_missing_folder_is_empty(self, folder):
        assert [] == IndexFiles(str(folder)).read()
        assert not folder.exists()

    def test_links_pipes_and_folders_are_not_read(self, folder, tmp_path):
        folder.mkdir()
        (tmp_path / "secret").write_bytes(b"secret")
        (folder / "jitwatch-cache-link.index").symlink_to(tmp_path / "secret")
        os.mkfifo(folder / "jitwatch-cache-pipe.index")
        (folder / "jitwatch-cache-folder.index").mkdir()
        (folder / "mine.index").write_bytes(b"mine")
        assert [] == IndexFiles(str(folder)).read()

    def test_files_of_other_users_are_not_read(self, folder, monkeypatch):
        folder.mkdir()
        (folder / "jitwatch-cache-x.index").write_bytes(b"x")
        monkeypatch.setattr(files, "is_trusted", lambda uid: False)
        assert [] == IndexFiles(str(folder)).read()

    def test_too_many_and_too_large_files(self, folder, monkeypatch):
        """The newest files are read, each up to the limit."""
        folder.mkdir()
        monkeypatch.setattr(index_files, "_MAX_FILES", 3)
        monkeypatch.setattr(index_files, "_MAX_BYTES", 4)
        for number in range(6):
            path = folder / f"jitwatch-cache-{number}.index"
            path.write_bytes(b"%d-xxxxxx" % number)
            os.utime(path, (number, number))
        assert [b"3-xx", b"4-xx", b"5-xx"] == IndexFiles(str(folder)).read()

    def test_many_files_are_joined(self, folder):
        """Old files are removed after their content was merged into one; files that were written recently are not."""
        folder.mkdir()
        old = time.time() - 3_600
        for number in range(4):
            path = folder / f"jitwatch-cache-{number}.index"
            path.write_bytes(b"%d\n" % number)
            os.utime(path, (old, old))
        index = IndexFiles(str(folder), join_from=4)
        lines = [line for line in index.read() if line]
        assert [b"0", b"1", b"2", b"3"] == sorted(lines)
        (folder / "jitwatch-cache-1.index").write_bytes(b"1\nmore\n")
        index.join(line + b"\n" for line in lines)
        index.join([b"again\n"])
        (joined,) = folder.glob("*-joined.index")
        assert {joined.name, "jitwatch-cache-1.index"} == set(os.listdir(folder))
        again = set(IndexFiles(str(folder)).read())
        assert {b"0", b"1", b"2", b"3", b"more", b""} == again

    def test_few_files_are_not_joined(self, folder):
        IndexFiles(str(folder)).write([b"x\n"])
        index = IndexFiles(str(folder))
        index.read()
        index.join([b"x\n"])
        assert 1 == len(os.listdir(folder))

    def test_file_that_disappears_is_looked_for_again(self, folder, monkeypatch):
        """Another process merges the files while they are read."""
        folder.mkdir()
        first = folder / "jitwatch-cache-a.index"
        first.write_bytes(b"a")
        index, paths = IndexFiles(str(folder)), IndexFiles._paths

        def joined(self):
            found = paths(self)
            if first.exists():
                first.rename(folder / "jitwatch-cache-b-joined.index")
            return found

        monkeypatch.setattr(IndexFiles, "_paths", joined)
        assert [b"a"] == index.read()


class TestThread:
    """The thread of the index, and the time for which threads of the job wait for it."""

    @pytest.fixture
    def misses(self, tmp_path):
        found = CacheMisses(str(tmp_path / "index"), run="r1")
        yield found
        found.close(5.0)
        assert found._thread is None or not found._thread.is_alive()

    @staticmethod
    def lookup(name="jit_step-0a", *, text=program, size=100, is_hit=False, before_s=1.0, **options) -> Lookup:
        key = replace(KEY, key=name, **options)
        return Lookup(key, is_hit, Signature(paths=("x",)), text=text, size=size, before_s=before_s)

    @staticmethod
    def compiled(misses, lookup, *, unwritten="", late=None, fingerprint="0a") -> Miss | None:
        if misses.wants(lookup.key.key, is_hit=lookup.is_hit):
            misses.read(STEP, lookup)
        ticket = lookup.ticket
        if ticket is not None and late is None and not lookup.is_hit:
            wait_until(lambda: ticket.is_final, what="the reason")
        return misses.ended(
            lookup,
            unwritten=unwritten,
            compile_s=2.0,
            fingerprint=fingerprint,
            on_late=late or (lambda *_: None),
        )

    def test_program_is_remembered_and_compared(self, misses, tmp_path):
        assert "first_time" == self.compiled(misses, self.lookup()).reason
        misses.close(5.0)
        later = CacheMisses(str(tmp_path / "index"), run="r2")
        parts = ("ff", *HASHES[1:])
        found = self.compiled(later, self.lookup("b", text=lambda: program("2.000000e-03"), parts=parts))
        later.close(5.0)
        assert ("program", "the program changed: the constant 0.001 changed to 0.002.") == (
            found.reason,
            explanation(found).replace("The p", "the p"),
        )
        assert 2 == len(list((tmp_path / "index").iterdir()))

    def test_no_text_is_made_of_a_hit_or_of_a_program_that_is_compiled_quickly(self, misses):
        made = []

        def text():
            made.append(1)
            return program()

        self.compiled(misses, self.lookup(text=text, is_hit=True))
        self.compiled(misses, self.lookup("b", text=text, size=50_000_000), late=lambda *_: None)
        self.compiled(misses, self.lookup("c", text=text, size=1_000_000, before_s=0.01), late=lambda *_: None)
        assert [] == made
        self.compiled(misses, self.lookup("d", text=text, size=1_000, before_s=0.1))
        assert [1] == made

    def test_hit_in_another_folder_is_remembered_with_the_outline(self, misses, monkeypatch):
        """The entry has the folder in which the program was found last."""
        monkeypatch.setattr(compat, "persistent_cache_folder", lambda: "/cache")
        self.compiled(misses, self.lookup())
        wait_until(lambda: "jit_step-0a" in misses._index, what="the entry")
        outline = misses._index.get("jit_step-0a").outline
        assert not misses.wants("jit_step-0a", is_hit=True)
        monkeypatch.setattr(compat, "persistent_cache_folder", lambda: "/moved")
        self.compiled(misses, self.lookup(is_hit=True, folder="/moved"))
        wait_until(lambda: misses._index.get("jit_step-0a").key.folder == "/moved", what="the folder")
        assert outline == misses._index.get("jit_step-0a").outline != ""

    def test_reason_that_is_found_late_is_reported(self, misses, monkeypatch):
        """The index is read from a slow disk: the reason follows, with whether it was known before."""
        go, heard = threading.Event(), []
        monkeypatch.setattr(misses._files, "read", lambda: go.wait(30) and [])
        assert self.compiled(misses, self.lookup(), late=lambda *found: heard.append(found)) is None
        go.set()
        wait_until(lambda: heard, what="the reason")
        ((miss, is_known),) = heard
        assert ("first_time", False) == (miss.reason, is_known)

    def test_details_that_are_found_late_are_reported(self, misses, monkeypatch):
        self.compiled(misses, self.lookup())
        go, heard = threading.Event(), []
        real = probe._outline
        monkeypatch.setattr(probe, "_outline", lambda *text: go.wait(30) and real(*text))
        other = self.lookup("b", text=lambda: program("2.000000e-03"), parts=("ff", *HASHES[1:]))
        misses.read(STEP, other)
        ticket = other.ticket
        wait_until(lambda: ticket.miss, what="the reason")
        miss = misses.ended(
            other, unwritten="", compile_s=2.0, fingerprint="ff", on_late=lambda *found: heard.append(found)
        )
        assert "The program changed." == explanation(miss)
        go.set()
        wait_until(lambda: heard, what="the details")
        ((miss, is_known),) = heard
        assert is_known
        assert "The program changed: the constant 0.001 changed to 0.002." == explanation(miss)

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_disk_that_is_full_or_cannot_be_written(self, misses, monkeypatch, caplog, error):
        """One warning is logged, no file is written, and reasons come from memory."""

        def refuse(*_, **__):
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(files, "replace", refuse)
        assert "first_time" == self.compiled(misses, self.lookup()).reason
        wait_until(lambda: caplog.records, what="the warning")
        assert "evicted" == self.compiled(misses, self.lookup()).reason
        misses.close(5.0)
        assert 1 == len(caplog.records)
        assert os.strerror(error) in caplog.text

    def test_disk_that_hangs_costs_nothing(self, misses, monkeypatch):
        """Neither a compile nor the end of the agent waits for it."""
        go = threading.Event()
        monkeypatch.setattr(misses._files, "read", lambda: go.wait(30) and [])
        started = time.monotonic()
        for number in range(100):
            self.compiled(misses, self.lookup(f"k{number}"), late=lambda *_: None)
        misses.close(0.2)
        assert time.monotonic() - started < 5.0
        self.compiled(misses, self.lookup("after"), late=lambda *_: None)
        go.set()

    def test_pending_programs_are_bounded(self, misses, monkeypatch):
        go = threading.Event()
        monkeypatch.setattr(misses._files, "read", lambda: go.wait(30) and [])
        monkeypatch.setattr(probe, "_MAX_PENDING", 10)
        monkeypatch.setattr(probe, "_MAX_QUEUED", 1_000)
        for number in range(30):
            self.compiled(misses, self.lookup(f"k{number}"), late=lambda *_: None)
        assert misses._queue.qsize() <= 11
        assert misses._queued < 2_000
        go.set()

    def test_no_thread_can_be_started(self, misses, monkeypatch, caplog):
        """One warning is logged; later programs are not kept."""

        def refuse(_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(probe.Thread, "start", refuse)
        misses.read(STEP, self.lookup())
        assert not misses.wants("b", is_hit=False)
        assert 1 == len(caplog.records)
        monkeypatch.undo()

    def test_no_thread_is_started_once_threads_are_patched(self, misses, monkeypatch):
        """A green thread that waits for the queue would stop the job's own thread."""
        monkeypatch.setattr(probe, "is_patched", lambda: True)
        assert self.compiled(misses, self.lookup(), late=lambda *_: None) is None
        assert misses._thread is None
        assert not misses.wants("b", is_hit=False)

    @pytest.mark.parametrize("error", [MemoryError(), ValueError("embedded null byte")])
    def test_failed_write_is_not_tried_again_at_once(self, misses, monkeypatch, error):
        """The thread would need a whole core."""
        tries = []

        def fail(*_, **__):
            tries.append(1)
            raise error

        monkeypatch.setattr(guard, "reraise", False)
        monkeypatch.setattr(misses._files, "write", fail)
        self.compiled(misses, self.lookup())
        wait_until(lambda: tries, what="the first try")
        assert misses._next_write > time.monotonic() + 10

    def test_text_is_made_once_if_the_compile_ends_before_the_outline(self, misses, monkeypatch):
        """The thread of the index has taken it."""
        go, made = threading.Event(), []
        real = probe._outline
        monkeypatch.setattr(probe, "_outline", lambda *text: made.append("outline") or (go.wait(30) and real(*text)))
        lookup = self.lookup(text=lambda: made.append("text") or program())
        misses.read(STEP, lookup)
        wait_until(lambda: "outline" in made, what="the outline is begun")
        misses.ended(lookup, unwritten="", compile_s=2.0, fingerprint="0a", on_late=lambda *_: None)
        go.set()
        misses.close(5.0)
        assert ["text", "outline"] == made
        assert 0 == misses._queued

    def test_first_process_alone_writes(self, misses, monkeypatch, tmp_path):
        monkeypatch.setattr(compat, "process_place", lambda: (1, 2))
        self.compiled(misses, self.lookup())
        misses.close(5.0)
        assert not (tmp_path / "index").exists()

    def test_failed_compile_is_not_remembered(self, misses, tmp_path):
        misses.read(STEP, self.lookup())
        misses.close(5.0)
        assert not (tmp_path / "index").exists()

    def test_redacted_has_no_outline(self, tmp_path):
        misses = CacheMisses(str(tmp_path / "index"), run="r1", is_redacted=True)
        self.compiled(misses, self.lookup())
        misses.close(5.0)
        (path,) = (tmp_path / "index").iterdir()
        assert "" == json.loads(path.read_text())["outline"]


def test_signature_is_equal_in_every_process():
    """Addresses in texts of static arguments are left out, numbers of objects too; with `redact` their values."""

    def of(text, token=1, **options):
        return signature_hash(Signature(paths=("x",), statics=(("n", Value("int", text, token=token)),)), **options)

    assert of("<f at 0x7f00000000>") == of("<f at 0x7f11111111>", 2)
    assert of("3") != of("4")
    assert of("3", is_redacted=True) == of("4", is_redacted=True)
    assert signature_hash(Signature(shapes=((8,),))) != signature_hash(Signature(shapes=((9,),)))


class TestSentences:
    """The explanation of each reason."""

    def said(self, part: str, before: Entry, now: Entry = NOW, **options: Any) -> str:
        reason = dict(BY_PART)[part]
        return explanation(Miss(reason, now, before, (part,), **options))

    def test_every_reason_has_words(self):
        assert set(MISS_REASONS) == {*REASONS, *persistent_cache._REASONS}
        assert set(PARTS) == {part for part, _ in BY_PART}
        assert list(persistent_cache._WHY) == list(REASONS)
        assert {*persistent_cache._NOT_WRITTEN, "short_compile"} == {*REASONS}

    def test_program_of_another_machine(self):
        """Its folder may have the same name and be another one: a disk of each machine."""
        before = entry(KEY.key, host="node7")
        found = explanation(Miss("evicted", replace(NOW, host="node8"), before))
        assert (
            "It was written before on node7, but is not in /cache on node8: it was evicted or deleted, or each machine "
            "has a folder of its own."
        ) in found
        assert "no longer in /cache" in explanation(Miss("evicted", replace(NOW, host="node7"), before))
        assert "no longer in /cache" in explanation(Miss("evicted", replace(NOW, host="node8"), entry(KEY.key)))

    def test_versions_and_devices(self):
        assert "The version of jaxlib changed from 0.10.1 to 0.10.2." == self.said("jaxlib", entry(jaxlib="0.10.1"))
        assert "The backend changed from gpu cuda 12.6 to gpu cuda 12.8." == self.said(
            "backend", entry(platform_version="cuda 12.6")
        )
        assert "The devices changed from 1 A100 device to 8 H100 devices." == self.said(
            "topology", entry(device_kind="A100", devices=1)
        )
        assert "The devices changed from 8 H100 devices of 2 processes to 8 H100 devices of 1 process." == self.said(
            "topology", entry(processes=2)
        )
        assert "The topology of the devices changed (8 H100 devices of 1 process)." == self.said("topology", entry())

    @pytest.mark.parametrize(
        ("before", "after", "text"),
        [
            ((), ("--a=1",), "--a=1 was added"),
            (("--a",), (), "--a was removed"),
            (("--a=1", "--b"), ("--a=2", "--c"), "--c was added, --b was removed, and --a changed from 1 to 2"),
            (("--a=1",), ("--a",), "--a changed from 1 to no value"),
            ((), tuple(f"--f{number}" for number in range(9)), "--f4 was added, and there are 4 more"),
        ],
    )
    def test_flags(self, before, after, text):
        now = replace(NOW, key=replace(KEY, xla_flags=after))
        said = self.said("xla_flags", entry(xla_flags=before), now)
        assert said.startswith("XLA flags changed: ")
        assert said.endswith(f"{text}.")

    def test_flags_that_only_moved(self):
        assert "XLA flags are given in a different form." == self.said("xla_flags", entry())

    def test_not_written(self):
        said = explanation(None, unwritten="short_compile", compile_s=0.4, minimum_s=1.0)
        assert said.startswith(
            "It was not written to the cache: its compile took 0.40 s, and "
            "jax_persistent_cache_min_compile_time_secs is 1 s. To write such programs as well, call jax.config.update"
        )
        said = explanation(None, unwritten="write_failed", error="OSError: [Errno 28] No space left on device")
        assert "writing failed (OSError: [Errno 28] No space left on device)." in said

    def test_nothing(self):
        assert "" == explanation(None)

    def test_no_full_stop_is_doubled(self):
        for reason in MISS_REASONS:
            for before in (None, entry(), entry(KEY.key, unwritten="short_compile"), entry(folder="/other")):
                said = explanation(Miss(reason, NOW, before, ("compile_options",)), compile_s=1.0)
                assert ".." not in said
                assert said.endswith(".")
                assert said[0].isupper()


class TestAdvice:
    """The options of JAX that are named exist, and the advised values are accepted and have the effect."""

    ADVISED = (
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
        ("jax_raise_persistent_cache_errors", True),
        ("jax_compilation_cache_max_size", -1),
        ("jax_remove_custom_partitioning_ptr_from_cache_key", True),
        ("jax_persistent_cache_enable_xla_caches", "none"),
        ("jax_explain_cache_misses", True),
        ("jax_compilation_cache_dir", None),
    )

    def test_options_can_be_set(self):
        for name, value in self.ADVISED:
            before = getattr(jax.config, name)
            jax.config.update(name, value)
            jax.config.update(name, before)

    def test_all_options_that_are_named_are_tried_here(self):
        said = " ".join([
            *persistent_cache._ADVICE.values(),
            *persistent_cache._WHY.values(),
            explanation(Miss("evicted", NOW, entry(KEY.key))),
            explanation(Miss("compile_options", NOW, entry(folder="/other"), ("compile_options",))),
            explanation(Miss("program", replace(NOW, key=replace(KEY, has_address=True)), entry())),
        ])  # fmt: skip
        for name, value in self.ADVISED:
            shown = "…" if value is None else json.dumps(value) if isinstance(value, str) else str(value)
            assert f'jax.config.update("{name}", {shown})' in said, name

    def test_errors_are_raised_as_advised(self, tmp_path, compiled_anew):
        (tmp_path / "file").write_text("")
        with (
            cache_in(tmp_path / "file", jax_raise_persistent_cache_errors=True),
            jitwatch.install(port=0, event_log=tmp_path / "log.jsonl"),
            pytest.raises(OSError, match="file"),
        ):
            jax.jit(lambda x: x * 3)(jnp.float32(2.0))


class TestState:
    """Counts by reason, and the last explanation of each function."""

    @staticmethod
    def compiled(reason, *, text="Because.", label="train.step", written=True, seconds=1.0) -> Compiled:
        return Compiled(
            function=replace(STEP, label=label),
            trace_s=None,
            lower_s=None,
            compile_s=seconds,
            persistent_cache="miss",
            persistent_cache_reason=reason,
            persistent_cache_explanation=text,
            persistent_cache_written=written,
            program="0a",
        )

    def test_reasons_are_counted(self):
        cache = PersistentCache()
        for reason in ("first_time", "first_time", "program", ""):
            cache.reduce(self.compiled(reason), NoSeries())
        row = cache.row()
        assert {"first_time": 2, "program": 1} == row["reasons"]
        assert [(4, 3)] == [(row["misses"], one["times"]) for one in row["missed"]]

    def test_program_that_is_written_now_is_not_unwritten(self):
        cache = PersistentCache()
        cache.reduce(self.compiled("short_compile"), NoSeries())
        assert {} == cache.row()["unwritten"]
        cache.reduce(self.compiled("short_compile", written=False), NoSeries())
        assert 1 == cache.row()["unwritten"]["short_compile"]["programs"]

    def test_late_reason(self):
        """The miss is counted once, and the late explanation replaces the earlier one."""
        cache = PersistentCache()
        cache.reduce(self.compiled("program", text="The program changed."), NoSeries())
        late = CacheMissed(function=STEP, program="0a", reason="program", explanation="It did.", is_counted=True)
        cache.reduce(late, NoSeries())
        cache.reduce(replace(late, function=replace(STEP, label="train.loss"), is_counted=False), NoSeries())
        row = cache.row()
        assert {"program": 2} == row["reasons"]
        assert [("train.step", "It did.", 1), ("train.loss", "It did.", 1)] == [
            (one["function"], one["explanation"], one["times"]) for one in row["missed"]
        ]

    def test_functions_are_bounded(self):
        cache = PersistentCache()
        for number in range(500):
            cache.reduce(self.compiled("program", label=f"f{number}", seconds=number), NoSeries())
        assert {"program": 500} == cache.row()["reasons"]
        assert 20 == len(cache.row()["missed"])
        assert len(cache._missed) <= 100
        assert 7 == len(persistent_cache.sentences(cache.row())) + 1

    def test_unwritten_reasons_are_reasons(self):
        assert set(REASONS) < set(MISS_REASONS)
        assert REASONS == UnwrittenReason.__args__


@pytest.mark.usefixtures("compiled_anew")
class TestJob:
    """Real compiles."""

    @staticmethod
    def step(rate):
        def train_step(x):
            return jnp.tanh(x) * rate

        return jax.jit(train_step)

    def test_reason_is_shown_everywhere(self, tmp_path):
        with cache_in(tmp_path / "cache"):
            for rate in (0.5, 0.25):
                log = tmp_path / f"log-{rate}.jsonl"
                with jitwatch.install(port=0, event_log=log, cache_index=tmp_path / "index") as watch:
                    self.step(rate)(jnp.ones(5))
                    jax.clear_caches()
                said = "The program changed: the constant 0.5 changed to 0.25."
            assert said in json.dumps(watch.snapshot()["persistent_cache"])
            lowered = "was not in the persistent cache: the program changed: the constant 0.5 changed to 0.25."
            assert lowered in " ".join(str(watch.explain()).split())
            assert lowered in " ".join(str(watch.explain("train_step")).split())
            assert said in log.read_text()
            metric = watch.snapshot()["metrics"]["jitwatch_persistent_cache_miss_reasons_total"]
            assert [({"reason": "program"}, 1.0)] == [(one["labels"], one["value"]) for one in metric]

    def test_nothing_is_done_without_a_folder_of_the_cache(self, tmp_path, monkeypatch):
        """No thread is started, no file is written, and nothing is hashed."""
        monkeypatch.setattr(compat, "options_hash", lambda *_: pytest.fail("it was hashed"))
        with jitwatch.install(port=0, event_log=tmp_path / "log.jsonl") as watch:
            self.step(0.125)(jnp.ones(5))
            assert not any(thread.name == "jitwatch-cache-index" for thread in threading.enumerate())
        assert ["log.jsonl"] == os.listdir(tmp_path)
        assert {} == watch.snapshot()["persistent_cache"]["reasons"]

    def test_errors_of_the_part_reach_nobody(self, tmp_path, monkeypatch):
        """The compile is reported without a reason."""
        monkeypatch.setattr(guard, "reraise", False)

        def fail(*_, **__):
            raise ValueError("broken")

        monkeypatch.setattr(CacheMisses, "read", fail)
        with cache_in(tmp_path / "cache"), jitwatch.install(port=0, event_log=tmp_path / "log.jsonl") as watch:
            self.step(0.0625)(jnp.ones(5))
            assert [""] == [
                one.get("persistent_cache_reason", "") for one in watch.events() if one.get("name") == "train_step"
            ]
