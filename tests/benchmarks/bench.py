"""How close training, simulation and metrics come to what the machine can do: `python tests/benchmarks/bench.py`.

Writes bench.json and bench.md into the folder given by --output. Every case runs in a process of its own, so that its
memory goes back, and is written when it is measured: the same command goes on where it was interrupted, and measures
anew what was measured on another machine or of other code. Times are compared within one process, on one thread: the
repeats of what is compared are interleaved, so that what else the machine does meets them alike, and a ratio is the
median of the repeats' ratios, given with their range. README.md says what the numbers mean and what is not measured.
"""

import argparse
import dataclasses
import hashlib
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import counting
import numpy as np
import reference
import torch
import yaml
from torch.nn import functional

from equipose.config.settings import RunConfig, simulation_config
from equipose.core.pose_metrics import paper_scores
from equipose.core.rotations import random_rotations
from equipose.data.simulate import simulate
from equipose.data.structures import density
from equipose.io.files import whole_file
from equipose.io.maps import write_map
from equipose.model.autoencoder import Autoencoder
from equipose.model.devices import keep_freed_memory, usable_precision
from equipose.model.encoders import ENCODERS, GroupConv
from equipose.model.optimizers import make_optimizers
from equipose.training import train
from equipose.training.forecast import measure, peak_bytes
from equipose.workflow.resolve import run_config

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
CTF = torch.tensor([2e4, 2e4, 0.0, 300.0, 2.7, 0.1, 0.0])

MOST_SECONDS, MOST_GIB = 45, 12
"""Of a training step: what is expected to take more is not run."""

