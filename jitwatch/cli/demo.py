"""`jitwatch demo`: trains a small model with the agent installed, and shows pitfalls on request. Downloads nothing."""

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
from jitwatch.cli.options import add_agent_options, add_command, agent_options
from jitwatch.errors import ConfigError, JitwatchError
from jitwatch.model.taxonomy import JAX_LABEL
from jitwatch.render import formats, summary
from jitwatch.state.schema import StateLike

if TYPE_CHECKING:
    from types import FrameType

    from jitwatch.demo.train import Progress

_WELCOME = (
    "Training a character-level transformer; the first step compiles. Recompiles are printed here as they happen. The "
    "page shows each as a bar in the color of its cause; click a function for its details. Press Ctrl-C to stop early."
)
#: Exit code of a program that Ctrl-C ended.
_EXIT_INTERRUPTED = 128 + signal.SIGINT
#: Seconds between two checks for Ctrl-C while waiting, and between two lines of progress outside of a terminal.
_POLL_S, _PROGRESS_S = 0.1, 10.0
#: Number of the latest events that are searched for recompiles.
_MAX_EVENTS = 200
_DESCRIPTION = """Train a small character-level transformer for about a minute on text that comes with Python, with the
agent installed, and print a summary of its compiles. As in many real jobs, the last batch of each epoch is smaller than
the others, which causes a recompile."""
_INDENT = "    "
#: Other output to expect from the example of a pitfall.
_NOTES = {"double_donation": "(XLA prints its own error message, which is expected.)"}
#: Where on the page a pitfall is shown besides the advice.
_ON_PAGE = {
    "static_arg_churn": "'Functions', column 'Recompiles': click warmed_up for each change, before → after",
    "shape_churn": "'Functions': click token_loss for the sizes of its argument",
    "eager_churn": "'Functions': the row <eager>@pitfalls.py",
    "compile_during_steady": "'Compiles over time': the mark above the bars",
    "use_after_donate": "'Donation violations': where the array was used, and which call donated it",
    "growing_cache": "'Functions', column 'Cache entries'",
}


def add_to(parsers: Any) -> None:
    """Register the command."""
    parser = add_command(parsers, "demo", _demo, "train a small model and watch it compile", _DESCRIPTION)
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="training time in seconds (default: 60)")
    parser.add_argument("--steps", type=_steps, help="number of training steps, instead of a time")
    parser.add_argument(
        "--misbehave", action="store_true", help="then run an example of each known pitfall, and show the advice"
    )
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        help="open the page in a browser (default: if there is a desktop)",
    )
    add_agent_options(parser)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to a day, got {text}")
    return value


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 step, got {text}")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    if config.is_disabled():
        raise ConfigError("JITWATCH_DISABLE is set, which turns the agent off; unset it for the demo")
    with _CtrlC() as ctrl_c:
        return _run(options, ctrl_c)


def _run(options: argparse.Namespace, ctrl_c: _CtrlC) -> int:
    watch = jitwatch.install(**agent_options(options))
    if not watch.is_active:
        raise JitwatchError("the demo needs the agent, which could not start; the warning above shows the reason")
    if watch.url is None:
        print("The endpoint could not start, so there is no page; the warning above shows the reason.")
    else:
        print(f"The page:        {watch.url}/  (live view, open it in a browser)")
        print(f"For Prometheus:  {watch.url}/metrics")
        if options.open if options.open is not None else _has_desktop():
            import webbrowser

            with suppress(webbrowser.Error, OSError):
                webbrowser.open(watch.url)
    from jitwatch import demo

    print(_wrapped(_WELCOME, indent=""))
    print(f"\nSource code:\n{os.path.join(os.path.dirname(demo.__file__), 'train.py')}\n", flush=True)
    try:
        _train(watch, options, ctrl_c)
    except KeyboardInterrupt:
        print("\n\nInterrupted. Summary so far:\n")
    # The tour has already printed the advice.
    width = formats.columns(sys.stdout)
    print(summary.text(watch.snapshot(), has_advice=not options.misbehave, width=width), flush=True)
    if watch.url is not None and not ctrl_c.was_pressed and sys.stdin.isatty() and sys.stdout.isatty():
        print(f"\nThe page is still served at {watch.url}/   Press Ctrl-C to end the demo.", flush=True)
        while not ctrl_c.was_pressed:
            time.sleep(_POLL_S)
        print(flush=True)
        ctrl_c.was_pressed = False
    watch.uninstall()
    if ctrl_c.was_pressed:
        # A thread of XLA may still be compiling, and would crash while the interpreter exits.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_EXIT_INTERRUPTED)
    return 0


