"""The report of a preset in a real Chromium, as a file: pictures, a phone's width, the keyboard.

A run takes some three minutes of processor time.
"""

import subprocess
from pathlib import Path

import pytest
from conftest import EQUIPOSE, MINUTES, opened
from playwright.sync_api import Browser, Page

PHONE = 390

FEWER = """\
run: [smoke]
experiments: { smoke: { models: [c4_mir, d4_search] } }
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two short runs with all their figures."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "fewer.yaml").write_text(FEWER)
    options = ["--preset", "smoke", "--configfile", "fewer.yaml", "--cores", "1", "--quiet", "all"]
    for target in ([], ["report"]):
        subprocess.run([EQUIPOSE, "run", *target, *options], cwd=folder, check=True, capture_output=True)
    return folder / "results/smoke/report.html"


def focused(page: Page) -> dict:
    """The element that has the focus: its name, where it links to, and the width of its outline."""
    return page.evaluate(
        "{ const e = document.activeElement, s = getComputedStyle(e);"
        " ({ name: e.tagName, link: e.getAttribute('href'), outline: s.outlineStyle == 'solid' && s.outlineWidth }) }"
    )


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_the_report_is_whole_and_loads_nothing(browser: Browser, report: Path, tmp_path: Path, width: int) -> None:
    page, complaints = opened(browser, report.as_uri(), width)
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True, timeout=MINUTES)
    assert page.locator("figure img").count() >= 5 and page.locator("canvas").count() == 3
    assert all(page.locator("img").evaluate_all("all => all.map(one => one.alt && one.naturalWidth > 0)"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not complaints


def test_the_report_is_walked_and_its_maps_are_turned_by_the_keyboard(browser: Browser, report: Path) -> None:
    page, complaints = opened(browser, report.as_uri(), PHONE)
    page.keyboard.press("Tab")
    assert focused(page) == {"name": "A", "link": "#summary", "outline": "3px"}
    for _ in range(50):
        page.keyboard.press("Tab")
        if focused(page)["name"] == "CANVAS":
            break
    assert focused(page) == {"name": "CANVAS", "link": None, "outline": "3px"}
    picture = "document.activeElement.toDataURL()"
    before = page.evaluate(picture)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(picture) != before
    assert not complaints
