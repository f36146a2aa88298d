"""A fingerprint of the code that decides numbers, so that results can say which code made them.

The fingerprint is a hash of the syntax tree without comments, docstrings, messages, import statements, names of modules
and the order of definitions. So an edit of any of these changes nothing, nor does moving a function to another module.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from equipose.io.files import read_json

SOURCES = Path(__file__).parents[1]

Stage = Literal["simulate", "prepare", "train", "evaluate", "reconstruct"]

STAGES: dict[Stage, tuple[str, ...]] = {
    "simulate": ("data.structures", "data.simulate"),
    "prepare": ("data.prepare",),
    "train": ("training.train",),
    "evaluate": ("training.evaluate",),
    "reconstruct": ("reconstruction.join",),
}
"""The modules that each stage begins with; their imports belong to the stage, too."""

NO_NUMBERS = (
    "config.complaints",
    "config.settings",
    "errors",
    "io.files",
    "io.fingerprint",
    "io.locks",
    "io.processes",
    "io.progress",
    "io.provenance",
    "io.resumable_stack",
    "io.starfiles",
    "model.devices",
    "training.forecast",
)
"""Modules that the stages import and that decide no number: they check, read and write files, and talk to people."""

SAYING = ("print", "say", "report", "progress", "exit", "warn")
"""Functions whose arguments are messages."""


@functools.cache
def fingerprint(stage: Stage, sources: Path = SOURCES) -> str:
    """Sixteen hexadecimal digits for the code of a stage, which lies in the folder `sources`."""
    definitions = set[str]().union(*(_read(path)[0] for path in modules(stage, sources)))
    return hashlib.sha256("\n".join(sorted(definitions)).encode()).hexdigest()[:16]


def modules(stage: Stage, sources: Path = SOURCES) -> list[Path]:
    """The modules of a stage that decide numbers: those it begins with, and what they import of this package."""
    found: set[Path] = set()
    waiting = {f"{sources.name}.{name}" for name in STAGES[stage]}
    while waiting:
        name = waiting.pop()
        path = sources.parent.joinpath(*name.split(".")).with_suffix(".py")
        if path in found or _module(path, sources) in NO_NUMBERS or not path.is_file():
            continue
        found.add(path)
        waiting |= {name for name in _read(path)[1] if name.startswith(f"{sources.name}.")}
    return sorted(found)


def _module(path: Path, sources: Path) -> str:
    """A module's name below the package."""
    return ".".join(path.relative_to(sources).with_suffix("").parts)


@functools.cache
def _read(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """A module's definitions that decide numbers, as canonical text, and the names that it imports."""
    tree = ast.parse(path.read_text())
    return frozenset(canonical(node) for node in tree.body if _counts(node)), frozenset(_imports(tree))


def canonical(node: ast.AST) -> str:
    """A syntax tree as text, without what decides no number; the same for every version of Python."""
    parts = []
    for name, value in ast.iter_fields(node):
        values = value if isinstance(value, list) else [value]
        if name == "args" and isinstance(node, ast.Call) and _called(node) in SAYING:
            continue
        if name == "exc" or name in ("annotation", "returns", "type_comment", "kind", "type_params"):
            continue  # an error that is raised, and types
        kept = [canonical(part) if isinstance(part, ast.AST) else repr(part) for part in values if _counts(part)]
        if kept:
            parts.append(f"{name}=[{','.join(kept)}]")
    return f"{type(node).__name__}({';'.join(parts)})"


def _counts(node: object) -> bool:
    """Whether a part of a syntax tree may decide a number: no import, no text by itself, no command line."""
    if node is None or isinstance(node, (ast.Import, ast.ImportFrom)):
        return False
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return False  # a docstring
    if isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and "__main__" in ast.unparse(node.test):
        return False
    return not (isinstance(node, ast.FunctionDef) and node.name == "main")


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")


def _imports(tree: ast.Module) -> Iterator[str]:
    """What a module imports, with every name that may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dataset_code(folder: Path) -> dict[Stage, str | None]:
    """Fingerprints of the code that made the dataset in `folder`; None if the dataset does not record it."""
    kinds: dict[str, Stage] = {"simulation.json": "simulate", "preparation.json": "prepare"}
    found = {stage: read_json(folder / name) for name, stage in kinds.items()}
    return {stage: record.get("code") for stage, record in found.items() if record is not None}


def training_code(folder: Path) -> dict[Stage, str | None]:
    """Fingerprints of the code that trained the run in `folder`; those of all its starts, if they differ."""
    starts = read_json(folder / "provenance.json") or [{}]
    made = sorted({start.get("fingerprint") or "" for start in starts})
    return {"train": None if "" in made else " ".join(made)}
