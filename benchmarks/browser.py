"""A real browser without a window, for what only a browser can tell."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "needs Chromium and chromedriver (Debian: chromium-driver)"


@contextmanager
def browser(*flags: str, window: str = "1360,1000") -> Iterator[webdriver.Chrome]:
    """Chromium with WebGL on the CPU, and logs of its console and of the network."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    common = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars")
    webgl = () if "--disable-3d-apis" in flags else ("--enable-unsafe-swiftshader",)
    with tempfile.TemporaryDirectory() as profile:
        own = (f"--window-size={window}", f"--user-data-dir={profile}", *flags)
        for flag in (*common, *webgl, *own):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        driver.set_page_load_timeout(240)
        driver.set_script_timeout(240)
        try:
            yield driver
        finally:
            driver.quit()


_OWN = ("data:", "blob:", "chrome:")
"""What is in the page itself, and what the browser's new tab shows of its own."""


def requests(driver: webdriver.Chrome) -> set[str]:
    """What was asked of a network or a disk since the log was last read, but for the page's own."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    return {url for url in urls - {driver.current_url} if not url.startswith(_OWN)}


def until(condition, seconds: float = 120):
    """What a condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return value
