"""The moment at which a dataset's runs mixed both hands most; Figs. 7 to 12 show it."""

from dataclasses import dataclass

import numpy as np

from equipose.core.mirror_plane import MirrorPlane, alignment_of_most, mirror_of_poses, mirror_plane, moved_volume
from equipose.core.point_groups import nearest_mates
from equipose.errors import ConfigError
from equipose.study.runs import Run, dataset_title

MIXED_SHARE = 0.25
"""Hands count as mixed if the rarer hand has at least this part of the images; only then is the plane sought."""

SNAPSHOT = "mixture_peak"
"""Name, in trace.npz, of the map at that moment."""


@dataclass(frozen=True)
class Mixture:
    """A run at evaluation `index`: the rotations (n, 3, 3) of the fixed images then, at the `end`, and the true ones.

    Everything is in the frame of the truth, by the hand and rotation of most images: predicted rotations, `volume`
    (L, L, L), its mirror `plane`, and `normal` (3,) of the plane between the poses of both hands. The relation between
    the hands departs from this mirroring by a `twist` in degrees.
    """

    run: Run
    index: int
    predicted: np.ndarray
    end: np.ndarray
    true: np.ndarray
    volume: np.ndarray
    plane: MirrorPlane
    normal: np.ndarray
    twist: float

    @property
    def rarer_share(self) -> float:
        """Part of the images in the rarer hand."""
        return float(self.run.history.iloc[self.index][["share_same", "share_mirror"]].min())

    @property
    def mixed(self) -> bool:
        """Whether the hands were mixed at all; a few per cent of the images agree in the wrong hand by chance."""
        return self.rarer_share >= MIXED_SHARE

    @property
    def title(self) -> str:
        """Dataset, model and seed. The title also says if hands were hardly mixed: then the effect is absent."""
        run = f"{dataset_title(self.run.dataset)}: {self.run.label}, seed {self.run.seed}"
        never = (
            f"Hands were hardly mixed: never more than {100 * self.rarer_share:.0f} % of the images in the rarer hand"
        )
        return run if self.mixed else f"{run}\n{never}"

    def shares(self, index: int) -> str:
        """Images in each hand at an evaluation, the larger part first."""
        row = self.run.history.iloc[index]
        parts = sorted((row["share_same"], row["share_mirror"]), reverse=True)
        return " and ".join(f"{100 * part:.0f} %" for part in parts)

    def when(self, index: int) -> str:
        seconds = self.run.history["seconds"].iloc[index]
        return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.0f} s"


def most_mixed(runs: list[Run]) -> tuple[Run, int]:
    """The run and evaluation, after the first, with the largest share of images in the rarer hand.

    Raises ConfigError where no run has a truth.
    """
    scored = [run for run in runs if "share_same" in run.history]
    if not scored:
        raise ConfigError("no run of the dataset has true poses; without them, hands cannot be told apart.")

    def rarer(run: Run) -> np.ndarray:
        return run.history[["share_same", "share_mirror"]].min(axis=1).to_numpy()[1:]

    run = max(scored, key=lambda run: rarer(run).max())
    return run, 1 + int(rarer(run).argmax())


def read_mixture(runs: list[Run]) -> Mixture:
    """The moment of the strongest mixture among some runs of one dataset."""
    run, index = most_mixed(runs)
    trace = np.load(run.folder / "trace.npz")
    true, predicted, end = trace["true"], trace["predicted"][index], trace["predicted"][-1]
    alignment = alignment_of_most(predicted, true, run.group)
    normal, twist = mirror_of_poses(predicted, true, run.group)
    aligned = alignment.rotations(predicted)
    snapshot = trace["volumes"][trace["volume_names"].tolist().index(SNAPSHOT)].astype(np.float32)
    volume = moved_volume(snapshot, alignment.volume_map())
    return Mixture(
        run=run,
        index=index,
        predicted=aligned,
        end=alignment_of_most(end, true, run.group).rotations(end),
        true=nearest_mates(true, aligned, run.group),
        volume=volume,
        plane=mirror_plane(volume),
        normal=normal,
        twist=twist,
    )
