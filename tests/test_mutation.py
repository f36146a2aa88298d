"""The mutation run itself: what it changes, and that it tells tests that notice from tests that do not."""

import ast
import csv
import importlib
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = '''
"""A docstring, 1 < 2."""
LIMIT = 3


@cached(10)
def raised(x: Array[5], low: float = 0.5) -> Array[6]:
    å = x.min()
    if å < low and not x.ready:
        raise ValueError(f"{å + 1} is too low")
    return -å * LIMIT


def main():
    print(7)
'''


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "mutation"))
    return importlib.import_module("run")


def test_numbers_operators_comparisons_names_and_returns_change_one_at_a_time(run: ModuleType) -> None:
    found = run.mutants(SOURCE.encode())
    assert {(mutant.before, mutant.after) for mutant in found} == {
        ("3", "4"),
        ("0.5", "1.0"),
        ("x.min", "(x.max)"),
        ("å < low", "(å <= low)"),
        ("å < low", "(å >= low)"),
        ("not x.ready", "(x.ready)"),
        ("å < low and not x.ready", "(å < low or not x.ready)"),
        ("-å", "(å)"),
        ("-å * LIMIT", "(-å / LIMIT)"),
        ("return -å * LIMIT", "return None"),
    }
    (last,) = [mutant for mutant in found if mutant.before == "-å"]
    assert (last.line, last.text, last.column) == (11, "return -å * LIMIT", 7)
    assert last.applied(SOURCE.encode()).decode() == SOURCE.replace("-å", "(å)")
    for mutant in found:
        ast.parse(mutant.applied(SOURCE.encode()))


def test_a_sample_is_always_the_same_and_another_for_another_seed(run: ModuleType) -> None:
    assert run.chosen("fsc", 5, 0) == run.chosen("fsc", 5, 0) != run.chosen("fsc", 5, 1)


def test_mutants_that_tests_notice_are_told_from_others(run: ModuleType, tmp_path: Path, monkeypatch) -> None:
    for name, text in {
        "src/half.py": "def half(n):\n    while n % 2:\n        n -= 1\n    return n // 2 * (n < 9)\n",
        "tests/test_half.py": "from half import half\n\n\ndef test_half():\n    assert half(7) == 3\n",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    monkeypatch.setitem(run.TESTS, "half", ["test_half.py"])
    monkeypatch.setattr(run, "SPARE", 1)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    bench = run.Bench(tmp_path, "half")
    verdicts = {
        (mutant.before, mutant.after): bench.judge(mutant)[:2]
        for mutant in run.mutants(bench.source)
        if mutant.before in ("n // 2", "n < 9", "n -= 1")
    }
    assert verdicts == {
        ("n // 2", "(n * 2)"): ("killed", "tests/test_half.py::test_half"),
        ("n < 9", "(n <= 9)"): ("survived", ""),
        ("n < 9", "(n >= 9)"): ("killed", "tests/test_half.py::test_half"),
        ("n -= 1", "n += 1"): ("killed", "tests/test_half.py::test_half"),
        ("n -= 1", "pass"): ("timeout", ""),
    }
    assert bench.path.read_bytes() == bench.source


def test_each_module_and_each_reason_for_an_equivalent_mutant_still_exists(run: ModuleType) -> None:
    for name, files in run.TESTS.items():
        assert len(list((run.ROOT / "src").rglob(f"{name}.py"))) == 1, name
        assert all((run.ROOT / "tests" / file).exists() for file in files), files
    with run.EQUIVALENT.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in {row["module"] for row in rows}:
        (path,) = (run.ROOT / "src").rglob(f"{name}.py")
        there = {run.name_of(name, mutant) for mutant in run.mutants(path.read_bytes())}
        for row in rows:
            assert row["module"] != name or tuple(row[column] for column in run.NAMED) in there, row
