"""The pictures of the live page in the README: `python -m tests.integration.screenshots FOLDER`.

Made from a real run of the demo and its pitfalls, in a real browser: the page in both themes, and the detail of
the function that is in a storm. Needs Chromium and its driver.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.integration.browser import WIDTH, Page, running_browser
from tests.integration.conftest import stop
from tests.waiting import wait_until

HEIGHT, DETAIL_HEIGHT = 1090, 860
MAX_BYTES = 200_000
#: Its last mistake, which goes on for some seconds.
LAST = "jitwatch.demo.pitfalls.attended"


#: What `jitwatch demo --misbehave` runs, and then nothing until it is told to end: the page is looked at meanwhile.
PROGRAM = """
import sys
import jitwatch

watch = jitwatch.install(port=0, run="demo")
print(watch.url, flush=True)
from jitwatch.demo.pitfalls import EXAMPLES
from jitwatch.demo.train import train

train(seconds=float(sys.argv[1]), on_progress=lambda progress: None, on_step=jitwatch.step)
for example in EXAMPLES:
    example()
sys.stdin.readline()
"""


@contextlib.contextmanager
def running_demo(seconds: int) -> Iterator[str]:
    """The demo; the address of its page."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url, "the demo did not say where its page is"
        yield url
    finally:
        stop(process)


def take(page: Page, folder: Path) -> list[Path]:
    """The pictures, while the last mistake is being made."""
    page.open(height=HEIGHT)
    wait_until(lambda: any("storm" in cell for cell in page.cells(LAST)[:1]), timeout_s=300, what="the storm")
    paths = [folder / f"{name}.png" for name in ("detail", "page-light", "page-dark")]
    page.resize(WIDTH, DETAIL_HEIGHT)
    page.run("location.hash = arguments[0]", f"#f={LAST}")
    wait_until(lambda: len(page.texts("#detail ol > li")) > 5, what="its recompiles")
    page.save(paths[0])
    # Still, for the rest of the sitting: the job is about to end.
    page.run("window.fetch = () => new Promise(() => {}); document.getElementById('detail').close();")
    page.resize(WIDTH, HEIGHT)
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    for path, scheme in zip(paths[1:], ("light", "dark"), strict=True):
        page.show_as(scheme)
        wait_until(
            lambda: page.run("return new Promise((done) => requestAnimationFrame(() => done(true)))"), what="a picture"
        )
        page.save(path)
    assert not page.find("#lost").is_displayed()
    return paths


def main() -> None:
    """Run the demo, take the pictures, and see that they are small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seconds", type=int, default=30, help="how long the demo trains before (default: 30)")
    options = parser.parse_args()
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        parser.error("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options.folder.mkdir(parents=True, exist_ok=True)
    with running_demo(options.seconds) as url, running_browser(chromium, driver) as browser:
        for path in take(Page(browser, url), options.folder):
            size = path.stat().st_size
            if size > MAX_BYTES:
                parser.error(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}")


if __name__ == "__main__":
    main()
