"""A real Chromium, and its complaints. The commands are those of .venv."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

EQUIPOSE = Path(__file__).parents[2] / ".venv/bin/equipose"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MINUTES = 60_000.0  # ms; a busy machine takes many


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def opened(browser: Browser, url: str, width: int) -> tuple[Page, list[str]]:
    """The page in a window of this width, and what its console complains of."""
    page, complaints = browser.new_page(viewport={"width": width, "height": 800}), []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith((url, "data:")) or complaints.append(asked.url))
    page.goto(url, timeout=MINUTES)
    return page, complaints
