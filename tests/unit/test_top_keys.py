"""Single keys of a terminal, and that it is left as it was found."""

from __future__ import annotations

import os
import pty
import termios

import pytest

from jitwatch.top.frame import Frame
from jitwatch.top.keys import Keyboard, keys_in
from jitwatch.top.loop import pressed
from tests.unit.top_states import process


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("q", ["q"]),
        ("sP", ["s", "p"]),
        ("\t\x1b[Z", ["tab", "backtab"]),
        ("\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "right", "left"]),
        ("\x1b[3~q", ["q"]),
        ("\x1b[1;5Aq", ["q"]),
        ("\x1b", []),
        ("\x00\x7f", []),
        ("é", ["é"]),
    ],
)
def test_keys_in_names_the_keys(sent, expected):
    """In either mode of the cursor keys; others, and sequences that are not known, are no letters."""
    assert expected == keys_in(sent)


@pytest.fixture
def terminal(monkeypatch):
    """A pseudo-terminal as stdin; the end at which a user types."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield ours, theirs
    os.close(ours)


def test_keyboard_reads_keys_without_a_line_end(terminal):
    """As they are typed."""
    ours, _ = terminal
    with Keyboard() as keyboard:
        os.write(ours, b"\x1b[Aq")
        assert ["up", "q"] == keyboard.read(10)
        assert [] == keyboard.read(0)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_keyboard_puts_the_terminal_back(terminal, error):
    """However it ends; and within, nothing is echoed and Ctrl-C is still a signal."""
    _, theirs = terminal
    before = termios.tcgetattr(theirs)
    try:
        with Keyboard():
            within = termios.tcgetattr(theirs)[3]
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError):
        pass

    assert (0, 0) == (within & termios.ECHO, within & termios.ICANON)
    assert within & termios.ISIG
    assert before == termios.tcgetattr(theirs)


def test_keyboard_without_a_terminal_has_no_keys(monkeypatch):
    """In a pipe there is nobody who types."""
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with Keyboard() as keyboard:
            assert (False, []) == (keyboard.is_there, keyboard.read(0))


def test_s_goes_through_the_orders_and_back():
    """And begins again."""
    frame, seen = Frame(processes=[process()]), []
    for _ in range(6):
        frame = pressed("s", frame)
        seen.append(frame.sort)

    assert ["seconds", "recompiles", "compiles", "name", "lost", "seconds"] == seen


def test_p_pauses_and_goes_on():
    """With the same key."""
    frame = pressed("p", Frame(processes=[]))

    assert (True, False) == (frame.is_paused, pressed("p", frame).is_paused)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["tab"], "a"), (["down", "right"], "b"), (["tab", "tab", "tab"], None), (["up"], "b"),
        (["tab", "left"], None), (["backtab", "backtab"], "a"), (["x"], None),
    ],
)  # fmt: skip
def test_arrows_and_tab_choose_a_process(keys, expected):
    """In both directions, by way of all of them together."""
    frame = Frame(processes=[process(url="a"), process(url="b")])
    for key in keys:
        frame = pressed(key, frame)

    assert expected == frame.chosen


def test_single_process_cannot_be_chosen():
    """There is nothing else to look at."""
    assert None is pressed("tab", Frame(processes=[process(url="a")])).chosen
