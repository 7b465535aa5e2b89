"""`jitwatch demo`: a small real training job under watch, with nothing downloaded."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import textwrap
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jitwatch
from jitwatch import config
from jitwatch.cli.options import add_agent_options, agent_options
from jitwatch.errors import ConfigError, JitwatchError
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import summary, words

if TYPE_CHECKING:
    from types import FrameType

    from jitwatch.demo.train import Progress

_WELCOME = (
    "Training a character-level transformer; the first step compiles. What compiles again is told here at once; "
    "on the page it is a bar in the colour of its cause, and a function to click. Ctrl-C ends it early."
)
#: Exit code of a program that was ended by Ctrl-C.
_INTERRUPTED = 128 + signal.SIGINT
#: Seconds between two looks for a Ctrl-C while nothing else happens.
_POLL_S = 0.1
#: Records that are looked through for news.
_LOOK_BACK = 200
_DESCRIPTION = """Train a small character-level transformer for about a minute on text that comes with
Python, watch it compile, and sum up. The last batch of each epoch is smaller than the others, as
in many real jobs: find the recompile that it costs."""


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = parsers.add_parser("demo", help="train a small model and watch it compile", description=_DESCRIPTION)
    parser.add_argument("--seconds", type=_positive, default=60.0, help="how long to train (default: 60)")
    parser.add_argument("--steps", type=_at_least_one, help="train exactly so many steps instead")
    parser.add_argument(
        "--misbehave", action="store_true", help="then a tour: every known mistake once, on purpose, and its fix"
    )
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        help="open the page in a browser (default: where there is a desktop)",
    )
    add_agent_options(parser)
    parser.set_defaults(call=_demo)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to a day, got {text}")
    return value


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of steps from 1 up, got {text}")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    if config.is_disabled():
        raise ConfigError("JITWATCH_DISABLE is set, so there would be nothing to see; unset it for the demo")
    with _CtrlC() as ctrl_c:
        return _run(options, ctrl_c)


def _run(options: argparse.Namespace, ctrl_c: _CtrlC) -> int:
    watch = jitwatch.install(**agent_options(options))
    if not watch.is_active:
        raise JitwatchError("without an agent there would be nothing to see; the line above says why none could start")
    if watch.url is None:
        print("There is no page: no port is free. The summary comes at the end all the same.")
    else:
        print(f"The page:        {watch.url}/  (open it: all of this, live)")
        print(f"For Prometheus:  {watch.url}/metrics")
        if options.open if options.open is not None else _has_desktop():
            _open(watch.url)
    from jitwatch import demo

    print(_wrapped(_WELCOME))
    print(f"\nIts code:\n{os.path.join(os.path.dirname(demo.__file__), 'train.py')}\n", flush=True)
    try:
        _train(watch, options, ctrl_c)
    except KeyboardInterrupt:
        print("\n\nInterrupted. What happened until then:\n")
    # The tour has given the advice for each mistake as it came.
    print(summary.text(watch.snapshot(), has_advice=not options.misbehave, width=words.columns(sys.stdout)), flush=True)
    if watch.url is not None and not ctrl_c.was_pressed and sys.stdin.isatty() and sys.stdout.isatty():
        _wait(watch, ctrl_c)
        ctrl_c.was_pressed = False
    watch.uninstall()
    if ctrl_c.was_pressed:
        # A thread of XLA may still compile, and would crash in the interpreter's end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_INTERRUPTED)
    return 0


class _CtrlC:
    """Notes a Ctrl-C, for the demo to end at its next step; a second one ends it at once.

    An exception instead could come in the middle of an import, a callback or a destructor, which print it and go on.

    Attributes:
        was_pressed: Whether there was one.
    """

    def __init__(self) -> None:
        self.was_pressed = False
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> _CtrlC:
        # Of a shell that starts it in the background it inherits to ignore the signal.
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        # When all is done it goes on to note, so that the interpreter's end is not interrupted either.
        if kind is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.was_pressed:
            os._exit(_INTERRUPTED)
        self.was_pressed = True

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if there was one."""
        if self.was_pressed:
            raise KeyboardInterrupt

    def step(self) -> None:
        """Count a training step."""
        jitwatch.step()
        self.check()


def _train(watch: jitwatch.Watch, options: argparse.Namespace, ctrl_c: _CtrlC) -> None:
    """Train, and then make the known mistakes if they were asked for."""
    from jitwatch.cli import tour
    from jitwatch.demo.train import train

    ctrl_c.check()
    told = _Told(watch)
    result = train(seconds=options.seconds, steps=options.steps, on_progress=_ProgressLine(told), on_step=ctrl_c.step)
    ctrl_c.check()
    told.tell()
    print(
        f"\n\n{result.steps} steps in {result.elapsed_s:.1f} s, loss {result.first_loss:.2f} → {result.last_loss:.2f}"
    )
    print(f"evaluation loss {result.eval_loss:.2f}; the model writes: {result.sample!r}\n")
    if options.misbehave:
        tour.misbehave(watch, check=ctrl_c.check)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, words.columns(sys.stdout), break_long_words=False)


def _wait(watch: jitwatch.Watch, ctrl_c: _CtrlC) -> None:
    """Leave the page there for somebody who is looking at it."""
    print(f"\nThe page is still there: {watch.url}/   Ctrl-C ends the demo.", flush=True)
    while not ctrl_c.was_pressed:
        time.sleep(_POLL_S)
    print(flush=True)


def _has_desktop() -> bool:
    """Whether a browser window would open in front of whoever typed the command, and not in their terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(url: str) -> None:
    import webbrowser

    with suppress(webbrowser.Error, OSError):
        webbrowser.open(url)


class _Told:
    """Tells of each recompile of the job once, as soon as there is a moment for it."""

    def __init__(self, watch: jitwatch.Watch) -> None:
        self._watch = watch
        self._seq = 0

    def tell(self) -> None:
        """Print what was recompiled since the last time."""
        records = [one for one in self._watch.events(_LOOK_BACK) if one["seq"] > self._seq]
        for one in records:
            if one["event"] == "jit.recompiled" and one["function"] != JAX_LABEL:
                print(f"\n{words.paragraph(str(one['explanation']), words.columns(sys.stdout))}", flush=True)
        if records:
            self._seq = records[-1]["seq"]


class _ProgressLine:
    """Prints progress on one line of a terminal, and now and then a line elsewhere."""

    _EVERY_S = 10.0

    def __init__(self, told: _Told) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._last_s = -self._EVERY_S
        self._told = told

    def __call__(self, progress: Progress) -> None:
        self._told.tell()
        compiles = jitwatch.snapshot()["totals"]["compiles"]
        line = (
            f"step {progress.step:5d}  loss {progress.loss:5.2f}  {progress.tokens_per_s:8.0f} tokens/s  "
            f"{progress.elapsed_s:5.1f} s  {compiles} compiles"
        )
        if self._is_terminal:
            print(f"\r{line}", end="", flush=True)
        elif progress.elapsed_s - self._last_s >= self._EVERY_S:
            self._last_s = progress.elapsed_s
            print(line, flush=True)
