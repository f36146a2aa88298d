"""What a dataset, a model and a run are made of: frozen dataclasses, filled from config.yaml, their only defaults.

`run_config` and `dataset_config` resolve the user's configuration; the workflow writes the result to a `config.json`
beside the outputs, and the command-line modules read that file and nothing else.
"""

import dataclasses
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from equipose.errors import ConfigError
from equipose.particles import Selection, summarise

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Config:
    """Base of the dataclasses below: to and from plain JSON."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from plain data; nested dataclasses are built from nested maps. Raises ConfigError on wrong keys."""
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        if unknown := values.keys() - fields.keys():
            raise ConfigError(f"{cls.__name__}: unknown key {', '.join(sorted(unknown))}; known: {', '.join(fields)}")
        if missing := fields.keys() - values.keys():
            raise ConfigError(f"{cls.__name__}: missing key {', '.join(sorted(missing))}")
        built = {}
        for name, kind in fields.items():
            value = values[name]
            if isinstance(kind, type) and issubclass(kind, Config):
                value = kind.from_dict(value)
            built[name] = tuple(value) if isinstance(value, list) else value
        return cls(**built)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        return cls.from_json(Path(path).read_text())

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class DatasetConfig(Config):
    """What training knows of a dataset; lengths in Å, box in pixels."""

    name: str
    box: int
    voxel_size: float
    images: int  # to train on; the held-out ones follow them in the star file
    held_out: int
    shift_std: float
    made_from: str  # fingerprint of all that its images depend on: a checkpoint of other images is not continued


@dataclass(frozen=True)
class SimulationConfig(Config):
    """One simulated dataset; lengths in Å, box in pixels."""

    name: str
    structure: str
    box: int
    voxel_size: float
    images: int
    held_out: int
    resolution: float
    shift_std: float
    snr: float | Literal["noiseless"]
    snr_definition: Literal["variance", "amplitude"]
    voltage: float
    spherical_aberration: float
    amplitude_contrast: float
    defocus: float
    defocus_log_std: float
    seed: int


@dataclass(frozen=True)
class PreparationConfig(Config):
    """A user's particles, as they are prepared for training; lengths in Å, box in pixels."""

    name: str
    star: str
    datadir: str | None  # what image names are relative to; None: the star file's folder
    box: int
    held_out: int
    shift_std: float
    subset: int | None  # 1 or 2: half of the particles; None: all
    contrast: Literal["detect", "bright", "dark"]
    mask_radius: float | None
    whiten: bool
    select: dict[str, list[float | None]]  # columns, and the lowest and highest values that are wanted
    symmetry: str  # C1
    truth: bool  # the star file's poses are the truth

    @property
    def limits(self) -> Selection:
        """`select` as `particles` wants it."""
        return tuple((label, low, high) for label, (low, high) in self.select.items())


@dataclass(frozen=True)
class DecoderPair(Config):
    """One value for each of FourierNet's two SIRENs."""

    envelope: float
    modulant: float


@dataclass(frozen=True)
class OptimizerConfig(Config):
    name: Literal["adam", "muon"]
    learning_rate: float
    encoder_rate: float  # the encoder's learning rate as a multiple of `learning_rate`
    amsgrad: bool
    matrix_learning_rate: float  # with `muon`, of the encoder's weight matrices
    decay_from: float  # part of the budget after which learning rates fall to zero


@dataclass(frozen=True)
class SearchConfig(Config):
    """What `init: search` does before training; radii in shells, the rest in images, steps and plain numbers."""

    batch: int
    orientations: tuple[int, int]
    hypotheses: tuple[float, float]
    candidates: int
    rate: float
    first_radius: float
    last_radius: float
    starts: int
    steps: int
    images: int
    refine_orientations: int
    refine_radii: tuple[int, ...]
    refine_iterations: int
    fit_until: float
    fit_ramp: int
    fit_slices: int
    fit_learning_rate: float
    fit_matrix_learning_rate: float


@dataclass(frozen=True)
class MarchingConfig(Config):
    """The loss sees shells up to `first_radius`, and over `steps` training steps all of them; 0 steps: at once."""

    first_radius: float
    steps: int


