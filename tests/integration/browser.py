"""A real Chromium without a window, and the live page in it."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.waiting import wait_until

WIDTH, HEIGHT = 1280, 1000
#: A phone.
NARROW = 360


@contextlib.contextmanager
def running_browser(chromium: str, driver: str) -> Iterator[webdriver.Chrome]:
    """A browser of 1280 by 1000 pixels that keeps what is written to its console."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # As root, as in a container, its sandbox does not start.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    for option in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", *sandbox):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


class Page:
    """The live page of a job in a browser."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self.url = url

    def open(self, fragment: str = "", *, width: int = WIDTH, height: int = HEIGHT, scheme: str = "light") -> None:
        """Load it anew, in a window of this size, and wait for its first answer."""
        self.resize(width, height)
        self.show_as(scheme)
        self.browser.get("about:blank")
        self.browser.get_log("browser")
        self.browser.get(f"{self.url}/{fragment}")
        wait_until(lambda: self.text("#health"), what="the first answer")

    def resize(self, width: int, height: int = HEIGHT) -> None:
        """Make the window so large."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def show_as(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript; what it returns."""
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first element."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """All text of the first such element, shown or not; empty where there is none."""
        found: str = self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
        return found

    def texts(self, selector: str) -> list[str]:
        """What is shown of all such elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        found: list[str] = self.run(script, selector)
        return found

    def functions(self) -> list[str]:
        """Labels in the table from the top."""
        script = "return [...document.querySelectorAll('#functions tbody tr')].map((row) => row.dataset.function)"
        found: list[str] = self.run(script)
        return found

    def cells(self, function: str) -> list[str]:
        """What the row of a function shows."""
        script = """
            const row = [...document.querySelectorAll("#functions tbody tr")]
                .find((one) => one.dataset.function === arguments[0]);
            return row ? [...row.cells].map((cell) => cell.innerText) : []"""
        found: list[str] = self.run(script, function)
        return found

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def errors(self) -> list[str]:
        """What the console holds since the last look."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def ask(self, path: str) -> dict[str, Any]:
        """What the job itself answers."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def save(self, path: Path) -> None:
        """A picture of the window."""
        self.browser.save_screenshot(str(path))
