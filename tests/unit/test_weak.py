"""The map by identity: keeps nothing alive, runs nothing of the user's."""

from __future__ import annotations

import gc
import sys
import threading

from jitwatch.jaxhooks.weak import WeakIdMap


class Hostile:
    """An object whose comparison and hash must never be called."""

    def __eq__(self, other):
        raise AssertionError("compared")

    def __hash__(self):
        raise AssertionError("hashed")

    def __bool__(self):
        raise AssertionError("asked for its truth")


class Plain:
    """An object that is equal to all of its kind."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1


def test_get_returns_the_value_of_this_object():
    """What was set comes back; before that there is nothing."""
    entries: WeakIdMap[str] = WeakIdMap()
    key = Plain()

    assert entries.get(key) is None
    entries.set(key, "value")
    assert "value" == entries.get(key)


def test_get_equal_objects_are_different_keys():
    """Identity counts, not equality."""
    entries: WeakIdMap[str] = WeakIdMap()
    one, two = Plain(), Plain()
    entries.set(one, "one")

    assert entries.get(two) is None
    entries.set(two, "two")
    assert ("one", "two") == (entries.get(one), entries.get(two))


def test_keys_are_neither_hashed_nor_compared():
    """A user's `__eq__` may be slow, raise, or return an array."""
    entries: WeakIdMap[int] = WeakIdMap()
    key = Hostile()
    entries.set(key, 1)
    entries.set(key, 2)

    assert 2 == entries.get(key)
    assert [2] == [value for _, value in entries.items()]
    entries.remove(key)
    assert 0 == len(entries)


def test_entry_ends_with_its_object():
    """The map keeps no key alive."""
    entries: WeakIdMap[int] = WeakIdMap()
    key = Plain()
    entries.set(key, 1)
    assert 1 == len(entries)

    del key
    gc.collect()

    assert 0 == len(entries)
    assert [] == entries.items()


def test_end_of_an_entry_calls_no_python():
    """A debugger would step into it at the line of the job where the object dies."""
    entries: WeakIdMap[int] = WeakIdMap()
    key, called = Plain(), []
    entries.set(key, 1)
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        del key
    finally:
        sys.setprofile(None)

    assert [] == called
    assert 0 == len(entries)


def test_entry_of_a_cycle_ends_with_it():
    """A key that only the cycle collector can free goes as well."""
    entries: WeakIdMap[int] = WeakIdMap()
    key = Plain()
    key.myself = key
    entries.set(key, 1)

    del key
    gc.collect()

    assert 0 == len(entries)


def test_set_again_replaces_the_value_and_ends_once():
    """An older reference of the same object does not take the newer entry away."""
    entries: WeakIdMap[int] = WeakIdMap()
    key = Plain()
    entries.set(key, 1)
    entries.set(key, 2)
    gc.collect()

    assert 2 == entries.get(key)
    assert 1 == len(entries)
    del key
    gc.collect()
    assert 0 == len(entries)


def test_set_object_without_weak_references_is_not_remembered():
    """Numbers and tuples cannot be watched; keeping them would confuse their successors."""
    entries: WeakIdMap[int] = WeakIdMap()
    for key in (1, (1, 2), "text", None):
        entries.set(key, 1)
        assert entries.get(key) is None

    assert 0 == len(entries)


def test_remove_forgets_only_this_object():
    """The others stay, and an unknown one is no error."""
    entries: WeakIdMap[int] = WeakIdMap()
    one, two = Plain(), Plain()
    entries.set(one, 1)
    entries.set(two, 2)
    entries.remove(one)
    entries.remove(one)
    entries.remove(Plain())

    assert entries.get(one) is None
    assert [(two, 2)] == entries.items()


def test_get_number_that_was_used_before_finds_nothing():
    """A new object at the address of a dead one is a stranger."""
    entries: WeakIdMap[int] = WeakIdMap()
    for _ in range(1000):
        key = Plain()
        assert entries.get(key) is None
        entries.set(key, 1)
        del key

    assert 0 == len(entries)


def test_threads_that_set_read_and_drop_do_not_disturb_each_other():
    """Entries end in whatever thread drops the last reference."""
    entries: WeakIdMap[int] = WeakIdMap()
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def work(number):
        try:
            barrier.wait()
            for _ in range(500):
                keys = [Plain() for _ in range(5)]
                for key in keys:
                    entries.set(key, number)
                assert [number] * 5 == [entries.get(key) for key in keys]
                entries.items()
                entries.remove(keys[0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()

    assert [] == errors
    assert 0 == len(entries)