TARGETS = {
    "step_ratio_128": {"float32": 1.6, "bfloat16": 3.0},
    "step_ratio_d4_128": {"float32": 2.6, "bfloat16": 5.0},
    "floor_fraction_128": {"float32": 0.5, "bfloat16": 0.5},
    "escnn_ratio": {"float32": 1.5, "bfloat16": 1.5},
    "simulate_ratio": {"float32": 1.0},
}


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name, family, model = (re.search(rf"{key}\s*: (.*)", cpuinfo) for key in ("model name", "cpu family", "model"))
    return {
        "processor": f"{name[1]}, family {family[1]} model {model[1]}" if name else platform.processor(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_instructions": sorted(set(re.findall(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo))),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def code() -> str:
    """A digest of the package's source: numbers of other code are not ours."""
    sources = sorted((ROOT / "src/equipose").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def precisions() -> list[str]:
    """float32, and bfloat16 where training uses it."""
    return list(dict.fromkeys(["float32", usable_precision("bfloat16")]))


def run_of(model: str, box: int, batch: int, precision: str) -> RunConfig:
    """A model of config.yaml at its full size."""
    run = run_config(CONFIG, CONFIG["experiments"]["table1"]["datasets"][0], model, 0)
    dataset = dataclasses.replace(run.dataset, box=box, voxel_size=run.dataset.voxel_size * run.dataset.box / box)
    return dataclasses.replace(
        run, dataset=dataset, model=dataclasses.replace(run.model, batch=batch, precision=precision)
    )


def our_step(model: str, box: int, batch: int, precision: str) -> Callable[[], object]:
    torch.manual_seed(0)
    network = Autoencoder(run_of(model, box, batch, precision), image_scale=1.0).train()
    optimizers = make_optimizers(network, network.config.model.optimizer)
    images, ctf = torch.randn(batch, box, box), CTF.repeat(batch, 1)
    return lambda: train.train_step(network, optimizers, images, ctf)


def reference_step(box: int, batch: int) -> Callable[[], object]:
    torch.manual_seed(0)
    published = reference.Published(Autoencoder(run_of("standard_sym", box, batch, "float32"), 1.0)).train()
    optimizer = torch.optim.Adam(published.parameters(), lr=1e-4, amsgrad=True)
    images, ctf = torch.randn(batch, box, box), CTF.repeat(batch, 1)
    return lambda: reference.training_step(published, optimizer, images, ctf)


def interleaved(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every case, `repeats` rounds of all of them in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats + 1):
        for name, work in cases.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in seconds.items()}


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def bench_steps(quick: bool) -> dict[str, Any]:
    """Items 1 to 3: the published step over ours, and the floor of counted operations over our time."""
    box, batch, repeats = 128, 2 if quick else 4, 3 if quick else 7
    cases = {"reference": reference_step(box, batch)}
    cases |= {
        f"{model} {precision}": our_step(model, box, batch, precision)
        for model in ("standard_sym", "d4_l2")
        for precision in precisions()
    }
    seconds = interleaved(cases, repeats)
    result: dict[str, Any] = {"box": box, "batch": batch, "repeats": repeats, "seconds": seconds}
    for name, model in (("step_ratio_128", "standard_sym"), ("step_ratio_d4_128", "d4_l2")):
        result[name] = {p: ratio(seconds["reference"], seconds[f"{model} {p}"]) for p in precisions()}
    rates = {
        p: {"products": counting.product_rates(getattr(torch, p)), "sines": counting.sine_rate(getattr(torch, p))}
        for p in ("float32", "bfloat16")  # both: what training does not use was measured to be slower
    }
    result["rates"] = rates
    result["floor_fraction_128"] = {
        name: floor(work, statistics.median(seconds[name]), rates) for name, work in cases.items()
    }
    result["seconds_by_part"] = {name: counting.seconds_by_part(work) for name, work in cases.items()}
    return result


def floor(work: Callable[[], object], seconds: float, rates: dict[str, Any]) -> dict[str, float]:
    """Seconds that the products alone, and the sines alone, must take at the best measured rates, over the time."""
    name = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
    counted = counting.count(work)
    products = sum(n / max(rates[name[p]]["products"].values()) for p, n in counted.operations.items())
    sines = sum(n / rates[name[p]]["sines"] for p, n in counted.sines.items())
    return {
        "operations": {name[p]: n for p, n in counted.operations.items()},
        "sine_evaluations": {name[p]: n for p, n in counted.sines.items()},
        "products": products / seconds,
        "sines": sines / seconds,
        "both": (products + sines) / seconds,
    }


def bench_escnn(group: str, box: int, batch: int, quick: bool) -> dict[str, Any]:
    """Item 4: escnn's own layers, forward and backward, over ours at equal total channels; and `bound`, what the ratio
    would be if our convolutions were all that we did.
    """
    pyramid = torch.randn(batch, 5, box, box)
    cases = {"escnn": escnn_stack(group, box, pyramid)}
    for precision in precisions():
        encoder = ENCODERS[group](run_of(f"{group}_l2", box, batch, precision).model, box)
        layers = encoder.features[1:-2]  # without the pyramid, and what follows the blocks
        inputs = pyramid.to(getattr(torch, precision), memory_format=torch.channels_last)
        cases[precision] = lambda layers=layers, inputs=inputs: layers(inputs).float().sum().backward()
        cases[f"convolutions {precision}"] = convolutions_alone(layers, inputs)
    seconds = interleaved(cases, 3 if quick else 7)
    ratios = {p: ratio(seconds["escnn"], seconds[p]) for p in precisions()}
    for p, entry in ratios.items():
        entry["bound"] = ratio(seconds["escnn"], seconds[f"convolutions {p}"])["median"]
    return {"escnn_ratio": ratios, "batch": batch, "seconds": seconds}


def convolutions_alone(layers: torch.nn.Sequential, inputs: torch.Tensor) -> Callable[[], object]:
    """The convolutions of `layers`, forward and backward, and nothing of what lies between them."""
    calls = []
    x = inputs
    with torch.no_grad():
        for layer in layers:
            y = layer(x)
            if isinstance(layer, GroupConv):
                kernel = layer.kernel().to(x)
                bias = kernel.new_zeros(len(kernel))
                convolve = partial(functional.conv2d, padding=layer.padding)
                calls.append((convolve, x, kernel, bias, torch.randn_like(y), x is not inputs))
            x = y

    def work() -> None:
        for convolve, x, kernel, bias, gradient, inner in calls:
            wanted = [kernel.requires_grad_(), bias.requires_grad_(), *([x.requires_grad_()] if inner else [])]
            torch.autograd.grad(convolve(x, kernel, bias), wanted, gradient)

    return work


def escnn_stack(group: str, box: int, pyramid: torch.Tensor) -> Callable[[], object]:
    """The blocks of the equivariant encoder in escnn's own layers."""
    from escnn import gspaces, nn

    from equipose.model.encoders import block_widths

    space = {"c4": gspaces.rot2dOnR2, "d4": gspaces.flipRot2dOnR2}[group](4)
    kind = start = nn.FieldType(space, 5 * [space.trivial_repr])
    layers = []
    for width in block_widths(run_of(f"{group}_l2", box, 1, "float32").model.widths, box):
        for _ in range(2):
            target = nn.FieldType(space, width // space.fibergroup.order() * [space.regular_repr])
            # escnn's own initialisation takes minutes at these widths
            layers += [nn.R2Conv(kind, target, 3, padding=1, initialize=False), nn.ReLU(target)]
            torch.nn.init.normal_(layers[-2].weights, std=0.1)
            layers.append(nn.InnerBatchNorm(target))
            kind = target
        layers.append(nn.PointwiseMaxPool(kind, 2))
    stack = nn.SequentialModule(*layers)
    return lambda: stack(nn.GeometricTensor(pyramid, start)).tensor.sum().backward()


def bench_simulation(quick: bool) -> dict[str, Any]:
    """Item 5: images a second of our simulation, on disk with CTF, shift and noise, over relion_project --ctf."""
    if shutil.which("relion_project") is None:
        return {"simulate_ratio": None, "skipped": "relion_project is not installed"}
    images = 512 if quick else 2000
    name = next(iter(CONFIG["datasets"]))
    config = dataclasses.replace(simulation_config(CONFIG, name), images=images, held_out=0, snr=1.0)
    atoms = ROOT / "workflow/resources/structures/5nrl.npz"
    with tempfile.TemporaryDirectory() as folder:
        volume, ours = Path(folder) / "volume.mrc", Path(folder) / "ours"
        write_map(volume, density(atoms, config.box, config.voxel_size, config.resolution), config.voxel_size)
        command = ["relion_project", "--i", volume, "--ang", ours / "particles.star", "--o", f"{folder}/relion"]
        command += ["--ctf", "--angpix", str(config.voxel_size)]
        cases = {
            "ours": lambda: simulate(config, volume, ours, 1, lambda *_: None),
            "relion": lambda: subprocess.run(command, check=True, capture_output=True, env={"OMP_NUM_THREADS": "1"}),
        }
        seconds = interleaved(cases, 2 if quick else 3)
    rates = {f"{name}_images_per_second": images / statistics.median(values) for name, values in seconds.items()}
    return {"simulate_ratio": {"float32": ratio(seconds["relion"], seconds["ours"])}, "images": images} | rates


def bench_metric() -> dict[str, Any]:
    """The pose metric of the paper on 100,000 poses."""
    rng = np.random.default_rng(0)
    predicted, true = random_rotations(100_000, rng), random_rotations(100_000, rng)
    before = peak_gib()
    started = time.perf_counter()
    paper_scores(predicted, true)
    return {"poses": 100_000, "seconds": time.perf_counter() - started, "more_gib": peak_gib() - before}


def bench_scaling(model: str, box: int, batch: int) -> dict[str, Any]:
    """Item 6: seconds of a step and peak memory, beside what `forecast` expects; too large a case is left at that."""
    torch.manual_seed(0)
    network = Autoencoder(run_of(model, box, batch, "float32"), image_scale=1.0)
    images, ctf = torch.randn(batch, box, box), CTF.repeat(batch, 1)
    row = {"expected_gib": peak_bytes(network, images) / 2**30, "expected_seconds": measure(network, images, ctf)[0]}
    del network, images, ctf
    row["limit_gib"] = min(MOST_GIB, 0.8 * available_gib())
    if row["expected_gib"] > row["limit_gib"] or row["expected_seconds"] > MOST_SECONDS:
        return row
    (seconds,) = interleaved({"": our_step(model, box, batch, "float32")}, 1).values()
    return row | {"seconds": statistics.median(seconds)}


def peak_gib() -> float:
    """This process's peak resident memory. (getrusage's would include the parent's.)"""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def available_gib() -> float:
    return int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20


PARTS = ("steps", "escnn", "simulation", "metric", "scaling")


def cases(quick: bool) -> dict[str, dict[str, Callable[[], dict[str, Any]]]]:
    """All that is measured, by part and name."""
    boxes, batches = ((32, 64), (16, 64)) if quick else ((32, 64, 128, 256), (16, 64, 256))
    sizes = [("standard_sym", 128)] * (not quick) + [("d4_l2", box) for box in boxes]
    return {
        "steps": {"128 px": partial(bench_steps, quick)},
        "escnn": {
            f"{group} {box} px": partial(bench_escnn, group, box, batch, quick)
            for group in ("c4", "d4")
            for box, batch in ((32, 16), (128, 2 if quick else 4))
        },
        "simulation": {"128 px": partial(bench_simulation, quick)},
        "metric": {"100,000 poses": bench_metric},
        "scaling": {
            f"{model} {box} px × {batch}": partial(bench_scaling, model, box, batch)
            for model, box in sizes
            for batch in batches
        },
    }


def table(results: dict[str, Any]) -> str:
    """The Markdown table, from bench.json alone."""
    m = results["machine"]
    lines = [
        f"{', '.join([m['processor'], m['instruction_set'], *m['bfloat16_instructions']])},"
        f" {m['threads']} thread, torch {m['torch']}.",
        "",
        "| what | precision | median (range) | target |",
        "| --- | --- | --- | --- |",
    ]

    def line(what: str, precision: str, r: dict[str, float], target: float | str) -> str:
        return f"| {what} | {precision} | {r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f}) | {target} |"

    steps = results.get("steps", {}).get("128 px", {})
    for name in ("step_ratio_128", "step_ratio_d4_128"):
        lines += [line(name, p, r, TARGETS[name][p]) for p, r in steps.get(name, {}).items()]
    for case, f in steps.get("floor_fraction_128", {}).items():
        share = f"{f['products']:.2f}, with sines {f['both']:.2f}"
        lines.append(f"| floor_fraction_128, {case.rsplit(' ', 1)[0]} | {case.split(' ')[-1]} | {share} | 0.5 |")
    for case, found in results.get("escnn", {}).items():
        for p, r in found["escnn_ratio"].items():
            lines.append(line(f"escnn_ratio, {case} (convolutions alone: {r['bound']:.2f})", p, r, 1.5))
    for found in results.get("simulation", {}).values():
        lines += [line("simulate_ratio", p, r, 1.0) for p, r in (found["simulate_ratio"] or {}).items()]
    for poses, found in results.get("metric", {}).items():
        lines.append(f"| pose metric, {poses} | | {found['seconds']:.1f} s, {found['more_gib']:.1f} GiB | seconds |")
    if rates := steps.get("rates"):
        lines += ["", "The machine's rates, on which the floor fractions rest:", ""]
        lines += ["| precision | products, GFLOP/s | sines, 10⁹/s |", "| --- | --- | --- |"]
        for p, r in rates.items():
            lines.append(f"| {p} | {max(r['products'].values()) / 1e9:.0f} | {r['sines'] / 1e9:.2f} |")
    if parts := steps.get("seconds_by_part"):
        names = sorted({part for case in parts.values() for part in case}, key=lambda p: -parts["reference"].get(p, 0))
        lines += ["", f"Seconds of one step by part, {steps['box']} px, batch {steps['batch']}:", ""]
        lines += ["| part | " + " | ".join(parts) + " |", "| --- |" + " --- |" * len(parts)]
        lines += [f"| {n} | " + " | ".join(f"{case.get(n, 0):.2f}" for case in parts.values()) + " |" for n in names]
    if scaling := results.get("scaling"):
        lines += ["", "| a training step of | s | peak GiB | s expected | GiB expected |", "| --- |" + " --- |" * 4]
        for case, row in scaling.items():
            known = f"{row['seconds']:.2f} | {row['peak_gib']:.1f}" if "seconds" in row else "not run |"
            lines.append(f"| {case} | {known} | {row['expected_seconds']:.2f} | {row['expected_gib']:.1f} |")
        limit = min(row["limit_gib"] for row in scaling.values())
        lines += ["", f"Not run: what is expected to take over {MOST_SECONDS} s or {limit:.0f} GiB."]
    peaks = {part: max(case["peak_gib"] for case in results[part].values()) for part in PARTS if part in results}
    lines += ["", f"Peak memory of a part's largest case, GiB: {', '.join(f'{p} {v:.1f}' for p, v in peaks.items())}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench", help="folder of bench.json and bench.md")
    parser.add_argument("--quick", action="store_true", help="small batches and few repeats; quick.json and quick.md")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        part, case = arguments.child
        keep_freed_memory()  # to the reference's advantage too
        result = cases(arguments.quick)[part][case]()
        print(json.dumps(result | {"peak_gib": peak_gib()}))
        return
    name = "quick" if arguments.quick else "bench"
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{name}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    here = {"machine": machine(), "code": code()}
    if {key: results.get(key) for key in here} != here:
        results = here
    for part in arguments.only:
        for case in cases(arguments.quick)[part]:
            if case in results.get(part, {}):
                continue
            print(f"{time.strftime('%H:%M')} {part}, {case}", file=sys.stderr, flush=True)
            results.setdefault(part, {})[case] = in_child(part, case, arguments.quick)
            with whole_file(path) as partial_file:
                partial_file.write_text(json.dumps(results, indent=2) + "\n")
            (arguments.output / f"{name}.md").write_text(table(results))
    print(table(results))


def in_child(part: str, case: str, quick: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", part, case, *(["--quick"] * quick)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
