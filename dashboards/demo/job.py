"""The demo job: runs an example of each pitfall, trains a small model for ten minutes, and starts again."""

from __future__ import annotations

import contextlib

import jitwatch
from jitwatch.demo.pitfalls import EXAMPLES
from jitwatch.demo.train import train

TURN_S = 600.0


def main() -> None:
    """Run until interrupted."""
    while True:
        for example in EXAMPLES:
            print(f"{example.__name__}: {(example.__doc__ or '').partition(chr(10))[0]}", flush=True)
            example()
        train(seconds=TURN_S, steps=None, on_progress=lambda progress: None, on_step=jitwatch.step)


if __name__ == "__main__":
    with jitwatch.install() as watch, contextlib.suppress(KeyboardInterrupt):
        print(f"serving on {watch.url}", flush=True)
        main()
