"""The settings of a dataset, a model and a run: frozen dataclasses, the only source of keys, limits and defaults.

`Configuration` is config.yaml with presets laid over it. `python -m equipose.config.schema` writes the schema file and
the commented defaults of config.yaml from these classes. The other classes are stored as a `config.json` beside the
outputs of a dataset or a run. The command-line modules read that file and nothing else.

Defaults are the paper's. A stored file that lacks a key was written by a version without that key, and gets the
default: the default of an added key must be what versions without it did. The order of keys must stay, too: a run's
checkpoint and the fingerprint of a dataset are compared with the text of `to_json`.
"""

import dataclasses
import itertools
import json
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from equipose.config.complaints import complaint, unknown_keys
from equipose.errors import ConfigError

Precision = Literal["float32", "bfloat16"]

Box = Literal[32, 64, 128, 256]
TRAINING_BOXES: tuple[int, ...] = get_args(Box)
"""Pixels; the encoders halve them evenly down to 4."""

SHIFT, LEAST_SHIFT = 0.03, 4.0
"""The usual standard deviation of particles' shifts: this part of the box, or so many Å if that is more. Picks are
off by a part of the particle's size, and by the pixels of the micrographs that they were picked on, often 4 to 8 Å.
By ten Å at least, the search for a molecule of 86 Å tried shifts of up to a third of its size, 3.5 times as many.
"""

Selection = tuple[tuple[str, float | None, float | None], ...]
"""Columns, with the lowest and the highest wanted value of each; None: no limit."""


@dataclasses.dataclass(frozen=True)
class Told:
    """What a user says of the particles, where the file does not know it or has it wrong."""

    pixel_size: float | None = None
    """Å, in place of the file's"""
    phase_flipped: bool = False
    """Phases were flipped: RELION's extraction leaves no trace of it."""
    no_ctf: bool = False
    """Images have no CTF, such as clean projections."""
    passthrough: tuple[str, ...] = ()
    """More .cs files of the same job"""


def _as_written(value: Any, check: Any) -> Any:
    """A whole number stays whole in a field for any number: a budget of 6000 seconds is not stored as 6000.0."""
    checked = check(value)
    return value if type(value) is int else checked


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise PydanticCustomError("twice", "names something twice")
    return values


