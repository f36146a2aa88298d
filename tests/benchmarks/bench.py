"""How close training, simulation and metrics come to what the machine can do: `python tests/benchmarks/bench.py`.

Writes bench.json and bench.md into the folder given by --output. Times are compared within this one process, on one
thread: the repeats of all cases are interleaved, so that what else the machine does meets them alike, and a ratio is
the median of the repeats' ratios, given with their range. Peak memories come from child processes. tests/benchmarks/
README.md says what the numbers mean and what is not measured.
"""

import argparse
import dataclasses
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
from pathlib import Path
from typing import Any

import counting
import numpy as np
import reference
import torch
import yaml

from equipose import train
from equipose.autoencoder import Autoencoder
from equipose.config import RunConfig, run_config, simulation_config
from equipose.devices import keep_freed_memory
from equipose.encoders import ENCODERS, GroupConv
from equipose.metrics import paper_scores
from equipose.optimizers import make_optimizers
from equipose.rotations import random_rotations
from equipose.simulate import simulate
from equipose.structures import density, write_map

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
CTF = torch.tensor([2e4, 2e4, 0.0, 300.0, 2.7, 0.1, 0.0])

TARGETS = {
    "step_ratio_128": {"float32": 1.6, "bfloat16": 3.0},
    "step_ratio_d4_128": {"float32": 2.6, "bfloat16": 5.0},
    "floor_fraction_128": {"float32": 0.5, "bfloat16": 0.5},
    "escnn_ratio": {"float32": 1.5, "bfloat16": 1.5},
    "simulate_ratio": {"float32": 1.0},
}


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", cpuinfo)
    return {
        "processor": name[1] if name else platform.processor(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_instructions": sorted(set(re.findall(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo))),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def precisions() -> list[str]:
    return ["float32"] + ["bfloat16"] * bool(machine()["bfloat16_instructions"])


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
    box, batch, repeats = 128, 4 if quick else 8, 3 if quick else 7
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
    result["rates"] = {
        p: {"products": counting.product_rates(getattr(torch, p)), "sines": counting.sine_rate(getattr(torch, p))}
        for p in precisions()
    }
    result["floor_fraction_128"] = {
        name: floor(counting.count(work), statistics.median(seconds[name]), result["rates"])
        for name, work in cases.items()
    }
    result["seconds_by_part"] = {name: counting.seconds_by_part(work) for name, work in cases.items()}
    return result


def floor(counted: counting.Count, seconds: float, rates: dict[str, Any]) -> dict[str, float]:
    """Seconds that the products alone, and the sines alone, must take at the best measured rates, over the time."""
    name = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
    products = sum(n / max(rates[name[p]]["products"].values()) for p, n in counted.operations.items())
    sines = sum(n / rates[name[p]]["sines"] for p, n in counted.sines.items())
    return {
        "operations": {name[p]: n for p, n in counted.operations.items()},
        "sine_evaluations": {name[p]: n for p, n in counted.sines.items()},
        "products": products / seconds,
        "sines": sines / seconds,
        "both": (products + sines) / seconds,
    }


def bench_escnn(quick: bool) -> dict[str, Any]:
    """Item 4: escnn's own layers, forward and backward, over ours at equal total channels; and `bound`, what the ratio
    would be if our convolutions were all that we did.
    """
    result: dict[str, Any] = {"escnn_ratio": {}, "seconds": {}}
    for group in ("c4", "d4"):
        for box, batch in ((32, 16), (128, 2 if quick else 4)):
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
            result["escnn_ratio"][f"{group} {box} px"] = ratios
            result["seconds"][f"{group} {box} px"] = seconds
    return result


def convolutions_alone(layers: torch.nn.Sequential, inputs: torch.Tensor) -> Callable[[], object]:
    """The convolutions of `layers`, forward and backward, and nothing of what lies between them."""
    calls = []
    x = inputs
    with torch.no_grad():
        for layer in layers:
            y = layer(x)
            if isinstance(layer, GroupConv):
                kernel = layer.kernel().to(x)
                calls.append((x, kernel, torch.randn_like(y), layer.padding, x is not inputs))
            x = y

    def work() -> None:
        for x, kernel, gradient, padding, inner in calls:
            wanted = [kernel.requires_grad_(), *([x.requires_grad_()] if inner else [])]
            torch.autograd.grad(torch.nn.functional.conv2d(x, kernel, padding=padding), wanted, gradient)

    return work


def escnn_stack(group: str, box: int, pyramid: torch.Tensor) -> Callable[[], object]:
    """The blocks of the equivariant encoder in escnn's own layers."""
    from escnn import gspaces, nn

    from equipose.encoders import block_widths

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


def bench_metric(quick: bool) -> dict[str, Any]:
    """The pose metric of the paper on 100,000 poses."""
    rng = np.random.default_rng(0)
    predicted, true = random_rotations(100_000, rng), random_rotations(100_000, rng)
    before = peak_gib()
    started = time.perf_counter()
    paper_scores(predicted, true)
    return {"poses": 100_000, "seconds": time.perf_counter() - started, "more_gib": peak_gib() - before}


def bench_scaling(quick: bool) -> dict[str, Any]:
    """Item 6: step time and peak memory, every case in a process of its own."""
    available = available_gib()
    rows = []
    for model, boxes in (("d4_l2", (32, 64, 128, 256)), ("standard_sym", (128,))):
        for box in boxes[:2] if quick else boxes:
            peaks: dict[int, float] = {}
            for batch in (16, 64) if quick else (16, 64, 256):
                row: dict[str, Any] = {"model": model, "box": box, "batch": batch}
                if not peaks and rows:
                    row["expected_gib"] = 0.5 + scaled(rows, row, "peak_gib", 0.5)
                elif len(peaks) == 1:  # memory is affine in the batch: half a GiB of libraries and the rest by image
                    row["expected_gib"] = 0.5 + (peaks[16] - 0.5) * batch / 16
                elif len(peaks) == 2:
                    row["expected_gib"] = peaks[64] + (peaks[64] - peaks[16]) * (batch - 64) / 48
                row["expected_seconds"] = scaled(rows, row, "seconds")
                if row.get("expected_gib", 0) < 0.8 * available and row["expected_seconds"] < 100:
                    row |= in_child("step", model, box, batch, "float32")
                    peaks[batch] = row["peak_gib"]
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    return {"available_gib": available, "rows": rows}


def scaled(rows: list[dict[str, Any]], row: dict[str, Any], key: str, fixed: float = 0.0) -> float:
    """What a case may need, from the last one measured: above a fixed part, in proportion to pixels and images."""
    done = [other for other in rows if other["model"] == row["model"] and key in other]
    if not done:
        return 0.0
    scale = row["batch"] * row["box"] ** 2 / (done[-1]["batch"] * done[-1]["box"] ** 2)
    return (done[-1][key] - fixed) * scale


def in_child(*case: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", *map(str, case)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child_step(model: str, box: str, batch: str, precision: str) -> dict[str, float]:
    keep_freed_memory()
    (seconds,) = interleaved({"": our_step(model, int(box), int(batch), precision)}, 2).values()
    return {"seconds": statistics.median(seconds), "peak_gib": peak_gib()}


def peak_gib() -> float:
    """This process's peak resident memory. (getrusage's would include the parent's.)"""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def available_gib() -> float:
    return int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20


BENCHES = {
    "steps": bench_steps,
    "escnn": bench_escnn,
    "simulation": bench_simulation,
    "metric": bench_metric,
    "scaling": bench_scaling,
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

    def line(what: str, precision: str, r: dict[str, float], target: float) -> str:
        return f"| {what} | {precision} | {r['median']:.2f} ({r['low']:.2f}–{r['high']:.2f}) | {target} |"

    steps = results.get("steps", {})
    for name in ("step_ratio_128", "step_ratio_d4_128"):
        lines += [line(name, p, r, TARGETS[name][p]) for p, r in steps.get(name, {}).items()]
    for case, f in steps.get("floor_fraction_128", {}).items():
        share = f"{f['products']:.2f}, with sines {f['both']:.2f}"
        lines.append(f"| floor_fraction_128, {case.rsplit(' ', 1)[0]} | {case.split(' ')[-1]} | {share} | 0.5 |")
    for case, by_precision in results.get("escnn", {}).get("escnn_ratio", {}).items():
        for p, r in by_precision.items():
            lines.append(line(f"escnn_ratio, {case} (convolutions alone: {r['bound']:.2f})", p, r, 1.5))
    for p, r in (results.get("simulation", {}).get("simulate_ratio") or {}).items():
        lines.append(line("simulate_ratio", p, r, 1.0))
    if metric := results.get("metric"):
        lines.append(f"| pose metric, {metric['poses']} poses | | {metric['seconds']:.1f} s | seconds |")
    if parts := steps.get("seconds_by_part"):
        names = sorted({part for case in parts.values() for part in case}, key=lambda p: -parts["reference"].get(p, 0))
        lines += ["", f"Seconds of one step by part, {steps['box']} px, batch {steps['batch']}:", ""]
        lines += ["| part | " + " | ".join(parts) + " |", "| --- |" + " --- |" * len(parts)]
        lines += [f"| {n} | " + " | ".join(f"{case.get(n, 0):.2f}" for case in parts.values()) + " |" for n in names]
    if scaling := results.get("scaling"):
        lines += ["", "| model | box | batch | s a step | peak GiB |", "| --- | --- | --- | --- | --- |"]
        for row in scaling["rows"]:
            if "seconds" in row:
                known = f"{row['seconds']:.2f} | {row['peak_gib']:.1f}"
            else:
                gib = f"{row['expected_gib']:.0f} expected" if "expected_gib" in row else ""
                known = f"not run, {row['expected_seconds']:.0f} expected | {gib}"
            lines.append(f"| {row['model']} | {row['box']} | {row['batch']} | {known} |")
        lines.append(f"\nNot run: over 100 s a step, or over 80 % of the {scaling['available_gib']:.0f} GiB free.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench", help="folder of bench.json and bench.md")
    parser.add_argument("--quick", action="store_true", help="small batches and few repeats")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        print(json.dumps(child_step(*arguments.child[1:])))
        return
    if len(arguments.only) > 1:  # each part in a process of its own: none inherits another's memory
        for name in arguments.only:
            print(f"{time.strftime('%H:%M')} {name}", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--output", arguments.output, "--only", name]
            subprocess.run(command + ["--quick"] * arguments.quick, check=True, stdout=subprocess.DEVNULL)
        print((arguments.output / "bench.md").read_text())
        return
    keep_freed_memory()  # to the reference's advantage too
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "bench.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    (name,) = arguments.only
    results |= {"machine": machine(), name: BENCHES[name](arguments.quick) | {"quick": arguments.quick}}
    path.write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / "bench.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
