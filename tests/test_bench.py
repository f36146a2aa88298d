"""`make bench` continues after an interruption, and measures other code anew."""

import contextlib
import importlib
import json
import sys
from pathlib import Path

import pytest

ROW = {"expected_seconds": 1.0, "expected_gib": 2.0, "limit_gib": 12.0, "seconds": 1.5, "peak_gib": 2.5}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The benchmark's module, called as by `bench.py --quick --only scaling`, which writes to tmp_path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    module = importlib.import_module("bench")
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", "--only", "scaling", "--output", str(tmp_path)])
    return module


def measured(bench, monkeypatch, interrupted_after: int = 99) -> list[str]:
    """The cases that a call measures."""
    names: list[str] = []

    def in_child(part: str, case: str, quick: bool) -> dict[str, float]:
        if len(names) == interrupted_after:
            raise KeyboardInterrupt
        names.append(case)
        return ROW

    monkeypatch.setattr(bench, "in_child", in_child)
    with contextlib.suppress(KeyboardInterrupt):
        bench.main()
    return names


def test_an_interrupted_bench_goes_on_with_the_next_case(bench, monkeypatch, tmp_path):
    first = measured(bench, monkeypatch, interrupted_after=1)
    assert first == list(json.loads((tmp_path / "quick.json").read_text())["scaling"])
    rest = measured(bench, monkeypatch)
    assert [*first, *rest] == list(bench.cases(quick=True)["scaling"])
    assert "| d4_l2 32 px × 16 | 1.50 | 2.5 | 1.00 | 2.0 |" in (tmp_path / "quick.md").read_text()


def test_what_was_measured_of_other_code_is_measured_anew(bench, monkeypatch):
    every = measured(bench, monkeypatch)
    assert measured(bench, monkeypatch) == []
    monkeypatch.setattr(bench, "code", lambda: "changed")
    assert measured(bench, monkeypatch) == every
