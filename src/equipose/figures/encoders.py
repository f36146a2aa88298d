"""The encoders, drawn from the models themselves: layers, shapes and types (paper, Fig. 6).

`python -m equipose.figures.encoders --runs DIR … --output PATH`

Each encoder is built from its run's configuration and gets an image. A bar is a layer that has weights or changes the
shape. Its height is the number of pixels and its width the number of channels, both on a logarithmic scale. Parts that
read the same features, such as the two heads, have a lane each.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from equipose.config.settings import RunConfig
from equipose.figures.command_line import command_line
from equipose.figures.style import PAGE, PALETTE, paper_style, save
from equipose.io.progress import run_main
from equipose.model.autoencoder import Autoencoder
from equipose.model.encoders import GroupConv, InnerBatchNorm, VectorHead

LAYERS = (GroupConv, InnerBatchNorm, VectorHead)
"""Modules that are one layer, though they may hold others."""

COLOURS = {"convolution": PALETTE[5], "linear": PALETTE[4], "filter": "0.75", "pooling": PALETTE[2], "other": "0.9"}


@dataclass(frozen=True)
class Layer:
    """A layer as it ran: its `lane` (a part of the encoder), `kind`, and its output as `channels` × `pixels`²."""

    lane: str
    kind: str
    channels: int
    pixels: int
    weights: int
    note: str

    def text(self) -> str:
        return f"{self.channels}" + (f" × {self.pixels}²" if self.pixels > 1 else "") + f"\n{self.note}"


def layers_of(encoder: nn.Module, box: int) -> list[Layer]:
    """The layers of `encoder` for an image of `box` pixels, in the order of execution."""
    ran: list[Layer] = []

    def record(lane: str, module: nn.Module, before: tuple[Tensor, ...], after: object) -> None:
        if not isinstance(after, Tensor) or after.dim() < 2:
            return
        channels, pixels = _shape(after)
        weights = sum(parameter.numel() for parameter in module.parameters())
        normalises = isinstance(module, InnerBatchNorm | nn.modules.batchnorm._BatchNorm)
        if normalises or (not weights and _shape(before[0]) == (channels, pixels)):
            return
        ran.append(Layer(lane, _kind(module), channels, pixels, weights, _note(module)))

    hooks = [
        module.register_forward_hook(
            lambda module, before, after, lane=name.split(".")[0]: record(lane, module, before, after)
        )
        for name, module in _leaves("", encoder)
    ]
    with torch.no_grad():
        encoder.eval()(torch.randn(2, box, box))
    for hook in hooks:
        hook.remove()
    return ran


def draw_encoder(axes: Axes, title: str, encoder: nn.Module, box: int) -> set[str]:
    """The encoder from left to right: its first part, then every other part as a lane of its own. Returns its kinds."""
    ran = layers_of(encoder, box)
    lanes = list(dict.fromkeys(layer.lane for layer in ran))
    trunk = sum(layer.lane == lanes[0] for layer in ran)
    longest = max((sum(layer.lane == lane for layer in ran) for lane in lanes[1:]), default=0)
    columns = trunk + longest + 1.4
    size = min(6.5, 72 * PAGE / columns / 5.2)  # the text of a bar is as wide as its column
    for number, lane in enumerate(lanes):
        level = 0.0 if number == 0 else 2.4 * ((len(lanes) - 2) / 2 - (number - 1))
        left = 0.0 if number == 0 else trunk + 0.6
        for index, layer in enumerate(layer for layer in ran if layer.lane == lane):
            height = 0.3 + 0.3 * torch.log2(torch.tensor(float(layer.pixels))).item()
            width = 0.12 + 0.08 * torch.log2(torch.tensor(float(layer.channels))).item()
            corner = (left + index - width / 2, level - height / 2)
            axes.add_patch(Rectangle(corner, width, height, fc=COLOURS[layer.kind], ec="0.2", lw=0.5))
            axes.annotate(layer.text(), (left + index, level - height / 2 - 0.08), ha="center", va="top", fontsize=size)
        if number:
            axes.annotate(lane.replace("_", " "), (left - 0.3, level + 0.45), fontsize=7)
            axes.plot([trunk - 0.6, left - 0.4], [0, level], color="0.5", lw=0.7)
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    axes.set_title(f"{title}: {weights:,} weights", loc="left")
    axes.set_xlim(-0.8, columns - 0.8)
    axes.set_ylim(-2.6, 2.2)
    axes.set_axis_off()
    return {layer.kind for layer in ran}


def plot_encoders(runs: list[Path], output: Path) -> None:
    """A row for each encoder (with its sizes) that the runs in these folders have."""
    configs = [RunConfig.load(folder / "config.json") for folder in runs]
    distinct = {(config.model.encoder, config.model.widths, config.dataset.box): config for config in configs}
    with paper_style():
        figure, column = pyplot.subplots(
            len(distinct), 1, figsize=(PAGE, 2.3 * len(distinct) + 0.3), squeeze=False, layout="constrained"
        )
        drawn: set[str] = set()
        for axes, ((name, _, box), config) in zip(column[:, 0], distinct.items(), strict=True):
            drawn |= draw_encoder(axes, f"{name}, {box} px", Autoencoder(config, image_scale=1.0).encoder, box)
        handles = {
            kind: Rectangle((0, 0), 1, 1, fc=COLOURS[kind], ec="0.2", lw=0.5) for kind in COLOURS if kind in drawn
        }
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
        save(figure, output)


def main() -> None:
    arguments = command_line("encoders", __doc__.splitlines()[0]).parse_args()
    plot_encoders(arguments.runs, arguments.output)


def _leaves(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that are layers, with their full names."""
    children = list(module.named_children())
    if isinstance(module, LAYERS) or not children:
        return [(name, module)]
    return [leaf for child, part in children for leaf in _leaves(f"{name}.{child}".strip("."), part)]


def _shape(features: Tensor) -> tuple[int, int]:
    """Channels and pixels a side of features (b, c, h, w), images (b, h, w) or vectors (b, c)."""
    if features.dim() == 4:
        return features.shape[1], features.shape[2]
    return (
        (1, features.shape[1])
        if features.dim() == 3 and features.shape[1] == features.shape[2]
        else (features[0].numel(), 1)
    )


def _kind(module: nn.Module) -> str:
    if isinstance(module, GroupConv | nn.Conv2d):
        return "convolution"
    if isinstance(module, nn.Linear | VectorHead):
        return "linear"
    if any(True for _ in module.parameters()):
        return "other"
    return "pooling" if "Pool" in type(module).__name__ else "filter" if "Pyramid" in type(module).__name__ else "other"


def _note(module: nn.Module) -> str:
    """The kernel and the type of field, which the bar does not show."""
    if isinstance(module, GroupConv):
        size = module.block_shape[-1]
        return f"{size}×{size}\nregular\n{module.weight.shape[0]} fields"
    if isinstance(module, nn.Conv2d):
        return f"{module.kernel_size[0]}×{module.kernel_size[1]}"
    if isinstance(module, VectorHead):
        vectors = module.weight.shape[0]
        return f"{vectors} vector" + "s" * (vectors > 1)
    names = {"MaxPool2d": "max", "AvgPool2d": "mean", "GaussianPyramid": "Gaussians", "Linear": "", "Flatten": "flat"}
    return names.get(type(module).__name__, type(module).__name__)


if __name__ == "__main__":
    run_main(main)
