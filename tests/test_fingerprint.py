"""What changes the fingerprint of a stage's code, and what does not."""

from pathlib import Path

import pytest

from equipose.io.fingerprint import NO_NUMBERS, SOURCES, STAGES, _read, fingerprint, modules

LOSS = '''"""Losses."""

import math  # a comment

from package.errors import ConfigError


def loss(error: float) -> float:
    """The squared error."""
    if error < 0:
        raise ConfigError(f"{error} is negative")
    print(f"the error is {error}")
    return error**2


def weight(step: int) -> float:
    return 0.5 * step


if __name__ == "__main__":
    print(loss(1.0))
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose training imports a loss, which may raise an error."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "errors.py").write_text("class ConfigError(Exception):\n    code = 1\n")
    (folder / "losses.py").write_text(LOSS)
    (folder / "training").mkdir()
    text = "from package import losses\n\n\ndef train(x):\n    return losses.loss(x)\n"
    (folder / "training/train.py").write_text(text)
    return folder


def made(package: Path) -> str:
    """The fingerprint of training, as a new process would find it."""
    _read.cache_clear()
    fingerprint.cache_clear()
    return fingerprint("train", package)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # a comment", ""),
        ("The squared error.", "The error, squared."),
        ("is negative", "is below zero"),
        ("the error is", "error:"),
        ("import math", "import math\nimport os"),
        ("error: float", "error: complex"),
        ("print(loss(1.0))", "print(loss(2.0))"),
    ],
)
def test_what_decides_no_number_changes_nothing(package: Path, old: str, new: str) -> None:
    before = made(package)
    assert old in LOSS
    (package / "losses.py").write_text(LOSS.replace(old, new))
    assert made(package) == before


@pytest.mark.parametrize(
    ("old", "new"), [("error**2", "error**3"), ("error < 0", "error < 1"), ("0.5 * step", "0.25 * step")]
)
def test_what_may_decide_a_number_changes_it(package: Path, old: str, new: str) -> None:
    before = made(package)
    assert old in LOSS
    (package / "losses.py").write_text(LOSS.replace(old, new))
    assert made(package) != before


def test_a_module_without_numbers_does_not_count_nor_one_that_is_not_imported(package: Path) -> None:
    before = made(package)
    (package / "errors.py").write_text("class ConfigError(Exception):\n    code = 2\n")
    (package / "figures.py").write_text("COLOUR = 1\n")
    assert made(package) == before


def test_definitions_may_change_their_order_and_move_to_another_module(package: Path) -> None:
    before = made(package)
    start = LOSS.index("def weight")
    end = LOSS.index("if __name__")
    (package / "losses.py").write_text("from package.weights import weight\n" + LOSS[:start] + LOSS[end:])
    (package / "weights.py").write_text(LOSS[start:end])
    assert made(package) == before


def test_the_stages_are_those_of_this_package() -> None:
    assert all((SOURCES / f"{name.replace('.', '/')}.py").is_file() for name in NO_NUMBERS)
    assert all((SOURCES / f"{name.replace('.', '/')}.py").is_file() for names in STAGES.values() for name in names)
    trained = {path.stem for path in modules("train")}
    assert {"train", "losses", "encoders", "optimizers"} <= trained and not trained & {"evaluate", "structures"}
    assert {"prepare", "stacks", "cryosparc"} <= {path.stem for path in modules("prepare")}
    assert {"structures", "ctf"} <= {path.stem for path in modules("simulate")}
    assert len({fingerprint(stage) for stage in STAGES}) == len(STAGES)
