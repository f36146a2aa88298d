"""The live page in a real Chromium: a reconstruction from its start to its end, and one that fails.

A run takes some four minutes of processor time.
"""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import EQUIPOSE, MINUTES, opened
from playwright.sync_api import Browser, expect


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,100 particles of the spliceosome."""
    folder = tmp_path_factory.mktemp("particles")
    (folder / "more.yaml").write_text("simulation: { images: 1050 }\n")
    made = Path("results/smoke/datasets/smoke_snr1/particles.star")
    options = ["--preset", "smoke", "--configfile", "more.yaml", "--cores", "1", "--quiet", "all"]
    subprocess.run([EQUIPOSE, "run", made, *options], cwd=folder, check=True, capture_output=True)
    return folder / made


def command(star: Path, out: Path, *options: str) -> subprocess.Popen:
    given = ["--starts", "1", "--fit-steps", "0", "--cores", "1", *options]
    return subprocess.Popen(
        [EQUIPOSE, "reconstruct", star, "--out", out, *given], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def address(process: subprocess.Popen) -> str:
    """Where the command says that its page is."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise AssertionError("no address was said")


def job_in(folder: Path, module: bytes) -> int:
    """The process that runs a module in this working folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if module in arguments and Path(os.readlink(process / "cwd")) == folder.resolve():
                return int(process.name)
    raise AssertionError(f"no {module!r} runs in {folder}")


def test_a_reconstruction_is_seen_from_its_start_to_its_end(browser: Browser, star: Path, tmp_path: Path) -> None:
    process = command(star, tmp_path / "out", "--serve", "18765")
    url = address(process)
    drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)  # a full pipe would stop it
    page, complaints = opened(browser, url, 360)
    try:
        expect(page.get_by_text("Running.")).to_be_visible(timeout=2 * MINUTES)
        expect(page.locator("[aria-current=step]").first).to_be_visible(timeout=5 * MINUTES)
        expect(page.get_by_text(re.compile(r"step \d+ of \d+ \((search|refine)\)"))).to_be_visible(timeout=20 * MINUTES)
        expect(page.locator("#maps img").first).to_be_visible(timeout=20 * MINUTES)
        page.screenshot(path=tmp_path / "running.png", full_page=True)
        expect(page.get_by_text("refinement, pass").first).to_be_visible(timeout=40 * MINUTES)
        expect(page.get_by_text("Done.")).to_be_visible(timeout=60 * MINUTES)
        expect(page.locator("#maps img")).to_have_count(6)
        assert all(page.locator("img").evaluate_all("all => all.map(one => one.alt && one.naturalWidth > 0)"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.screenshot(path=tmp_path / "done.png", full_page=True)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "to-report"
        page.keyboard.press("Enter")
        expect(page.get_by_text("Has it converged?")).to_be_visible(timeout=MINUTES)
        assert not complaints
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        drain.wait(120)
    assert code == 0 and (tmp_path / "out/poses.star").is_file()


def test_a_reconstruction_that_fails_shows_its_last_words(browser: Browser, star: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = command(star, out, "--serve", "18765")
    drain = None
    try:
        url = address(process)
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        page, complaints = opened(browser, url, 1280)
        while not any("step 0/" in log.read_text() for log in out.glob("work/logs/train/*/d4_search/seed0.log")):
            time.sleep(0.2)
            assert process.poll() is None
        os.kill(job_in(out, b"equipose.training.train"), signal.SIGKILL)
        expect(page.get_by_text("A job has failed").first).to_be_visible(timeout=10 * MINUTES)
        expect(page.locator("#failures pre").first).to_contain_text("killed (signal 9)")
        page.screenshot(path=tmp_path / "failed.png", full_page=True)
        assert not complaints
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        if drain:
            drain.wait(120)
    page.wait_for_timeout(8000)
    expect(page.locator("#link")).to_contain_text("no longer answers")
