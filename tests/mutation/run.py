"""Do the tests notice a broken line? `python tests/mutation/run.py` breaks one expression at a time and runs the tests.

Only a copy of the checkout is broken. Slow imports are done once, and each mutant runs in a process forked from there.
Tests that run the broken line come first, the fastest before the others. The first failure ends the mutant. A mutant
survives if all test files of its module pass.

Every verdict is added to a journal: an interrupted run goes on where it was. Verdicts are made again where the module
or its tests have changed since. README.md says how to read the score.
"""

import argparse
import contextlib
import csv
import gc
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]

TESTS = {
    "ctf": ["test_ctf.py"],
    "decoders": ["test_decoders.py"],
    "fourier": ["test_fourier.py"],
    "fourier_grid": ["test_fourier_grid.py", "test_mask.py"],
    "fsc": ["test_fsc.py"],
    "groups": ["test_groups.py"],
    "halves": ["test_join.py"],
    "local_resolution": ["test_local_resolution.py"],
    "losses": ["test_losses.py"],
    "mask": ["test_mask.py"],
    "mirror_plane": ["test_mirror_plane.py"],
    "noise": ["test_noise.py"],
    "optimizers": ["test_optimizers.py"],
    "particle_scores": ["test_join.py"],
    "pose_choice": ["test_pose_choice.py"],
    "pose_metrics": ["test_pose_metrics.py"],
    "refinement": ["test_refinement.py"],
    "rotations": ["test_rotations.py"],
    "search": ["test_search.py"],
    "search_stages": ["test_search.py"],
    "simulate": ["test_simulate.py"],
    "verdict": ["test_verdict.py"],
    "volumes": ["test_decoders.py"],
}
"""The numerical modules, wherever in the package they lie, and the test files that are to notice."""

