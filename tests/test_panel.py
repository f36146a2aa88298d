"""Scores of a reconstruction of simulated particles, on poses and maps that were moved on purpose."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation

from equipose.config.settings import SimulationConfig
from equipose.core.point_groups import group
from equipose.core.rotations import HAND_FLIP, from_relion_angles, to_relion_angles
from equipose.data.simulate import simulate
from equipose.io.maps import write_map
from equipose.io.particle_tables import ANGLES, read_tables, write_star
from equipose.study import panel

BOX, VOXEL, IMAGES = 32, 4.0, 90
FRAME = Rotation.from_euler("ZYZ", [40, 70, 15], degrees=True).as_matrix()


def blobs() -> np.ndarray:
    """A map (L, L, L) of three blobs that C3 turns into each other, and one on its axis."""
    volume, away = np.zeros((BOX,) * 3, np.float32), np.array([6.0, 1.0, 2.0])
    for centre in [*(turn @ away for turn in group("C3")), np.array([0, 0, -5.0])]:
        x, y, z = np.round(centre).astype(int) + BOX // 2
        volume[z, y, x] = 1
    return scipy.ndimage.gaussian_filter(volume, 1.8)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "c3"
    folder.mkdir()
    own = {"name": "c3", "structure": "blobs", "box": BOX, "voxel_size": VOXEL, "symmetry": "C3", "snr": 1.0}
    config = SimulationConfig.from_dict(own | {"images": IMAGES, "held_out": 0, "shift_std": 0.0}, "c3")
    (folder / "config.json").write_text(config.to_json())
    write_map(folder / "volume.mrc", blobs(), VOXEL)
    simulate(config, folder / "volume.mrc", folder, 1, lambda *_: None)
    return folder


def reconstruction(dataset: Path, wrong: int = 0, agree: float = 1.0) -> Path:
    """A folder with the true poses in another frame, each at a random mate, and the first `wrong` ones at random."""
    folder, rng = dataset.parent / "found", np.random.default_rng(0)
    folder.mkdir()
    optics, table = read_tables(dataset / "particles.star")
    true = from_relion_angles(table[list(ANGLES)].to_numpy(float))
    found = true @ group("C3")[rng.integers(3, size=IMAGES)] @ FRAME
    found[:wrong] = Rotation.random(wrong, random_state=1).as_matrix()
    table[list(ANGLES)] = to_relion_angles(found)
    table["rlnRandomSubset"] = np.where(np.arange(IMAGES) < IMAGES // 2, 1, 2)
    write_star(folder / "poses.star", optics, table)
    # V_true(x) = V_found(Gᵀ x) for R_found = R_true S G: with arrays' axes (z, y, x), by scipy
    matrix = FRAME[::-1, ::-1]
    middle = np.full(3, BOX // 2)
    turned = scipy.ndimage.affine_transform(blobs(), matrix, middle - matrix @ middle, order=3)
    write_map(folder / "volume.mrc", turned.astype(np.float32), VOXEL)
    summary = {"agree_within_degrees": 15.0, "halves_compared": [45, 45], "halves_agree": [agree] * 2}
    summary |= {"agree_modulo": "C3", "resolution_angstrom": {"corrected": 12.0}, "fsc_off_centre": 0.9}
    (folder / "reconstruction.json").write_text(json.dumps(summary))
    return folder


def test_a_perfect_reconstruction_in_another_frame_and_at_other_mates_scores_full(dataset: Path) -> None:
    found = panel.score(reconstruction(dataset), dataset, 7.5)
    assert (found["half_1"], found["half_2"], found["both"]) == (1, 1, 1) and found["median_degrees"] < 0.1
    assert found["map_correlation"] > 0.99
    assert (found["verdict"], found["right_verdict"], found["processor_seconds"]) == ("converged", True, 7.5)


def test_a_wrong_half_is_counted_and_its_verdict_is_wrong(dataset: Path) -> None:
    found = panel.score(reconstruction(dataset, wrong=IMAGES // 2), dataset, 7.5)
    assert found["half_1"] < 0.4 and found["half_2"] == 1 and 0.5 <= found["both"] < 0.6
    assert not found["right_verdict"]


def test_a_map_in_the_other_hand_is_compared_in_the_true_one(dataset: Path) -> None:
    folder = reconstruction(dataset)
    optics, table = read_tables(folder / "poses.star")
    rotations = HAND_FLIP @ from_relion_angles(table[list(ANGLES)].to_numpy(float)) @ HAND_FLIP
    table[list(ANGLES)] = to_relion_angles(rotations)
    write_star(folder / "poses.star", optics, table)
    volume = panel.read_map(folder / "volume.mrc")[0]
    write_map(folder / "volume.mrc", np.roll(volume[::-1], 1, axis=0), VOXEL)  # z → -z about voxel L/2
    found = panel.score(folder, dataset, 7.5)
    assert found["both"] == 1 and found["map_correlation"] > 0.99


@pytest.mark.parametrize(
    ("state", "within", "right"),
    [
        ("converged", 0.95, True),
        ("converged", 0.85, False),
        ("partly converged", 0.75, True),
        ("partly converged", 0.6, False),
        ("not converged", 0.85, True),
        ("not converged", 0.95, False),
    ],
)
def test_a_verdict_is_right_or_wrong_by_the_share_of_right_poses(
    state: panel.State, within: float, right: bool
) -> None:
    assert panel.is_right(state, within) == right


def test_the_table_has_a_line_for_each_score(dataset: Path) -> None:
    lines = panel.table([panel.score(reconstruction(dataset), dataset, 7.5)])
    rounded = lines["map_correlation"][0]
    assert panel.markdown(lines).splitlines()[2] == (
        f"| c3 | C3 | {IMAGES} | 100.0 | 100.0 | 100.0 | 0.0° | {rounded} | C3 | converged | yes | 8 s |"
    )


def test_the_processor_seconds_are_those_of_all_commands_and_of_their_whole_length(tmp_path: Path) -> None:
    """Of a fresh process, as the panel's is: other tests have children, too."""
    known, work = tmp_path / "seconds.json", "sum(range(30_000_000))"
    code = "import subprocess, sys; from pathlib import Path; from equipose.study.panel import add_processor_seconds\n"
    code += f"subprocess.run([sys.executable, '-c', {work!r}], check=True)\n"
    code += f"print(add_processor_seconds(Path({str(known)!r}), sys.argv[1]))"
    first, second, anew = (
        float(subprocess.run([sys.executable, "-c", code, of], check=True, capture_output=True, text=True).stdout)
        for of in ("these", "these", "others")
    )
    assert first > 0.1 and second > first + 0.1 and anew < second, "other particles begin at 0"
    assert json.loads(known.read_text()) == {"of": "others", "seconds": pytest.approx(anew, abs=0.1)}