class _CtrlC:
    """Signal handler that records a Ctrl-C, to end the demo at its next step; a second one ends it at once.

    A `KeyboardInterrupt` could be raised in an import, a callback or a destructor, where it would be printed and lost.
    """

    def __init__(self) -> None:
        self.was_pressed = False
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> _CtrlC:
        # Not if the signal is ignored, as in a process that a shell starts in the background.
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._record)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        # Kept after a normal end, so that the exit of the interpreter is not interrupted either.
        if kind is not None:
            signal.signal(signal.SIGINT, self._before)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.was_pressed:
            os._exit(_EXIT_INTERRUPTED)
        self.was_pressed = True

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self.was_pressed:
            raise KeyboardInterrupt

    def step(self) -> None:
        """Count a training step."""
        jitwatch.step()
        self.check()


def _train(watch: jitwatch.Watch, options: argparse.Namespace, ctrl_c: _CtrlC) -> None:
    """Train, and then run the examples of pitfalls if requested."""
    from jitwatch.demo.train import train

    ctrl_c.check()
    output = _Output(watch)
    result = train(seconds=options.seconds, steps=options.steps, on_progress=output.progress, on_step=ctrl_c.step)
    ctrl_c.check()
    output.recompiles()
    loss = f"loss {result.first_loss:.2f} → {result.last_loss:.2f}"
    print(f"\n\n{result.steps} steps in {result.elapsed_s:.1f} s, {loss}")
    print(f"evaluation loss {result.eval_loss:.2f}; the model generates: {result.sample!r}\n")
    if options.misbehave:
        _tour(watch, ctrl_c)


def _has_desktop() -> bool:
    """Whether a browser would open in a window on the desktop of the user, and not in the terminal or elsewhere."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class _Output:
    """What is printed during training: progress, in one line of a terminal, and each recompile once."""

    def __init__(self, watch: jitwatch.Watch) -> None:
        self._watch = watch
        self._seq = 0
        self._is_terminal = sys.stdout.isatty()
        self._last_s = -_PROGRESS_S

    def recompiles(self) -> None:
        """Print the recompiles of the job since the last call."""
        records = [one for one in self._watch.events(_MAX_EVENTS) if one["seq"] > self._seq]
        for one in records:
            if one["event"] == "jit.recompiled" and one["function"] != JAX_LABEL:
                print(f"\n{formats.paragraph(str(one['explanation']), formats.columns(sys.stdout))}", flush=True)
        if records:
            self._seq = records[-1]["seq"]

    def progress(self, progress: Progress) -> None:
        """Print the progress, and new recompiles."""
        self.recompiles()
        compiles = jitwatch.snapshot()["totals"]["compiles"]
        line = (
            f"step {progress.step:5d}  loss {progress.loss:5.2f}  {progress.tokens_per_s:8.0f} tokens/s  "
            f"{progress.elapsed_s:5.1f} s  {compiles} compiles"
        )
        if self._is_terminal:
            print(f"\r{line}", end="", flush=True)
        elif progress.elapsed_s - self._last_s >= _PROGRESS_S:
            self._last_s = progress.elapsed_s
            print(line, flush=True)


# The tour of `--misbehave`


def _tour(watch: jitwatch.Watch, ctrl_c: _CtrlC) -> None:
    """Run the example of each pitfall, and print its description, what the agent reports, and where to see it."""
    from jitwatch.demo.pitfalls import EXAMPLES

    page = f"{watch.url}/ shows them as they happen, and what to change under 'Advice'." if watch.url else ""
    print(f"{_wrapped(f'An example of each known pitfall follows. {page}')}\n")
    for number, example in enumerate(EXAMPLES, 1):
        ctrl_c.check()
        name = example.__name__
        description = (example.__doc__ or "").partition("\n")[0]
        print(_wrapped(f"{number:2d}. {name}: {description}"), flush=True)
        if name in _NOTES:
            print(f"{_INDENT}{_NOTES[name]}", flush=True)
        example()
        reported = _report_of(watch.snapshot(), name)
        print(_wrapped(reported, begin=f"{_INDENT}→ ", indent=f"{_INDENT}  ", break_on_hyphens=False))
        if name in _ON_PAGE and watch.url:
            print(_wrapped(f"{_INDENT}On the page: {_ON_PAGE[name]}"))
        print(flush=True)


def _report_of(state: StateLike, name: str) -> str:
    """What the agent reports about a pitfall whose example just ran."""
    found = [one for one in state["pitfalls"] if one["pitfall"] == name]
    if not found:
        return summary.caches(state) or "not reported yet"
    last = found[-1]
    call_site = formats.file_line(last["call_site"] or last["location"])
    return formats.sentences(f"{call_site}: {last['message']}", last["advice"])


def _wrapped(text: str, *, begin: str = "", indent: str = _INDENT, break_on_hyphens: bool = True) -> str:
    return textwrap.fill(
        text,
        formats.columns(sys.stdout),
        initial_indent=begin,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=break_on_hyphens,
    )