OPTIONS = ["-q", "--tb=native", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
"""Of pytest: without the rewriting of asserts and the plugins, a process is ready in a fifth of the time."""

NAMED = ["module", "text", "column", "before", "after"]
"""What names a mutant, wherever its line has moved to."""

COLUMNS = [*NAMED, "line", "verdict", "by", "seconds", "source", "tests"]
SPARE = 10
"""Processor seconds that a mutant may take beyond three times what its tests take without it."""

IDLE = 900
"""Seconds that it may wait for a processor, or for something that never comes."""

VERDICTS = ("killed", "timeout", "survived")
NOTICED = VERDICTS[:2]
EQUIVALENT = Path(__file__).with_name("equivalent.csv")
"""Survivors that no test can notice, each with the reason."""


class Watch:
    """A pytest plugin: orders tests, and notes what each costs, which lines it runs, and the first failure."""

    def __init__(self, order: list[str], traced: Path | None = None) -> None:
        self.order = {name: place for place, name in enumerate(order)}
        self.traced, self.tests, self.failed = str(traced), {}, ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.order.get(item.nodeid, len(self.order)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.nodeid * report.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        lines, started = set(), time.process_time()

        def on_line(frame, event, _):
            lines.add(frame.f_lineno)
            return on_line

        def on_call(frame, event, _):
            return on_line(frame, event, _) if frame.f_code.co_filename == self.traced else None

        if self.traced != "None":
            sys.settrace(on_call)
            threading.settrace(on_call)
        result = yield
        sys.settrace(None)
        self.tests[item.nodeid] = {"seconds": time.process_time() - started, "lines": sorted(lines)}
        return result


def forked(copy: Path, files: list[str], watch: Watch, processor_seconds: float) -> dict:
    """The tests, in a process of their own: exit `code` of pytest or None if killed, `tests`, `failed`, `seconds`."""
    answer, started = copy / "answer.json", time.perf_counter()
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(copy)
        with open(copy / "output.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(processor_seconds),) * 2)
        signal.alarm(int(processor_seconds) + IDLE)
        options = [*OPTIONS, "-x", f"--basetemp={copy / 'temporary'}"]
        code = pytest.main([*options, *(f"tests/{name}" for name in files)], plugins=[watch])
        used = time.process_time()
        answer.write_text(
            json.dumps({"code": int(code), "tests": watch.tests, "failed": watch.failed, "seconds": used})
        )
        os._exit(0)
    try:
        os.waitpid(child, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    if not answer.exists():
        return {"code": None, "tests": {}, "failed": "", "seconds": time.perf_counter() - started}
    return json.loads(answer.read_text())


class Bench:
    """A copy of the checkout in which one module is broken again and again."""

    def __init__(self, copy: Path, name: str) -> None:
        (self.path,) = (copy / "src").rglob(f"{name}.py")
        self.copy, self.name, self.files, self.source = copy, name, TESTS[name], self.path.read_bytes()
        found = forked(copy, self.files, Watch([], self.path), 3600)
        if found["code"] != 0:
            sys.exit(f"error: {self.files} fail without any mutant:\n{(copy / 'output.txt').read_text()}")
        self.tests, self.seconds = found["tests"], found["seconds"]

    def order(self, line: int) -> list[str]:
        return sorted(self.tests, key=lambda name: (line not in self.tests[name]["lines"], self.tests[name]["seconds"]))

    def judge(self, mutant: Mutant) -> tuple[str, str, float]:
        """The verdict on a mutant, the test that noticed, and seconds of a processor."""
        for cached in (self.path.parent / "__pycache__").glob(f"{self.path.stem}.*"):
            cached.unlink()
        self.path.write_bytes(mutant.applied(self.source))
        try:
            found = forked(self.copy, self.files, Watch(self.order(mutant.line)), 3 * self.seconds + SPARE)
        finally:
            self.path.write_bytes(self.source)
        verdict = {None: "timeout", 0: "survived"}.get(found["code"], "killed")
        return verdict, found["failed"], found["seconds"]


def chosen(name: str, count: int, seed: int) -> list[Mutant]:
    """A sample of a module's mutants: the same for the same source and seed."""
    (path,) = (ROOT / "src").rglob(f"{name}.py")
    found = mutants(path.read_bytes())
    return random.Random(f"{seed} {name}").sample(found, min(count, len(found)))


def digests(name: str) -> tuple[str, str]:
    """What a verdict depends on: the module's source, and its tests."""
    tests = [ROOT / "tests" / file for file in ["conftest.py", *TESTS[name]]]
    source, tests = (
        b"".join(path.read_bytes() for path in paths) for paths in ((ROOT / "src").rglob(f"{name}.py"), tests)
    )
    return hashlib.sha256(source).hexdigest()[:12], hashlib.sha256(tests).hexdigest()[:12]


def copied(folder: Path) -> None:
    """All files that git knows or would add, and byte code of the package, which children do not write."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder / "src"], check=True)


def load_libraries(folder: Path, files: list[str]) -> None:
    """Import all that the package and its tests import, and forget what lies in the copy itself."""
    import torch

    torch.set_num_threads(1)
    os.environ |= {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.path.insert(0, str(folder / "src"))
    before = Path.cwd()
    os.chdir(folder)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.main([*OPTIONS, "--collect-only", *(f"tests/{name}" for name in files)])
        importlib.import_module("escnn.nn")
    os.chdir(before)
    if not Path(sys.modules["equipose"].__file__).is_relative_to(folder):
        sys.exit(f"error: {sys.modules['equipose'].__file__} was imported in place of the copy in {folder}")
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    gc.freeze()


def name_of(module: str, mutant: Mutant) -> tuple[str, ...]:
    return module, mutant.text, str(mutant.column), mutant.before, mutant.after


def write_scores(rows: list[dict], folder: Path) -> str:
    """The score of each module and of all, as text and in scores.csv, and the survivors in survivors.csv."""
    reasons = pd.read_csv(EQUIVALENT, dtype=str, keep_default_na=False)
    found = pd.DataFrame(rows).astype(str).merge(reasons, "left", NAMED)
    survived = found[found["verdict"] == "survived"]
    table = pd.DataFrame(
        {"module": name, "mutants": len(part)}
        | {verdict: (part["verdict"] == verdict).sum() for verdict in VERDICTS}
        | {"equivalent": survived.loc[survived.index.intersection(part.index), "why"].notna().sum()}
        for name, part in [*found.groupby("module"), ("all", found)]
    )
    noticed = table["killed"] + table["timeout"]
    table["score"] = (noticed / table["mutants"]).round(3)
    table["without_equivalent"] = (noticed / (table["mutants"] - table["equivalent"])).round(3)
    table.to_csv(folder / "scores.csv", index=False)
    survived[[*NAMED, "why"]].to_csv(folder / "survivors.csv", index=False)
    return table.to_string(index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-module", type=int, default=10, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--modules", nargs="+", choices=TESTS, default=list(TESTS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=ROOT / "results/mutation", help="folder of journal and scores")
    parser.add_argument("--survivors", action="store_true", help="where only tests changed, try survivors again alone")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    journal = arguments.output / "journal.csv"
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a+", newline="") as file:
        file.seek(0)
        known = {(*(row[column] for column in NAMED), row["source"]): row for row in csv.DictReader(file)}
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not known:
            file.truncate(0)
            writer.writeheader()

        def record(row: dict) -> None:
            known[*(row[column] for column in NAMED), row["source"]] = row
            writer.writerow(row)
            file.flush()

        asked = [
            (name, mutant)
            for name in arguments.modules
            for mutant in chosen(name, arguments.per_module, arguments.seed)
        ]
        made_from = {name: digests(name) for name in arguments.modules}

        def valid(name: str, mutant: Mutant) -> bool:
            row = known.get((*name_of(name, mutant), made_from[name][0]))
            if row is None:
                return False
            return row["tests"] == made_from[name][1] or (arguments.survivors and row["verdict"] in NOTICED)

        try_out([each for each in asked if not valid(*each)], made_from, record)
    rows = [known[*name_of(name, mutant), made_from[name][0]] for name, mutant in asked]
    print(write_scores(rows, arguments.output))


def try_out(
    missing: list[tuple[str, Mutant]], made_from: dict[str, tuple[str, str]], record: Callable[[dict], None]
) -> None:
    """Judge the mutants of some modules, and say how long the rest will take."""
    if not missing:
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy, bench = Path(temporary).resolve(), None
        copied(copy)
        load_libraries(copy, sorted({file for name, _ in missing for file in TESTS[name]}))
        started = time.perf_counter()
        for done, (name, mutant) in enumerate(missing, start=1):
            if bench is None or bench.name != name:
                bench = Bench(copy, name)
            verdict, by, seconds = bench.judge(mutant)
            values = [*name_of(name, mutant), mutant.line, verdict, by, f"{seconds:.1f}", *made_from[name]]
            record(dict(zip(COLUMNS, values, strict=True)))
            left = (time.perf_counter() - started) / done * (len(missing) - done) / 60
            change = " ".join(f"{mutant.before} -> {mutant.after}".split())
            print(f"[{done}/{len(missing)}, {left:.0f} min left] {name}:{mutant.line} {verdict}: {change}", flush=True)


if __name__ == "__main__":
    main()
