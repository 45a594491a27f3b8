"""A page in a real browser, without a screen: what it shows, does, says in its console and asks the network for."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

# As root, and without a browser's own errands.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One page at a time."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, theme: str = "light") -> None:
        """Open a file, with nothing left of the one before."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.said()
        self.asked()
        self.driver.get(page.resolve().as_uri())

    def said(self) -> list[str]:
        """Errors and warnings in the console, since last asked."""
        return [str(entry["message"]) for entry in self._log("browser")]

    def asked(self) -> list[str]:
        """What has been asked for, the page itself too, since last asked; without what its policy kept back."""
        entries = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        events = [(entry["method"], entry["params"]) for entry in entries]
        failed = [params for method, params in events if method == "Network.loadingFailed"]
        blocked = {params["requestId"] for params in failed if params.get("blockedReason") == "csp"}
        begun = [params for method, params in events if method == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in begun if params["requestId"] not in blocked]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return found

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script as the debugger does, whatever the page permits."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def column(self, number: int) -> list[str]:
        """The texts of a column of the table of layers, in its rows that are shown."""
        script = """return [...document.querySelectorAll('#layer-table tbody tr')].filter((row) => !row.hidden)
            .map((row) => row.cells[arguments[0]].textContent.trim())"""
        found: list[str] = self.run(script, number)
        return found


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser; skips the test where this machine has none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs a browser: Chromium and its chromedriver (Debian: chromium, chromium-driver)")
    options = ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()
