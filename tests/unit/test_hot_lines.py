"""The lines in which a long trace spends its time, from samples of its stack."""

from __future__ import annotations

import threading

import pytest

from jitwatch.jaxhooks.compile import hot_lines
from jitwatch.jaxhooks.compile.hot_lines import Samples, StackReader, lines_in_loops
from jitwatch.model.rows import RULES

STEP, LAYERS, LAYER = ("train.py", 40, False), ("model.py", 88, True), ("layer.py", 30, False)


def rows_of(*samples: tuple[tuple, float]):
    """The rows of paths with their seconds, as pairs of a call site and seconds."""
    table = Samples()
    for path, seconds in samples:
        table.add(path, seconds)
    return [(row["call_site"], row["seconds"]) for row in table.rows()]


class TestRows:
    """Which lines are shown."""

    def test_loop_over_layers_precedes_the_lines_of_a_layer(self):
        """The line in the loop has the seconds of the whole layer, although one line of the layer has most of them."""
        other = ("layer.py", 31, False)
        found = rows_of(((STEP, LAYERS, LAYER), 6.0), ((STEP, LAYERS, other), 3.0), ((STEP,), 1.0))

        assert [("model.py:88", 9.0), ("train.py:40", 1.0)] == found

    def test_innermost_line_is_shown_without_a_loop(self):
        """Each line on the way to it has the same seconds."""
        assert [("layer.py:30", 5.0)] == rows_of(((STEP, ("model.py", 7, False), LAYER), 5.0))

    def test_line_with_most_is_shown_if_none_has_half(self):
        """No line below has half of the seconds."""
        parts = [((STEP, ("model.py", line, False)), 1.0) for line in range(10)]
        assert [("train.py:40", 10.0)] == rows_of(*parts)

    def test_no_second_is_in_two_rows(self):
        """The shares of all rows add up to at most 1."""
        table = Samples()
        for line in range(20):
            table.add((("a.py", line, False), ("b.py", line % 3, False)), 1.0)
        rows = table.rows()

        assert hot_lines.MAX_ROWS == len(rows)
        assert sum(row["share"] for row in rows) <= 1.0
        assert sum(row["seconds"] for row in rows) <= 20.0

    def test_recursion_counts_once(self):
        """A line that is on the stack several times has the seconds of the sample once."""
        assert [("model.py:88", 2.0)] == rows_of(((LAYERS, LAYERS, LAYERS), 2.0))

    def test_parts_of_jax_have_no_line(self):
        """The call site has the name of the part."""
        assert [(RULES, 3.0), ("train.py:40", 1.0)] == rows_of((((RULES, 0, False),), 3.0), ((STEP,), 1.0))

    def test_no_rows_without_seconds(self):
        """Nothing was sampled."""
        assert () == Samples().rows()
        assert [] == rows_of(((STEP,), 0.0))

    def test_number_of_paths_is_bounded(self):
        """Paths past the limit are counted by their outermost line, and then as one."""
        table = Samples()
        for line in range(5_000):
            table.add((STEP, ("generated.py", line, False)), 0.001)
            table.add((("other.py", line, False),), 0.001)

        assert hot_lines._MAX_PATHS + 2 >= len(table.seconds)
        assert 10.0 == pytest.approx(sum(table.seconds.values()))

    def test_phases_are_joined(self):
        """The rows of a compile are of its trace and of its lowering."""
        trace, lower = Samples({(STEP,): 1.0}), Samples({((RULES, 0, False),): 2.0, (STEP,): 1.0})

        assert {(STEP,): 2.0, ((RULES, 0, False),): 2.0} == trace.joined(lower).seconds
        assert {(STEP,): 1.0} == trace.seconds


class TestLoops:
    """Which lines are in a loop."""

    def test_lines_of_for_while_and_comprehensions(self):
        """Nested statements are in the loop, those before and after it are not."""

        def function(values):
            total = 0
            for value in values:
                if value:
                    total += value
            while total > 10:
                total -= 1
            return total

        first = function.__code__.co_firstlineno
        assert {2, 3, 4, 5, 6} == {line - first for line in lines_in_loops(function.__code__)}

    def test_function_without_a_loop(self):
        """No line is in a loop."""
        assert frozenset() == lines_in_loops((lambda x: x + 1).__code__)


class TestReader:
    """Stacks of other threads."""

    def test_ended_thread_has_no_path(self):
        """Its identifier is not among the running threads."""
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        reader = StackReader(())

        assert () == reader.path(thread.ident)
        assert reader.call_site(thread.ident) is None

    def test_depth_is_bounded(self):
        """Of a deep stack the outermost and innermost lines are kept."""
        found, done, reader = [], threading.Event(), StackReader(())

        def deep(depth):
            if depth:
                return deep(depth - 1)
            found.append(reader.path(threading.get_ident()))
            return done.set()

        deep(200)
        assert hot_lines._MAX_LINES == len(found[0])

    def test_code_is_forgotten(self):
        """No code of the job is kept after sampling."""
        reader = StackReader(())
        reader.path(threading.get_ident())
        assert reader._loops
        reader.forget()
        assert not reader._loops
