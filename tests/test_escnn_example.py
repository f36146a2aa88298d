"""The encoder of docs/escnn.md: its poses turn with the image."""

import re
from pathlib import Path

import pytest
import torch

from equipose.core.groups import motions, move_images
from equipose.model import encoders, rotation_tensors

ROOT = Path(__file__).parents[1]


def test_poses_of_the_c8_encoder_turn_with_the_image(small_run, monkeypatch):
    pytest.importorskip("escnn")
    (python,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/escnn.md").read_text(), re.DOTALL)
    monkeypatch.setattr(encoders, "ENCODERS", dict(encoders.ENCODERS))
    names = dict(vars(encoders))
    exec(compile(python, "docs/escnn.md", "exec"), names)
    torch.manual_seed(0)
    encoder = names["ENCODERS"]["c8"](small_run("d4_l2", 32).model, 32).eval()
    images = torch.randn(3, 32, 32)
    quarter = motions("c4")[1]
    with torch.no_grad():
        poses, shifts = encoder(images)
        turned, moved = encoder(move_images(quarter, images))
    assert torch.allclose(turned, rotation_tensors.pose_action(quarter[None])[0] @ poses, atol=1e-3)
    assert torch.allclose(moved, shifts @ quarter.T, atol=1e-3)
    assert not torch.allclose(turned, poses, atol=0.1)
