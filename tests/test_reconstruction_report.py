"""The page of a reconstruction without a truth: one file, nothing loaded, readable on a telephone."""

import html.parser
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from equipose.pages.reconstruction_report import build

TEMPLATE = Path(__file__).parents[1] / "workflow/report/reconstruction.html.jinja"


@pytest.fixture(scope="module")
def page(joined: Path) -> str:
    return build(joined, joined, TEMPLATE, "particles")


def test_it_loads_nothing_from_elsewhere_and_every_picture_is_there(page: str) -> None:
    class Addresses(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.extend(value for name, value in attributes if name in ("src", "href"))

    found: list[str] = []
    Addresses().feed(page)
    assert all(address.startswith(("data:", "#")) for address in found)
    assert page.count("data:image/png") == 8 and page.count("<canvas") == 3


def test_the_directions_in_which_the_half_maps_agree_least_and_most_are_shown(joined: Path, page: str) -> None:
    known = json.loads((joined / "reconstruction.json").read_text())["directional_fsc"]
    assert known["worst_angstrom"] >= known["best_angstrom"] and "cones of 20°" in page


def test_a_folder_of_before_directions_were_measured_has_a_page_too(joined: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(joined, tmp_path / "older")
    summary = json.loads((folder / "reconstruction.json").read_text())
    del summary["directional_fsc"]
    (folder / "reconstruction.json").write_text(json.dumps(summary))
    assert "cones of 20°" not in build(folder, folder, TEMPLATE, "particles")


def test_it_says_in_words_whether_it_converged_and_that_the_hand_is_unknown(page: str) -> None:
    assert "<b>Converged.</b>" in page and "How sure is that?" in page and "hand is undetermined" in page
    assert "36.3 Å" in page and "gold standard" in page


def test_it_says_how_many_images_show_something_else_and_how_to_leave_them_out(joined: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(joined, tmp_path / "junk")
    summary = json.loads((folder / "reconstruction.json").read_text())
    summary["junk"] |= {"below": 340, "share": 0.29, "molecule_lost": 0.012}
    (folder / "reconstruction.json").write_text(json.dumps(summary))
    page = build(folder, folder, TEMPLATE, "particles")
    assert "<b>340 of 1201 images</b>" in page and "costs 1.2 %" in page and "equipose select DIR" in page
    summary["junk"]["threshold"] = None
    (folder / "reconstruction.json").write_text(json.dumps(summary))
    assert "no threshold is proposed" in build(folder, folder, TEMPLATE, "particles")
    (folder / "reconstruction.json").write_text(json.dumps({key: summary[key] for key in summary if key != "junk"}))
    (folder / "detail_scores.csv").unlink()
    assert "Images of something else" not in build(folder, folder, TEMPLATE, "particles"), "a folder of before"


def test_a_reconstruction_in_which_nothing_is_resolved_has_a_page_that_says_so(joined: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(joined, tmp_path / "lost")
    summary = json.loads((folder / "reconstruction.json").read_text())
    summary["resolution_angstrom"]["corrected"] = None
    lost = {"halves_agree": [0.01, 0.0], "resolved_to_the_last_shell": False, "junk": None}
    (folder / "reconstruction.json").write_text(json.dumps(summary | lost))
    page = build(folder, folder, TEMPLATE, "particles")
    assert "left out" not in page and "repeat an image" not in page
    assert "<b>Not converged.</b>" in page and "Do not use this map" in page and "No resolution is claimed" in page


def test_particles_that_were_left_out_and_those_that_repeat_an_image_are_counted(joined: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(joined, tmp_path / "selected")
    summary = json.loads((folder / "reconstruction.json").read_text())
    assert summary["repeats"] == 0
    (folder / "reconstruction.json").write_text(json.dumps(summary | {"left_out": 600, "repeats": 70}))
    page = build(folder, folder, TEMPLATE, "particles")
    assert "<code>--select</code> left out 600 others." in page
    assert "70 rows repeat an image of an earlier row; all rows of an image are in one half." in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("width", [500, 1280])  # headless chromium's narrowest window
def test_a_browser_shows_it_without_errors(page: str, tmp_path: Path, width: int) -> None:
    probe = "<script>document.title = drawings.length + ' maps, ' + (document.body.scrollWidth <= innerWidth)</script>"
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{probe}</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += [f"--window-size={width},900", "--virtual-time-budget=3000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=120)
    assert "<title>3 maps, true</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
