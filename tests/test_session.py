"""The public names: what they stand for, what importing them loads, and the example in the docstring of each."""

import dataclasses
import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import equipose
from equipose.config.settings import merge
from equipose.core.mask import solvent_mask
from equipose.errors import ConfigError
from equipose.io.particles import Particles, read_particles
from equipose.model.autoencoder import Autoencoder, save_model
from equipose.reconstruction import session

FIRST = ("simulate", "search", "encode", "refine")
"""Their examples make what the other examples use."""


def test_every_public_name_has_a_docstring_with_an_example() -> None:
    for name in equipose.PUBLIC:
        assert ">>> " in (getattr(equipose, name).__doc__ or ""), name
    assert set(equipose.PUBLIC) <= set(dir(equipose))
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        equipose.nothing_of_ours  # noqa: B018


def test_importing_the_package_loads_nothing_numerical() -> None:
    code = "import sys; from equipose import PUBLIC; print({'numpy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_images_of_an_odd_size_are_not_back_projected() -> None:
    """Their middle is no pixel L/2: the map would be moved by half a pixel, and have one voxel less."""
    nothing = pd.DataFrame()
    particles = Particles(
        np.zeros((1, 33, 33), np.float32), np.zeros((1, 7), np.float32), 4.0, None, None, nothing, nothing
    )
    with pytest.raises(ConfigError, match="images of 33 pixels have no pixel L/2"):
        session.back_project(particles, np.eye(3)[None], np.zeros((1, 2)))


def test_the_notebook_was_run_whole_and_keeps_its_pictures() -> None:
    """`make notebook` runs it again."""
    cells = json.loads((Path(__file__).parents[1] / "docs/particles-to-map.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(cells) <= 20 and [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert not [output for output in outputs if output["output_type"] == "error"]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches and networks that learn nothing, in a second."""
    few = {"batch": 10, "steps": 2, "orientations": [50, 60], "refine_orientations": 60, "refine_radii": [5]}
    changed = {"training": {"search": few, "widths": [8, 16, 16], "decoder_width": 16, "head_widths": [16, 16]}}
    changed |= {"models": {"d4_search": {"refine_passes": 1}}}
    whole = session.settings()
    monkeypatch.setattr(session, "settings", lambda: merge(whole, changed))


def test_fewer_images_than_a_training_step_takes_are_searched_too(short: None, simulated_dataset) -> None:
    particles = read_particles(simulated_dataset.folder / "particles.star")
    seven = dataclasses.replace(particles, images=particles.images[:7], ctf=particles.ctf[:7], rotations=None)
    model = equipose.search(seven, starts=1, fit_steps=1)
    assert model.config.model.batch == 7 and model.found is not None and model.found.isfinite().all()


def test_the_example_of_every_public_name_is_right(short: None, tmp_path: Path, small_run) -> None:
    names = {name: getattr(equipose, name) for name in equipose.PUBLIC} | {"folder": tmp_path, "np": np}
    config = small_run(box=32)
    save_model(Autoencoder(config, 1.0), tmp_path / "model.pt")
    runner, finder = doctest.DocTestRunner(), doctest.DocTestFinder(recurse=False)
    for name in sorted(equipose.PUBLIC, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        example = inspect.unwrap(names[name])
        for test in finder.find(example, name, globs=names):
            runner.run(test, clear_globs=False)
            names = names | test.globs
        if name == "simulate":
            names["volume"] = equipose.read_map(tmp_path / "volume.mrc")[0]
            names["voxel_size"] = 17.0
            names["mask"] = solvent_mask(torch.from_numpy(names["volume"])).numpy()
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 20
