"""Draws the boards with the data of a Prometheus: `python -m dashboards.preview http://127.0.0.1:9090 pictures/`.

Needs matplotlib; with Chromium on the machine there is a picture beside each page.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dashboards.preview.asking import Question
from dashboards.preview.page import WIDTH, Page
from dashboards.source.settings import SCRAPE_INTERVAL_S

BOARDS = Path(__file__).resolve().parent.parent / "grafana" / "dashboards"
_CHROMIUM_S = 120


def draw(folder: Path, uid: str, question: Question) -> Page:
    """Write the page of a board, `<folder>/<uid>.html`."""
    page = Page(json.loads((BOARDS / f"{uid}.json").read_text(encoding="utf-8")), question)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{uid}.html").write_text(page.html, encoding="utf-8")
    return page


def photograph(path: Path, height: int) -> Path:
    """A picture of a page, beside it.

    Raises:
        FileNotFoundError: There is no Chromium.
        subprocess.CalledProcessError: It failed.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise FileNotFoundError("no Chromium on this machine (Debian: apt-get install chromium)")
    picture = path.with_suffix(".png")
    # As root, as in a container, its sandbox does not start.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    subprocess.run(
        [
            browser,
            "--headless",
            *sandbox,
            "--disable-gpu",
            "--hide-scrollbars",
            f"--window-size={WIDTH},{height}",
            f"--screenshot={picture}",
            path.resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=_CHROMIUM_S,
    )
    return picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all boards, and say which panels are empty."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.preview", description=__doc__)
    parser.add_argument("prometheus", help="address of Prometheus")
    parser.add_argument("folder", type=Path, help="where the pages and pictures go")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back (default: 60)")
    parser.add_argument("--scrape-s", type=float, default=SCRAPE_INTERVAL_S, help="scrape interval (default: 15)")
    parser.add_argument("--height", type=int, default=20_000, help="cut pictures off below so many pixels")
    for name in ("run", "instance", "function"):
        parser.add_argument(f"--{name}", action="append", help=f"value of the variable {name} (default: all)")
    options = parser.parse_args(arguments)
    chosen = {name: values for name in ("run", "instance", "function") if (values := getattr(options, name))}
    question = Question(
        url=options.prometheus.rstrip("/"),
        chosen=chosen,
        end=time.time(),
        seconds=60 * options.minutes,
        scrape_s=options.scrape_s,
    )
    for path in sorted(BOARDS.glob("*.json")):
        page = draw(options.folder, path.stem, question)
        try:
            shown = photograph(options.folder / f"{path.stem}.html", min(page.height, options.height))
        except FileNotFoundError as error:
            shown = options.folder / f"{path.stem}.html"
            print(f"{error}; open the page in a browser", file=sys.stderr)
        print(f"{shown}" + (f"  without data: {', '.join(page.empty)}" if page.empty else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