@dataclass(frozen=True)
class ModelConfig(Config):
    """An encoder, a decoder, a loss and how they are trained."""

    name: str
    encoder: str
    loss: str
    init: Literal["none", "search"]
    search: SearchConfig
    widths: tuple[int, ...]
    head_widths: tuple[int, ...]
    shift_scale: float
    decoder_width: int
    decoder_layers: DecoderPair
    decoder_omega: DecoderPair
    batch: int
    optimizer: OptimizerConfig
    gradient_clip: float
    hypotheses: int  # of the encoder about an image's rotation, the best reconstructed of which is trained
    turns: int  # of an image in between quarter turns, at which poses are asked for (answers.py)
    average: float  # over this last part of all steps, of the weights that are judged and kept; 0: the last ones
    marching: MarchingConfig
    refine_passes: int
    precision: Precision


@dataclass(frozen=True)
class Budget(Config):
    """Training time, either in `seconds` or in `steps`; the other is None."""

    seconds: float | None
    steps: int | None


@dataclass(frozen=True)
class EvaluationConfig(Config):
    every: int
    images: int
    converged_mse: float
    stop_after: int  # converged evaluations in a row, after which a run ends early; 0: never


@dataclass(frozen=True)
class RunConfig(Config):
    """Everything that defines a training run."""

    dataset: DatasetConfig
    model: ModelConfig
    seed: int
    budget: Budget
    evaluation: EvaluationConfig


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` laid over `base` as a preset is over config.yaml: maps are merged, lists and values replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


def is_simulated(config: dict[str, Any], name: str) -> bool:
    """Whether the dataset `name` is simulated; else its line names a star file."""
    return "star" not in config["datasets"][name]


def simulation_config(config: dict[str, Any], name: str) -> SimulationConfig:
    """The simulated dataset `name`: `simulation` with the dataset's own line laid over it."""
    return SimulationConfig.from_dict({"name": name} | merge(config["simulation"], config["datasets"][name]))


def preparation_config(config: dict[str, Any], name: str) -> PreparationConfig:
    """The user's dataset `name`: `preparation` with the dataset's own line laid over it."""
    return PreparationConfig.from_dict({"name": name} | merge(config["preparation"], config["datasets"][name]))


def dataset_config(config: dict[str, Any], name: str) -> DatasetConfig:
    """What training knows of the dataset `name`. Of a user's, the star file says how many images, and how large."""
    if is_simulated(config, name):
        source = simulation_config(config, name)
        images, voxel_size, made_from = source.images, source.voxel_size, source.to_json()
    else:
        source = preparation_config(config, name)
        star = Path(source.star)
        found = summarise(star, source.datadir and Path(source.datadir), source.limits)
        images = found.subsets[source.subset] - source.held_out
        if images < 1:
            raise ConfigError(
                f"`datasets.{name}`: {source.held_out} images are to be held out, and {star} has"
                f" {found.subsets[source.subset]} to choose from: lower `held_out`, or `select` more."
            )
        voxel_size, made_from = found.box * found.voxel_size / source.box, source.to_json() + found.digest
    return DatasetConfig(
        name=name,
        box=source.box,
        voxel_size=voxel_size,
        images=images,
        held_out=source.held_out,
        shift_std=source.shift_std,
        made_from=hashlib.sha256(made_from.encode()).hexdigest()[:16],
    )


def model_config(config: dict[str, Any], name: str) -> ModelConfig:
    """The model `name`: `training` with the model's own line laid over it."""
    own = {key: value for key, value in config["models"][name].items() if key != "label"}
    return ModelConfig.from_dict({"name": name} | merge(config["training"], own))


def model_label(config: dict[str, Any], name: str) -> str:
    """What tables and figures call the model; no part of a run, so that a new label trains nothing anew."""
    return config["models"][name].get("label", name)


def run_config(config: dict[str, Any], dataset: str, model: str, seed: int) -> RunConfig:
    """The run (dataset, model, seed), with the budget of the experiment that asks for it."""
    budget = {"seconds": None, "steps": None} | run_budgets(config)[dataset, model, seed]
    return RunConfig(
        dataset=dataset_config(config, dataset),
        model=model_config(config, model),
        seed=seed,
        budget=Budget.from_dict(budget),
        evaluation=EvaluationConfig.from_dict(config["evaluation"]),
    )


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


def asked_runs(config: dict[str, Any], experiments: list[str]) -> dict[tuple[str, str, int], dict[str, float]]:
    """The budget of every (dataset, model, seed) that these experiments ask for."""
    asked = {name: config["experiments"][name] for name in experiments}
    return run_budgets(config | {"experiments": asked, "run": experiments})
