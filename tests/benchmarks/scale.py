"""What a reconstruction costs by the number of particles: time and peak memory by stage, and processor time of all.

    python tests/benchmarks/scale.py OUT --images 1000 10000 100000  # simulated, of 64 px, cropped to --box
    python tests/benchmarks/scale.py OUT --table                             # from what lies there; nothing is run

The wall time of a stage is the clock's, of all of its jobs. Its peak memory is what Snakemake's samples saw, every 30 s
after the first 15. `….processor_s.json` beside a reconstruction has the processor time of the commands that made it.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from race import ONE_THREAD, make

from equipose.io.files import read_json
from equipose.io.processes import children_seconds
from equipose.reconstruction.names import NOT_CONVERGED
from equipose.study.panel import add_processor_seconds

STAGES = ("prepare", "train", "evaluate", "join_halves", "reconstruction_figure", "reconstruction_report")


def stages(folder: Path) -> pd.DataFrame:
    """Wall seconds and peak memory of each stage of a reconstruction, both halves together."""
    rows = []
    for stage in STAGES:
        found = [pd.read_csv(path, sep="\t") for path in (folder / "work/benchmarks" / stage).rglob("*.tsv")]
        if found:
            jobs = pd.concat(found)
            rows.append({"stage": stage, "wall_s": jobs["s"].sum(), "peak_mb": jobs["max_rss"].max()})
    rows.append({"stage": "all", "processor_s": read_json(folder.with_suffix(".processor_s.json"))["seconds"]})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    equipose, found = Path(sys.executable).parent / "equipose", []
    for images in arguments.images:
        data, folder = arguments.out / f"data_{images}", arguments.out / f"{images}_{arguments.box}px"
        if not (folder / "report.html").exists() and not arguments.table:
            make(data, "5nrl", box=64, voxel_size=8.5, snr=0.2, images=images)
            print(f"{time.strftime('%H:%M')} {images} particles", file=sys.stderr, flush=True)
            command = [equipose, "reconstruct", data / "particles.star", "--contrast", "bright", "--out", folder]
            command += ["--box", str(arguments.box), "--cores", str(arguments.cores)]
            spent, before = folder.with_suffix(".processor_s.json"), children_seconds()
            code = subprocess.run(command, env=os.environ | ONE_THREAD).returncode
            add_processor_seconds(spent, data.name, before)
            if code not in (0, NOT_CONVERGED):
                sys.exit(code)
        if (folder / "report.html").exists():
            found.append(stages(folder).assign(images=images, box=arguments.box))
    if found:
        table = pd.concat(found)
        table.to_csv(arguments.out / "scale.csv", index=False)
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