Number = Annotated[float, WrapValidator(_as_written)]
Positive = Annotated[float, Field(gt=0), WrapValidator(_as_written)]
NotNegative = Annotated[float, Field(ge=0), WrapValidator(_as_written)]
Shells = Annotated[float, Field(ge=1), WrapValidator(_as_written)]
Share = Annotated[float, Field(ge=0, le=1), WrapValidator(_as_written)]
SomeShare = Annotated[float, Field(gt=0, le=1), WrapValidator(_as_written)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Orientations = Annotated[int, Field(ge=8)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]

Name = Annotated[
    str,
    Field(
        pattern="^[A-Za-z0-9][A-Za-z0-9._+-]*$",
        description="a name of letters, digits and . _ + - that starts with a letter or digit: it becomes part of file"
        " names",
    ),
]
Names = Annotated[tuple[str, ...], Field(json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)]
SomeNames = Annotated[
    tuple[str, ...], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)
]
Seeds = Annotated[
    tuple[Whole, ...], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)
]

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Base of the dataclasses below: to and from plain data and JSON."""

    @classmethod
    def from_dict(cls, values: dict[str, Any], key: str = "") -> Self:
        """Build from the user's own settings, which lie at `key` of the configuration.

        Raises ConfigError, naming the key and what is wanted, for unknown and missing keys and for wrong values.
        """
        try:
            # As JSON: there, strict means no texts, booleans or whole floats for numbers, but lists for tuples.
            return TypeAdapter(cls).validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            raise ConfigError(complaint(error, cls, values, key)) from None

    @classmethod
    def from_json(cls, text: str, source: str | Path) -> Self:
        """Build from a text of `to_json`, which another version may have written, in the file `source`.

        A missing key gets its default; a key that this version does not know is left out, with a warning. Raises
        ConfigError for anything else that is wrong.
        """
        adapter, values = TypeAdapter(cls), None
        try:
            values = json.loads(text)
            try:
                return adapter.validate_python(values)
            except ValidationError as error:
                if not (unknown := unknown_keys(error, values)):
                    raise
            warnings.warn(f"{source} is of a newer equipose; left out: {', '.join(unknown)}", stacklevel=2)
            return adapter.validate_python(values, extra="ignore")
        except ValidationError as error:
            raise ConfigError(f"{source}: {complaint(error, cls, values)}") from None
        except json.JSONDecodeError as error:
            raise ConfigError(f"{source} is no JSON ({error}): it is damaged; make it again") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """`from_json` of a file."""
        return cls.from_json(Path(path).read_text(), path)

    def as_written(self) -> dict[str, Any]:
        """What `to_json` writes."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.as_written(), indent=2) + "\n"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DatasetConfig(Config):
    """What training knows of a dataset; lengths in Å, box in pixels."""

    name: str
    box: int
    voxel_size: Number
    images: int  # to train on; the held-out ones follow them in the star file
    held_out: int
    shift_std: Number
    made_from: str  # fingerprint of everything that decides the images: a checkpoint of other images is not continued
    symmetry: str = "C1"  # the particle's point group, axes as `point_groups` has them


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SimulatedDataset(Config):
    """What the line of a simulated dataset must say."""

    name: str = Field(description="name of the dataset")
    structure: str = Field(description="name of a structure; a dataset of your own particles has a `star` file instead")
    box: Box  # described below: here for its place in config.json
    voxel_size: Positive = Field(description="side of a pixel and of a voxel in Å")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Simulation(Config):
    """settings of every simulated dataset, unless its own line overrides them"""

    box: Box = Field(default=128, description="side of the images and of the volume in pixels")
    images: Count = Field(default=100000, description="number of images to train on")
    held_out: Whole = Field(default=1000, description="number of further images that are never trained on")
    resolution: Positive = Field(
        default=2.0,
        description="resolution in voxels of the density made from atoms (ChimeraX molmap, σ = 0.225 × resolution);"
        " below 2 it is made on a finer grid and Fourier-cropped",
    )
    shift_std: NotNegative = Field(default=20.0, description="standard deviation in Å of the shifts along x and y")
    snr: Positive | Literal["noiseless"] = Field(default="noiseless", description="signal-to-noise ratio")
    snr_definition: Literal["variance", "amplitude"] = Field(
        default="variance",
        description="what the ratio is of, clean images over noise: variances, or standard deviations",
    )
    snr_box: Box | None = Field(
        default=None,
        description="side in pixels of the images that the SNR is of, at least `box`: Fourier-cropped to `box`, they"
        " lose noise; null: the box",
    )
    voltage: Positive = Field(default=300.0, description="acceleration voltage in kV")
    spherical_aberration: NotNegative = Field(default=2.7, description="spherical aberration in mm")
    amplitude_contrast: Share = Field(default=0.1, description="fraction of amplitude contrast")
    defocus: Positive = Field(
        default=20000.0, description="median defocus in Å, of a log-normal distribution (underfocus)"
    )
    defocus_log_std: NotNegative = Field(default=0.2, description="standard deviation of the logarithm of the defocus")
    seed: Whole = Field(default=0, description="seed of poses, shifts, defocus and noise")
    symmetry: Annotated[str, Field(min_length=1)] = Field(
        default="C1",
        description="point group of the structure, if it lies on RELION's axes: poses are searched and scored modulo"
        " the group",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SimulationConfig(Simulation, SimulatedDataset):
    """One simulated dataset; lengths in Å, box in pixels."""

    @property
    def snr_px(self) -> int:
        """Side in pixels of the images that the SNR is of."""
        return self.snr_box or self.box

    def as_written(self) -> dict[str, Any]:
        """Without a `snr_box` of null: versions that did not know it wrote the same, so that digests of it stay."""
        values = super().as_written()
        return values if self.snr_box else {key: value for key, value in values.items() if key != "snr_box"}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ParticlesDataset(Config):
    """What the line of a dataset of the user's own particles must say."""

    name: str = Field(description="name of the dataset")
    star: Annotated[str, Field(pattern=r"\.(star|cs)$")] = Field(
        description="your particles, a star file of RELION 3.0 to 5 (.star) or a cryoSPARC file (.cs)"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Preparation(Config):
    """settings of every dataset of your own particles, unless its own line overrides them"""

    datadir: str | None = Field(
        default=None, description="folder that image names are relative to; null: the star file's own"
    )
    box: Box = Field(default=64, description="pixels that images are Fourier-cropped to")
    held_out: Whole = Field(default=0, description="number of particles, the last ones, that are never trained on")
    shift_std: NotNegative = Field(
        default=10.0, description="standard deviation in Å of the particles' shifts along x and y"
    )
    subset: Annotated[int, Field(ge=1, le=2)] | None = Field(
        default=None, description="half 1 or 2 of the particles, by rlnRandomSubset; null: all particles"
    )
    contrast: Literal["detect", "bright", "dark"] = Field(
        default="detect", description="whether protein is bright or dark"
    )
    mask_radius: Positive | None = Field(
        default=None, description="radius in Å of a soft circular mask, particle and shifts inside; null: no mask"
    )
    whiten: bool = Field(
        default=False,
        description="whether images are filtered to make their noise white, by its spectrum in the background;"
        " the filter is undone in the map",
    )
    select: dict[str, tuple[Number | None, Number | None]] = Field(
        default={},
        description="rows to keep by a column, such as { rlnMaxValueProbDistribution: [0.1, null] }: the lowest and the"
        " highest value, null for no limit",
    )
    symmetry: Annotated[str, Field(min_length=1)] = Field(
        default="C1", description="point group of the particle: Cn, Dn, T, O or I, on RELION's axes"
    )
    truth: bool = Field(
        default=False, description="whether the star file's poses are the truth that tables compare with"
    )
    pixel_size: Positive | None = Field(default=None, description="pixel size in Å; null: the star file's")
    phase_flipped: bool = Field(
        default=False,
        description="whether phases were flipped and are undone here although the star file does not say so: RELION's"
        " --phase_flip leaves no trace",
    )
    no_ctf: bool = Field(default=False, description="whether images have no CTF, such as clean projections")
    passthrough: tuple[str, ...] = Field(
        default=(), description="more .cs files of the same cryoSPARC job, joined to `star` by uid"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PreparationConfig(Preparation, ParticlesDataset):
    """A user's particles, as they are prepared for training; lengths in Å, box in pixels."""

    @property
    def limits(self) -> Selection:
        """`select` in the form that `particles` takes."""
        return tuple((label, low, high) for label, (low, high) in self.select.items())

    @property
    def told(self) -> Told:
        """Facts for `particles` that the file lacks."""
        return Told(self.pixel_size, self.phase_flipped, self.no_ctf, self.passthrough)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecoderLayers(Config):
    """Hidden layers of FourierNet's two SIRENs."""

    envelope: Whole = Field(default=2, description="hidden layers of the envelope")
    modulant: Whole = Field(default=3, description="hidden layers of the modulant")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecoderOmega(Config):
    """The frequency factors of FourierNet's two SIRENs."""

    envelope: Positive = Field(default=30.0, description="frequency factor of the envelope")
    modulant: Positive = Field(default=40.0, description="frequency factor of the modulant")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerConfig(Config):
    name: Literal["adam", "muon"] = Field(
        default="adam", description="Adam, or Muon for the encoder's weight matrices and Adam for all else"
    )
    learning_rate: Positive = Field(default=1e-4, description="learning rate of Adam")
    encoder_rate: Positive = Field(
        default=1.0, description="the encoder's learning rate as a multiple of learning_rate, then the decoder's"
    )
    amsgrad: bool = Field(default=True, description="whether Adam is the AMSGrad variant")
    matrix_learning_rate: Positive = Field(default=2e-3, description="learning rate of Muon")
    decay_from: Share = Field(
        default=1.0, description="part of the budget after which learning rates fall linearly to zero; 1: never"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchConfig(Config):
    """What `init: search` does before training; radii in shells, the rest in images, steps and plain numbers."""

    batch: Count = Field(default=200, description="images a step of the search")
    orientations: tuple[Orientations, Orientations] = Field(
        default=(500, 4608), description="orientations tried for an image at a start's first step and at its last"
    )
    hypotheses: tuple[Shells, Shells] = Field(
        default=(30, 2),
        description="poses that an image weighs at a start's first step and at its last; shifts lie a quarter of the"
        " last shell's wavelength apart",
    )
    candidates: Count = Field(default=4, description="best orientations of an image that are refined first")
    rate: SomeShare = Field(default=0.3, description="rate at which a step moves the volume")
    first_radius: Shells = Field(default=3.0, description="shells compared at a start's first step")
    last_radius: Shells = Field(default=9.0, description="shells compared at a start's last step")
    starts: Count = Field(
        default=2, description="searches from different random volumes; the one that explains the images best goes on"
    )
    steps: Annotated[int, Field(ge=2)] = Field(default=60, description="steps of each start")
    images: Count = Field(
        default=3000, description="images whose poses are refined and back-projected after the search"
    )
    refine_orientations: Orientations = Field(
        default=4608, description="orientations tried for an image whose pose is refined"
    )
    refine_radii: Counts = Field(default=(10, 13, 16), description="shells compared in each refining pass")
    refine_iterations: Count = Field(default=3, description="Gauss-Newton steps a refining pass")
    fit_until: SomeShare = Field(
        default=0.8, description="part of the budget up to which encoder and decoder then learn from rendered images"
    )
    fit_ramp: Whole = Field(
        default=1000,
        description="first of these steps, in which the rendered noise grows from none to the measured one",
    )
    fit_slices: Count = Field(default=4, description="slices of the volume a step that the decoder is fitted to")
    fit_learning_rate: Positive = Field(
        default=1e-3, description="Adam's learning rate at the first of these steps, falling to training's"
    )
    fit_matrix_learning_rate: Positive = Field(
        default=2e-2, description="Muon's learning rate at the first of these steps"
    )
    fit: Literal["always", "unless_agreed"] = Field(
        default="always",
        description="whether networks are trained also where two starts have found the same map; without, refinement"
        " starts from that map",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MarchingConfig(Config):
    """The loss sees shells up to `first_radius`, and over `steps` training steps all of them; 0 steps: at once."""

    first_radius: Shells = Field(default=4.0, description="shells that the first training step sees")
    steps: Whole = Field(
        default=0, description="training steps until all shells are seen, in even growth; 0: all at once"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NamedModel(Config):
    """What the line of a model must say."""

    name: str = Field(description="name of the model")
    encoder: str = Field(description="name of an encoder, registered in src/equipose/model/encoders.py")
    loss: str = Field(description="name of a loss, registered in src/equipose/model/losses.py")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training(Config):
    """settings of every model, unless its own line overrides them"""

    init: Literal["none", "search"] = Field(
        default="none",
        description="where training starts: from random weights as in the paper, or from a volume found by a stochastic"
        " EM (search.py)",
    )
    search: SearchConfig = Field(default=SearchConfig(), description="what `init: search` does before training")
    widths: Counts = Field(
        default=(64, 128, 256, 256, 256),
        description="channels of the encoder's log2(box) - 2 blocks, summed over the group's elements; the last one"
        " repeats where there are more blocks",
    )
    head_widths: Counts = Field(default=(512, 256), description="hidden channels of the rotation and shift heads")
    shift_scale: Positive = Field(default=1.0, description="Å a unit of the shift head's output")
    decoder_width: Count = Field(default=256, description="width of the decoder's layers")
    decoder_layers: DecoderLayers = Field(
        default=DecoderLayers(), description="hidden sine layers after the first, in each of the decoder's two networks"
    )
    decoder_omega: DecoderOmega = Field(
        default=DecoderOmega(), description="frequency factor of the sine layers, in each of the decoder's two networks"
    )
    batch: Annotated[int, Field(ge=2)] = Field(default=64, description="images a training step")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="how weights are updated")
    gradient_clip: Positive = Field(default=1.0, description="largest norm of the gradient of all weights")
    hypotheses: Count = Field(
        default=1,
        description="rotations that the encoder gives for an image; the best reconstructed one is trained; more"
        " than 1 with the loss l2 only",
    )
    turns: Count = Field(
        default=1,
        description="test-time augmentation: number of angles within a quarter turn by which an image is turned; of the"
        " poses, the one nearest to the best refined pose is taken (pose_choice.py); 1: the image as it is",
    )
    average: Share = Field(
        default=0.0,
        description="weights are averaged over this last part of all steps so far, and scored and kept; 0: the last"
        " weights",
    )
    marching: MarchingConfig = Field(
        default=MarchingConfig(), description="frequency marching, a loss that sees more and more shells while training"
    )
    refine_passes: Whole = Field(
        default=0,
        description="passes of refinement, at most, over the poses of all particles after training (refinement.py);"
        " each ends with a back-projected map",
    )
    precision: Precision = Field(
        default="float32",
        description="number format of convolutions and the decoder's hidden layers while training; bfloat16 is about"
        " twice as fast; evaluation is in float32, but for the encoder's poses at several `turns`",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig(Training, NamedModel):
    """An encoder, a decoder, a loss and how they are trained."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Budget(Config):
    """Training time, either in `seconds` or in `steps`; the other is None."""

    seconds: Positive | None = Field(default=None, description="training time in seconds, evaluation not counted")
    steps: Count | None = Field(default=None, description="number of training steps")

    @property
    def time(self) -> float:
        """Seconds of a budget that is not in steps."""
        assert self.seconds is not None
        return self.seconds


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationConfig(Config):
    """how runs are watched and judged"""

    every: Count = Field(default=100, description="steps between evaluations")
    images: Count = Field(
        default=1000, description="number of training images scored at each evaluation, and as many held-out ones"
    )
    converged_mse: Positive = Field(
        default=0.1, description="a run has converged once an evaluation's MSE is below this"
    )
    stop_after: Whole = Field(
        default=0,
        description="converged evaluations in a row after which a run ends before its budget is spent; 0: never",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig(Config):
    """Everything that defines a training run."""

    dataset: DatasetConfig
    model: ModelConfig
    seed: int
    budget: Budget
    evaluation: EvaluationConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pathvars(Config):
    results: Annotated[str, Field(pattern="[^/]$")] = Field(
        description="folder of all outputs, relative to the working directory; each preset has its own"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Structure(Config):
    """where a molecule's atoms come from: `pdb`, `embedded` or both, or `path` alone, and an `assembly` to build"""

    pdb: Annotated[tuple[Annotated[str, Field(pattern="^[0-9][A-Za-z0-9]{3}$")], ...], Field(min_length=1)] = Field(
        default=(),
        description="PDB entries that share one frame and are joined, such as [3J79, 3J7A]; ids of four letters and"
        " digits, in quotes where YAML would read a number",
    )
    embedded: str = Field(default="", description="name of a file in workflow/resources/structures, without .npz")
    path: Annotated[str, Field(pattern=r"\.(cif|cif\.gz|mmcif|pdb|pdb\.gz|ent|npz|mrc|map)$")] = Field(
        default="",
        description="your own file: mmCIF (.cif, .cif.gz, .mmcif), PDB (.pdb, .ent), atoms (.npz of coords and"
        " elements) or map (.mrc, .map)",
    )
    assembly: Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern="^[A-Za-z0-9_]+$")] = Field(
        default="",
        description="name of the biological assembly that is built of each mmCIF or PDB entry, such as 1; without it,"
        " atoms are read as deposited",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Reconstruction(Config):
    """two datasets that are the halves of one star file, and the runs on them"""

    halves: tuple[str, str] = Field(description="names of the two datasets, of subset 1 and of subset 2")
    model: str = Field(description="name of a model")
    seed: Whole = Field(description="seed of both runs")
    classes: Count = Field(default=1, description="classes that the particles are sorted into before the runs")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Experiment(Config):
    """every dataset, with every model, from every seed: one training job each, one table together"""

    datasets: SomeNames = Field(description="names of datasets")
    models: SomeNames = Field(description="names of models")
    seeds: Seeds = Field(description="seeds of the initial weights and the order of images")
    budget: Budget = Field(description="how long each job trains: either { seconds: S } or { steps: N }")
    table: Literal["best_three", "best"] = Field(
        description="how seeds are summed up: mean ± std of the three best by MSE, or the best one"
    )
    compare: str = Field(
        default="",
        description="the paper's own numbers to print beside ours: name of a file in workflow/resources/paper, without"
        " .csv",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Figures(Config):
    """settings of figures, which no run depends on"""

    subset_within: Annotated[
        tuple[Annotated[float, Field(gt=0, le=8), WrapValidator(_as_written)], ...], Field(min_length=1, max_length=4)
    ] = Field(
        default=(0.125, 0.5, 2.0),
        description="squared Frobenius distances below which an image counts into S_i (Eq. 32), a panel of Fig. 7 each;"
        " 0.125, 0.5 and 2 are 14°, 29° and 60°",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Job(Config):
    """what a job of this rule asks for"""

    threads: Count = Field(default=1, description="CPU threads a job")
    memory_mb: Count = Field(default=8000, description="memory a job in MB")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GpuJob(Config):
    """what a job of this rule asks for"""

    gpu: Whole = Field(default=1, description="GPUs a job; without any GPU, jobs run on the CPU")
    threads: Count = Field(default=1, description="CPU threads a job")
    memory_mb: Count = Field(default=8000, description="memory a job in MB")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Resources(Config):
    """what jobs ask of the machine or the cluster; sites add their own facts in workflow/profiles"""

    volume: Job = Field(default=Job(), description="the density of a structure")
    simulate: Job = Field(default=Job(threads=8), description="simulating or preparing particles")
    train: GpuJob = Field(default=GpuJob(memory_mb=24000), description="training")
    evaluate: GpuJob = Field(default=GpuJob(), description="evaluation")
    jobs_per_gpu: Count = Field(
        default=1,
        description="training and evaluation jobs that may share a GPU of this machine, and its memory",
    )
    runtime_slack_minutes: Count = Field(
        default=60,
        description="time limit of a job in minutes; a training job has its budget in seconds on top of it",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Configuration(Config):
    """what config.yaml, with presets laid over it, may hold; an unknown key is an error"""

    pathvars: Pathvars = Field(description="where outputs go")
    run: Names = Field(description="names of the experiments that the default target makes")
    retrain: Literal["settings", "code"] = Field(
        description="the changes after which finished datasets, runs and reconstructions are made again: of settings or"
        " data, or also of the code that decides their numbers"
    )
    offline: bool = Field(
        description="true takes a structure's embedded atoms where it has them; false downloads its PDB entries"
    )
    structures: Annotated[dict[Name, Structure], Field(min_length=1)] = Field(description="the molecules, by name")
    simulation: Simulation
    datasets: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)] = Field(
        description="datasets by name; with a `structure`, simulated, and any key of `simulation` that differs from"
        " there; with a `star` file, your own, and any key of `preparation`"
    )
    preparation: Preparation
    reconstructions: dict[Name, Reconstruction] = Field(
        description="pairs of runs that make a map and half-maps, by name"
    )
    panel: Names = Field(
        description="names of simulated datasets that the target `panel` reconstructs by `equipose reconstruct`, and"
        " scores against the truth"
    )
    training: Training
    models: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)] = Field(
        description="models by name: an encoder and a loss, a `label` in tables and figures (LaTeX), and any key of"
        " `training` that differs from there"
    )
    experiments: Annotated[dict[Name, Experiment], Field(min_length=1)] = Field(description="what is asked, by name")
    evaluation: EvaluationConfig
    figures: Figures
    resources: Resources


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` laid over `base` as a preset is over config.yaml: maps are merged, lists and values replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


Named = TypeVar("Named", SimulationConfig, PreparationConfig, ModelConfig)


def _resolve(kind: type[Named], settings: dict[str, Any], line: dict[str, Any], section: str, name: str) -> Named:
    """The line `name` of a section, laid over the section's default settings."""
    if "name" in line:
        raise ConfigError(f"unknown key `{section}.{name}.name`: the line {name} has that name already")
    return kind.from_dict({"name": name} | merge(settings, line), f"{section}.{name}")


def is_simulated(config: dict[str, Any], name: str) -> bool:
    """Whether the dataset `name` is simulated; otherwise its line names a star file."""
    return "star" not in config["datasets"][name]


def usual_shift(width: float) -> float:
    """Å, the standard deviation of shifts if a user does not say: a part of the image's `width` in Å, or more."""
    return max(LEAST_SHIFT, SHIFT * width)


def simulation_config(config: dict[str, Any], name: str) -> SimulationConfig:
    """The simulated dataset `name`: `simulation` with the dataset's own line laid over it.

    A `snr_box` that changes no image is null. Raises ConfigError for one that is smaller than the box.
    """
    found = _resolve(SimulationConfig, config["simulation"], config["datasets"][name], "datasets", name)
    if found.snr == "noiseless" or found.snr_box in (None, found.box):
        return dataclasses.replace(found, snr_box=None)
    if found.snr_box < found.box:
        raise ConfigError(
            f"dataset {name} has a snr_box of {found.snr_box} and a box of {found.box}: the SNR is of these images, or"
            " of larger ones that are cropped. Give a snr_box of at least the box, or null"
        )
    return found


def preparation_config(config: dict[str, Any], name: str) -> PreparationConfig:
    """The user's dataset `name`: `preparation` with the dataset's own line laid over it."""
    return _resolve(PreparationConfig, config["preparation"], config["datasets"][name], "datasets", name)


def structure_source(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The source of the structure of the simulated dataset `name`, as `source_of` gives it."""
    return source_of(config, config["datasets"][name]["structure"])


def source_of(config: dict[str, Any], structure: str) -> dict[str, Any]:
    """The source of a structure: one of `path`, `embedded` and `pdb`, and the `assembly` to build, if there is one."""
    source = config["structures"][structure]
    if "path" in source:
        kind = "path"
    else:
        kind = "embedded" if "embedded" in source and (config["offline"] or "pdb" not in source) else "pdb"
    return {key: source[key] for key in (kind, "assembly") if key in source}


def model_config(config: dict[str, Any], name: str) -> ModelConfig:
    """The model `name`: `training` with the model's own line laid over it."""
    own = {key: value for key, value in config["models"][name].items() if key != "label"}
    return _resolve(ModelConfig, config["training"], own, "models", name)


def model_label(config: dict[str, Any], name: str) -> str:
    """The model's name in tables and figures. It is no part of a run, so a new label trains nothing anew."""
    return config["models"][name].get("label", name)


def run_budgets(config: dict[str, Any]) -> dict[tuple[str, str, int], dict[str, float]]:
    """The budget of every (dataset, model, seed) that any experiment asks for.

    The experiments in `run` come first; another one's budget counts only for runs that they do not ask for. Raises
    ConfigError where two of them ask for one run with different budgets: its folder holds one of them.
    """
    budgets: dict[tuple[str, str, int], dict[str, float]] = {}
    asked_by: dict[tuple[str, str, int], str] = {}
    for experiment in sorted(config["experiments"], key=lambda name: name not in config["run"]):
        spec = config["experiments"][experiment]
        for run in itertools.product(spec["datasets"], spec["models"], spec["seeds"]):
            if budgets.setdefault(run, spec["budget"]) != spec["budget"] and experiment in config["run"]:
                dataset, model, seed = run
                raise ConfigError(
                    f"experiments.{experiment}.budget is {spec['budget']}, but experiments.{asked_by[run]} asks for the"
                    f" same run ({dataset}, {model}, seed {seed}) with {budgets[run]}. Give both the same budget, or"
                    " give one of them another model name."
                )
            asked_by.setdefault(run, experiment)
    return budgets


def asked_runs(config: dict[str, Any], experiments: Collection[str]) -> dict[tuple[str, str, int], dict[str, float]]:
    """The budget of every (dataset, model, seed) that these experiments ask for."""
    asked = {name: config["experiments"][name] for name in experiments}
    return run_budgets(config | {"experiments": asked, "run": experiments})
