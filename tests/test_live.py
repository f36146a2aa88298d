"""The live page: what it says of a reconstruction, of a workflow's runs and of posed particles, from files alone."""

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import equipose
from test_symmetry_axes import blobs

from equipose.config.settings import Budget
from equipose.core.fourier_grid import from_real_map
from equipose.errors import ConfigError
from equipose.io.locks import alone, is_held, one_at_a_time
from equipose.io.maps import write_map
from equipose.model.autoencoder import Autoencoder
from equipose.pages import live
from equipose.pages.maps_so_far import halves_alike, map_so_far
from equipose.poses.search_stages import start_search
from equipose.study.course import read_course, refinement_left
from equipose.training.checkpoint import checkpoint
from equipose.training.run_progress import Progress

TRAINING = (
    "[half1 d4_search seed 0] step 0/400 (search), 0 s\n"
    "[half1 d4_search seed 0] step 100/400 (search), 50 s · 2.5 min left · 500 ms a step · loss 0.9000\n"
    "[half1 d4_search seed 0] step 200/400 (refine), 100 s · 1.7 min left · 500 ms a step · loss 0.5000\n"
)
REFINING = (
    "refinement 1/12: 50 images, 19 s left\nrefinement 1/12: 1000 images, 0 s left\n"
    "refinement 1/12: 900 poses changed\nrefinement 2/12: 500 images, 10 s left\n"
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def begun(small_run, tmp_path: Path) -> Path:
    """A reconstruction whose first half is at work."""
    folder = tmp_path / "abinitio"
    write(folder / "particles.yaml", "{}")
    config = dataclasses.replace(small_run(), budget=Budget.from_dict({"seconds": None, "steps": 400}))
    for half in (1, 2):
        write(folder / f"work/runs/half{half}/d4_search/seed0/config.json", config.to_json())
        write(folder / f"work/datasets/half{half}/particles.star", "")
        write(folder / f"work/logs/prepare/half{half}.log", "")
    write(folder / "work/logs/train/half1/d4_search/seed0.log", TRAINING)
    return folder


def run_of(folder: Path, half: int) -> Path:
    return folder / f"work/runs/half{half}/d4_search/seed0"


def keep_found(run: Path, small_run, volume: torch.Tensor) -> None:
    """A checkpoint of a run whose search has found this map."""
    model = Autoencoder(small_run(), 1.0)
    search = start_search(model)
    search.volume, search.alike = from_real_map(volume, len(volume) // 2), 0.93
    checkpoint(run, model, model, [], Progress(step=120, search=search))


def test_a_running_reconstruction_shows_stage_time_left_and_the_course_of_its_runs(begun: Path) -> None:
    shown = live.state(live.watched(begun))
    assert "<b>Running.</b>" in shown
    assert "About 5 minutes of training left" in shown  # 1.7 of half 1, and 400 steps of 0.5 s of half 2
    assert "✓ preparing the particles" in shown and 'aria-current="step">searching and training' in shown
    assert "step 200 of 400 (refine), 102 s left" in shown and 'value="0.5000"' in shown
    assert 'alt="Loss by step. half 1: 0.5 at 200"' in shown


def test_the_map_of_a_search_is_shown_and_how_alike_those_of_the_halves_are(
    begun: Path, small_run, monkeypatch
) -> None:
    monkeypatch.setattr(live.live_pictures, "surface", lambda _: "data:,")
    volume = blobs("C1", np.eye(3), np.zeros(3))
    for half, found in ((1, volume), (2, volume.flip(0).roll(1, 0))):
        keep_found(run_of(begun, half), small_run, found)
    so_far = map_so_far(run_of(begun, 1))
    assert so_far is not None and so_far.of == "of the search at step 120"
    assert (
        np.corrcoef(so_far.volume.ravel(), volume.numpy().ravel())[0, 1] > 0.99
    )  # without the corners of its transform
    shown = live.state(live.watched(begun))
    assert "Half 1, of the search at step 120" in shown and shown.count("sections through the middle") == 2
    assert "Half 1: two starts of its search are 0.93 alike." in shown
    assert "two half-sets&#39; maps are 1.00 alike" in shown


def test_maps_of_two_molecules_are_not_alike() -> None:
    one, other = blobs("C1", np.eye(3), np.zeros(3)).numpy(), blobs("D2", np.eye(3), np.zeros(3)).numpy()
    assert halves_alike(one, other, 9.0) < 0.8


def test_a_picture_is_drawn_again_only_when_its_file_has_changed(begun: Path, small_run, monkeypatch) -> None:
    drawn = []
    for name in ("surface", "sections"):
        monkeypatch.setattr(live.live_pictures, name, lambda volume: drawn.append(float(volume.max())) or "data:,")
    keep_found(run_of(begun, 1), small_run, blobs("C1", np.eye(3), np.zeros(3)))
    ours = live.watched(begun)
    live.state(ours)
    live.state(ours)
    assert len(drawn) == 2
    keep_found(run_of(begun, 1), small_run, 2 * blobs("C1", np.eye(3), np.zeros(3)))
    live.state(ours)
    assert len(drawn) == 4 and drawn[2] == pytest.approx(2 * drawn[0], rel=1e-3)


def test_a_failed_job_is_shown_with_its_last_words_as_text(begun: Path) -> None:
    log = begun / "work/logs/train/half1/d4_search/seed0.log"
    log.write_text(TRAINING + "Traceback (most recent call last):\n  …\nRuntimeError: <b>CUDA</b> error\n")
    for path in (log, *begun.rglob("*.yaml"), *begun.rglob("*.log")):
        os.utime(path, (time.time() - 600,) * 2)
    shown = live.state(live.watched(begun))
    assert "<b>Failed.</b>" in shown and "✗ searching and training (failed)" in shown
    assert "logs/train/half1/d4_search/seed0.log" in shown and "RuntimeError: &lt;b&gt;CUDA&lt;/b&gt; error" in shown


def test_a_reconstruction_without_news_is_at_rest_unless_its_snakemake_lives(begun: Path) -> None:
    for path in (*begun.rglob("*.yaml"), *begun.rglob("*.log")):
        os.utime(path, (time.time() - 600,) * 2)
    assert "<b>At rest.</b>" in live.state(live.watched(begun))
    (begun / live.ALIVE.parent).mkdir()
    with one_at_a_time(begun / live.ALIVE, print):
        assert is_held(begun / live.ALIVE)
        assert "<b>Running.</b>" in live.state(live.watched(begun))
    assert not is_held(begun / live.ALIVE)


def test_a_finished_reconstruction_shows_its_verdict_maps_fsc_and_the_way_to_the_report(
    begun: Path, monkeypatch
) -> None:
    monkeypatch.setattr(live.live_pictures, "surface", lambda _: "data:,")
    done = begun / "work/maps/particles"
    for name in ("volume", "half1", "half2"):
        write_map(done / f"{name}.mrc", blobs("C1", np.eye(3), np.zeros(3)).numpy(), 17.0)
    write(done / "report.html", "<p>the report</p>")
    write(done / "fsc.csv", "shell,frequency_per_angstrom,corrected\n0,0,1\n1,0.01,0.99\n2,0.02,0.91\n")
    summary = {"halves_agree": [1.0, 0.97], "halves_compared": [600, 500], "agree_within_degrees": 15.0}
    summary |= {"verdict": {"state": "converged", "text": "Yes."}, "resolution_angstrom": {"corrected": 36.3}}
    write(done / "reconstruction.json", json.dumps(summary))
    for half in (1, 2):
        write(run_of(begun, half) / "model.pt", "")
        write(run_of(begun, half) / "metrics.json", "{}")
    ours = live.watched(begun)
    (begun / live.ALIVE.parent).mkdir()
    with one_at_a_time(begun / live.ALIVE, print):
        assert "<b>Done.</b>" not in live.state(ours)  # Snakemake still draws, and nothing is handed out yet
    shown = live.state(ours)
    assert "<b>Done.</b> Converged. Yes. FSC = 0.143 at 36.3 Å" in shown and 'href="/report"' in shown
    assert shown.count("✓") == 4 and "gives 97% of 500 the same pose within 15°" in shown
    assert "FSC of the half-maps; 0.91 at the last shell" in shown and shown.count("sections through") == 3
    report = live.report(ours)
    assert report is not None and report.read_text() == "<p>the report</p>"


def test_of_a_workflow_s_runs_all_are_counted_and_those_at_work_are_shown(begun: Path) -> None:
    results = begun / "work"
    (begun / "particles.yaml").unlink()
    write(
        results / "logs/train/half2/d4_search/seed0.log", "[x] step 5, 3 s · 9.0 min left · MSE 2.0\nerror: no memory\n"
    )
    shown = live.state(live.watched(results))
    assert "2 runs: 1 running, 1 failed" in shown and "error: no memory" in shown
    assert "half1/d4_search/seed0" in shown


def test_of_several_classes_the_stages_and_each_class_are_shown_to_the_end(begun: Path) -> None:
    write(begun / "particles.yaml", "reconstructions: {particles: {classes: 2}}")
    ours = live.watched(begun)
    assert "sorting into classes" in live.state(ours) and "search" not in live.state(ours)
    write(begun / "work/classes/particles/classes.json", "{}")
    write(begun / "class1/particles.yaml", "{}")
    os.utime(begun / "particles.yaml", (0, 0))
    for path in (begun / "work/logs").rglob("*.log"):
        os.utime(path, (0, 0))
    assert "At rest" in live.state(ours)
    with alone(begun / "work/reconstruct.lock", ""):  # only the class's own Snakemake is at work
        shown = live.state(ours)
    assert "Running" in shown and "class1: stage 1 of 4: preparing the particles" in shown
    write(begun / "report.html", "")
    for summary in ({"halves_agree": [1.0, 1.0]}, {"text": "of others", "particles": [[1, 2]], "reconstructed": []}):
        write(begun / "work/classes/particles/classes.json", '{"particles": [[5, 4]]}')
        write(begun / "reconstruction.json", json.dumps(summary))  # of a former command
        shown = live.state(ours)
        assert "At rest" in shown and "of others" not in shown and "Open the report" not in shown
        assert live.report(ours) is None
    summary = {"text": "class 1: 9 particles", "particles": [[5, 4]], "reconstructed": []}
    write(begun / "reconstruction.json", json.dumps(summary))
    shown = live.state(ours)
    assert "Done" in shown and "class 1: 9 particles" in shown and "Open the report" in shown


def test_one_map_after_several_classes_does_not_show_what_these_have_left(begun: Path) -> None:
    write(begun / "reconstruction.json", json.dumps({"text": "class 1: 9 particles", "reconstructed": []}))
    write(begun / "report.html", "")
    ours = live.watched(begun)
    shown = live.state(ours)
    assert "<b>Running.</b>" in shown and "class 1" not in shown and live.report(ours) is None


def test_posed_particles_are_counted_file_by_file(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write(tmp_path / name / "settings.json", "{}")
    for name, count in (("one", 300), ("two", 200)):
        summary = {"particles": [count, 50], "median_score": 0.4, "doubtful_share": 0.02}
        write(tmp_path / name / "pose.json", json.dumps(summary))
        write(tmp_path / name / "poses.star", "")
    write(tmp_path / "three/pose.json", json.dumps(summary))  # its poses.star, the last file, is not there yet
    shown = live.state(live.watched(tmp_path))
    assert "600 particles of 2 files are posed; 1 files are at work." in shown
    assert "<tr><td>one</td><td>350</td><td>0.400</td><td>2.0 %</td></tr>" in shown


def test_a_folder_that_goes_away_is_said_to_be_gone_and_is_seen_again(begun: Path) -> None:
    ours = live.watched(begun)
    aside = begun.rename(begun.with_name("aside"))
    assert "it was deleted or moved" in live.state(ours)
    aside.rename(begun)
    assert "<b>Running.</b>" in live.state(ours)


def test_a_broken_file_is_said_to_be_broken_and_is_no_end_of_the_page(begun: Path, monkeypatch) -> None:
    ours = live.watched(begun)
    monkeypatch.setattr(live, "last_words", lambda _: json.loads("{"))
    assert "Some file cannot be read (Expecting property name" in live.state(ours)
    monkeypatch.undo()
    assert "<b>Running.</b>" in live.state(ours)


def test_a_folder_that_is_not_ours_is_refused_with_one_message(tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(ConfigError, match="no folder of ours"):
        live.watched(tmp_path)
    for folder in (tmp_path, tmp_path / "none", __file__):
        assert equipose(monkeypatch, "watch", folder) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_the_course_of_a_run_is_read_from_its_logs() -> None:
    course = read_course((TRAINING + REFINING).splitlines())
    assert course.losses == {100: 0.9, 200: 0.5} and (course.step, course.steps, course.rate) == (200, 400, 0.5)
    assert course.changed == [900] and course.passes == 12
    assert refinement_left(course) == 10 + 10 * 19
    assert refinement_left(read_course(TRAINING.splitlines())) is None
