"""Nothing is executed from data or results, and names of the configuration cannot leave the results folder."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from equipose.data.structures import read_atoms
from equipose.errors import ConfigError
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.training.checkpoint import restore

ROOT = Path(__file__).parents[1]


class Payload:
    """A pickle that makes a file if somebody unpickles it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return Path.touch, (self.proof,)


def test_the_payload_works_where_pickles_are_trusted(tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "proof"), tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "proof").exists()


def test_a_checkpoint_with_code_is_set_aside_and_not_run(small_run, tmp_path: Path) -> None:
    torch.save({"config": Payload(tmp_path / "proof")}, tmp_path / "checkpoint.pt")
    said: list[str] = []
    model = Autoencoder(small_run("d4_l2"), 1.0)
    assert restore(tmp_path, model, model, [], said.append) is None
    assert "set aside" in said[0]
    assert not (tmp_path / "proof").exists()


def test_a_model_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"config": Payload(tmp_path / "proof")}, tmp_path / "model.pt")
    with pytest.raises(Exception, match="[Ww]eights"):
        load_model(tmp_path / "model.pt")
    assert not (tmp_path / "proof").exists()


def test_a_structure_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    coords = np.array([Payload(tmp_path / "proof")], dtype=object)
    np.savez(tmp_path / "atoms.npz", coords=coords, elements=np.array([6]))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_atoms(tmp_path / "atoms.npz")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_trusts_a_file(path: Path) -> None:
    careless = (
        r"allow_pickle=True|weights_only=False|\bimport pickle|yaml\.(unsafe_|full_)?load\(|shell=True|os\.system"
    )
    careless += r"|(?<![.\w])(eval|exec)\("
    code = path.read_text()
    assert not re.search(careless, code)
    assert code.count("torch.load(") == len(re.findall(r"torch\.load\([^\n]*weights_only=True", code))
