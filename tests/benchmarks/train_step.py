"""Time and memory of a training step: `python tests/benchmarks/train_step.py [--box 32 128] [--models d4_l2 …]`.

Every model of config.yaml at its full size unless told otherwise, one thread, random images: the median of the timed
steps, and the process's peak memory. Each case runs in a process of its own, so that peaks do not mix.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from equipose import train
from equipose.autoencoder import Autoencoder
from equipose.config import run_config

ROOT = Path(__file__).parents[2]


def measure(model: str, box: int, batch: int, steps: int) -> dict[str, float]:
    """Seconds a step (median) and peak memory in GiB of one model."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["simulation"]["box"] = box
    run = run_config(config, config["experiments"]["table1"]["datasets"][0], model, 0)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, batch=batch))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Autoencoder(run, image_scale=1.0).train()
    optimizer = train.make_optimizer(network, run.model.optimizer)
    images = torch.randn(batch, box, box)
    ctf = torch.tensor([2e4, 2e4, 0.0, 300.0, 2.7, 0.1, 0.0]).expand(batch, -1)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        train.train_step(network, optimizer, images, ctf)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": statistics.median(seconds[1:]), "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--models", nargs="+", default=["standard_sym", "c4_l2", "c4_mir", "d4_l2"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one to warm up")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.single:
        print(json.dumps(measure(arguments.models[0], arguments.box[0], arguments.batch, arguments.steps)))
        return
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, batch {arguments.batch}")
    print("| model | box | s a step | images/s | peak GiB |\n| --- | --- | --- | --- | --- |")
    for box in arguments.box:
        for model in arguments.models:
            case = ["--single", "--models", model, "--box", str(box)]
            case += ["--batch", str(arguments.batch), "--steps", str(arguments.steps)]
            output = subprocess.run([sys.executable, __file__, *case], check=True, capture_output=True, text=True)
            result = json.loads(output.stdout)
            rate = arguments.batch / result["seconds"]
            print(f"| {model} | {box} | {result['seconds']:.2f} | {rate:.1f} | {result['peak_gib']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
