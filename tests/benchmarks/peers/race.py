"""equipose beside cryoDRGN, RELION and ASPIRE, on the same simulated particles: pose error by processor time.

    python tests/benchmarks/peers/race.py OUT --limit 10800  # all that have not run; README.md has the needs
    python tests/benchmarks/peers/race.py OUT --score                # scores.csv and the table from what lies there

Each program has one thread. Its time is the processor time, user and system, of all of its processes: cores are shared.
A program that has ended, or had its time, is not started again.
"""

import argparse
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
import yaml

from equipose.config.folder import WORKFLOW
from equipose.config.settings import SimulationConfig
from equipose.core.rotations import from_relion_angles
from equipose.data.simulate import simulate
from equipose.data.structures import density
from equipose.io.files import whole_file, write_json
from equipose.io.maps import write_map
from equipose.io.particle_tables import ANGLES, ORIGINS, read_tables, write_star
from equipose.reconstruction.names import NOT_CONVERGED
from equipose.study.panel import degrees

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

POLL = 2.0
"""Seconds of the clock between two looks at a program."""

SCORED = 200
"""Particles of which each of RELION's maps is asked the poses: one expectation of all takes longer than the map."""

HERE = Path(__file__).resolve().parent

DATA = {
    "spliceosome_snr1_32px": {"atoms": "5nrl", "box": 32, "voxel_size": 17.0, "snr": 1.0, "images": 3000},
    "spliceosome_snr0.2_64px": {"atoms": "5nrl", "box": 64, "voxel_size": 8.5, "snr": 0.2, "images": 3000},
    "igg1_snr0.2_64px": {"atoms": "1igy", "box": 64, "voxel_size": 4.16, "snr": 0.2, "images": 3000},
    "cav1_1_snr0.2_64px": {"atoms": "5gjv", "box": 64, "voxel_size": 6.10, "snr": 0.2, "images": 3000},
}
"""Simulated from embedded atoms (C1, all of them), shifts of 3 % of the box."""

MASK = 0.81
"""Diameter of RELION's mask in sides of the box."""

Poses = tuple[np.ndarray, np.ndarray]
"""Rows (n,) of the particles, from 0, and rotations (n, 3, 3)."""


@dataclass(frozen=True)
class Peer:
    """How a program is run on a folder with particles.star, and what of its output can be scored."""

    commands: Callable[[Path, Path], list[str]]
    """from the folder of the data and that of the output"""
    snapshots: str
    """glob of the files that have poses, or maps to get poses from"""
    poses: Callable[[Path, Path], Poses]
    """from the folder of the data and one of these files"""
    version: str


CRYODRGN = """
--zdim 0 --uninvert-data --seed 0 --no-amp --no-analysis --num-workers 0 --n-imgs-pretrain 1000 --epochs-pose-search 5
-n 25 --l-start 6 --l-end 12 --niter 3 --nkeptposes 4 --base-healpy 1 --t-extent 2 --t-ngrid 3 --dim 128 --layers 2
--pe-dim 16 --lr 1e-3 --batch-size-hps 16 --batch-size-sgd 32 --checkpoint 1
"""

RELION = """
--ctf --sym C1 --K 1 --flatten_solvent --zero_mask --dont_combine_weights_via_disc --preread_images --pool 30 --pad 1
--oversampling 1 --offset_range 3 --offset_step 2 --j 1 --random_seed 1
"""

SGD = """
--sgd --denovo_3dref --sgd_ini_iter 25 --sgd_inbetween_iter 100 --sgd_fin_iter 25 --sgd_write_iter 25
--sgd_ini_resol 100 --sgd_fin_resol 40 --sgd_ini_subset 100 --sgd_fin_subset 300 --skip_gridding --healpix_order 1
"""

EXPECTATION = "--firstiter_cc --iter 1 --ini_high 35 --tau2_fudge 4 --norm --scale --healpix_order 2"


def peers(environments: Path) -> dict[str, Peer]:
    cryodrgn, aspire = environments / "cryodrgn/bin", environments / "aspire/bin/python"
    equipose = Path(sys.executable).parent / "equipose"
    return {
        "equipose": Peer(
            lambda data, out: [
                f"{equipose} reconstruct {data}/particles.star --contrast bright --out {out}/r --cores 1"
            ],
            "r/**/poses.star",
            _of_equipose,
            f"{equipose} --version",
        ),
        "cryodrgn": Peer(
            lambda data, out: [
                f"{cryodrgn}/cryodrgn parse_ctf_star {data}/particles.star -o {out}/ctf.pkl"
                f" -D {DATA[data.name]['box']} --Apix {DATA[data.name]['voxel_size']}",
                f"{cryodrgn}/cryodrgn abinit {data}/particles.mrcs --ctf {out}/ctf.pkl -o {out}/a {CRYODRGN}",
            ],
            "a/pose.*.pkl",
            _of_cryodrgn,
            f"{cryodrgn}/python -c 'import cryodrgn; print(cryodrgn.__version__)'",
        ),
        "relion": Peer(
            lambda data, out: [f"relion_refine --i particles.star --o {out}/run {_relion(data.name)} {SGD}"],
            "run_it*_class001.mrc",
            _of_relion,
            "relion_refine --version",
        ),
        "aspire": Peer(
            lambda data, out: [f"{aspire} {HERE}/aspire_orient.py {data}/particles.star 300 {out}/oriented"],
            "oriented.npy",
            _of_aspire,
            f"{aspire} -c 'import aspire; print(aspire.__version__)'",
        ),
    }


def make(folder: Path, atoms: str, box: int, voxel_size: float, snr: float, images: int) -> None:
    """particles.star without poses, their stack and truth.star, in `folder`; nothing if they are there."""
    if (folder / "truth.star").exists():
        return
    defaults = yaml.safe_load((WORKFLOW / "config.yaml").read_text())["simulation"]
    own = {"name": folder.name, "structure": atoms, "box": box, "voxel_size": voxel_size, "snr": snr}
    own |= {"images": images, "held_out": 0, "shift_std": 0.03 * box * voxel_size}
    config = SimulationConfig.from_dict(defaults | own, "simulation")
    folder.mkdir(parents=True, exist_ok=True)
    packed = WORKFLOW / f"workflow/resources/structures/{atoms}.npz"
    write_map(folder / "volume.mrc", density(packed, box, voxel_size, config.resolution), voxel_size)
    simulate(config, folder / "volume.mrc", folder, 1, lambda *_: None)
    optics, table = read_tables(folder / "particles.star")
    (folder / "particles.star").rename(folder / "with_poses.star")
    write_star(folder / "particles.star", optics, table.drop(columns=[*ANGLES, *ORIGINS]))
    write_star(folder / "truth.star", optics, table)


def race(peer: Peer, data: Path, out: Path, limit: float) -> None:
    """Run a program, and note the processor time at which each of its snapshots was there, in out/times.json."""
    if (out / "times.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    before, seen, ended = 0.0, {}, "finished"
    with open(out / "log.txt", "w") as log:
        for command in peer.commands(data, out):
            process = psutil.Popen(
                shlex.split(command),
                cwd=data,
                env=os.environ | ONE_THREAD,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            spent = 0.0
            while process.poll() is None:
                time.sleep(POLL)
                spent = max(spent, _spent(process))
                for found in sorted(out.glob(peer.snapshots)):
                    seen.setdefault(str(found.relative_to(out)), before + spent)
                if before + spent > limit:
                    _end(process)
                    ended = "limit"
            before += spent
            if ended == "limit" or process.returncode not in (0, NOT_CONVERGED):
                ended = ended if ended == "limit" else f"failed ({process.returncode}); see log.txt"
                break
    for found in sorted(out.glob(peer.snapshots)):
        seen.setdefault(str(found.relative_to(out)), before)
    version = subprocess.run(shlex.split(peer.version), capture_output=True, text=True, check=False).stdout.splitlines()
    write_json(out / "times.json", {"ended": ended, "seconds": before, "snapshots": seen, "version": version[:1]})


def score(peer: Peer, data: Path, out: Path) -> list[dict[str, object]]:
    """A row for each snapshot: its time, and the error of its poses after the best rotation and hand."""
    times = json.loads((out / "times.json").read_text())
    truth = _of_star(data / "truth.star")[1]
    rows: list[dict[str, object]] = []
    for name, seconds in sorted(times["snapshots"].items(), key=lambda item: item[1]):
        scored = out / f"{name.replace('/', '_')}.json"
        if not scored.exists():
            chosen, rotations = peer.poses(data, out / name)
            if not len(chosen):
                continue
            apart = degrees(rotations, truth[chosen])
            found = {"poses": len(chosen), "median_degrees": float(np.median(apart))}
            write_json(scored, found | {f"within_{d}": float(np.mean(apart < d)) for d in (5, 15)})
        rows.append({"seconds": seconds, "snapshot": name, **json.loads(scored.read_text())})
    return [
        {"data": data.name, "peer": out.name, **row, "ended": times["ended"], "all": times["seconds"]} for row in rows
    ]


def _of_star(star: Path) -> Poses:
    table = read_tables(star)[1]
    rows = table["rlnImageName"].str.split("@").str[0].astype(int).to_numpy() - 1
    return rows, from_relion_angles(table[list(ANGLES)].to_numpy(float))


def _of_equipose(_: Path, star: Path) -> Poses:
    """Of all particles, or of those of the half-set whose own poses.star it is, in the order of all."""
    rows, rotations = _of_star(star)
    _, _, half, runs, _, folder, *_ = star.parents  # …/work/runs/half1/d4_search/seed0/poses.star
    if runs.name != "runs":
        return rows, rotations
    table = read_tables(folder / "poses.star")[1]
    where = table["rlnImageName"].str.split("@").str[0].astype(int).to_numpy() - 1
    return where[table["rlnRandomSubset"].astype(int) == int(half.name.removeprefix("half"))][rows], rotations


def _of_cryodrgn(_: Path, pickled: Path) -> Poses:
    with open(pickled, "rb") as file:
        rotations = np.asarray(pickle.load(file)[0], float)
    return np.arange(len(rotations)), rotations


def _of_aspire(_: Path, rows: Path) -> Poses:
    """ASPIRE's rotations are the transposes of ours: their gauge is on the left, and the hand's flip is the same."""
    return np.load(rows), np.load(rows.with_suffix(".rotations.npy")).astype(float).swapaxes(1, 2)


def _relion(name: str) -> str:
    """RELION's options for a data set."""
    return f"{RELION} --particle_diameter {MASK * DATA[name]['box'] * DATA[name]['voxel_size']:.0f}"


def _of_relion(data: Path, volume: Path) -> Poses:
    """Poses of the first particles by one expectation against a map.

    By cross-correlation: RELION's first maps are not of the images' grey scale (here 5 times as strong), and without it
    every pose is random.
    """
    optics, table = read_tables(data / "particles.star")
    write_star(data / "scored.star", optics, table.iloc[:SCORED])
    (volume.parent / "expectation").mkdir(exist_ok=True)
    command = f"relion_refine --i scored.star --ref {volume} --o {volume.parent}/expectation/run"
    command += f" {_relion(data.name)} {EXPECTATION}"
    subprocess.run(shlex.split(command), cwd=data, env=os.environ | ONE_THREAD, check=True, capture_output=True)
    return _of_star(volume.parent / "expectation/run_it001_data.star")


def _spent(process: psutil.Popen) -> float:
    """Processor seconds of a process and all that it has started, those that have ended included."""
    total = 0.0
    try:
        for each in [process, *process.children(recursive=True)]:
            try:
                total += sum(each.cpu_times()[:4])
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def _end(process: psutil.Popen) -> None:
    """End a program and all that it has started."""
    processes = [*process.children(recursive=True), process]
    for each in processes:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=float, default=10800, help="processor seconds of each; default: three hours")
    parser.add_argument(
        "--environments", type=Path, default=Path("build/peers"), help="folder of cryodrgn/ and aspire/"
    )
    parser.add_argument("--only", nargs="+", help="names of peers")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--score", action="store_true", help="run nothing more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out, rows = arguments.out.resolve(), []
    for name in arguments.data:
        data = out / "data" / name
        make(data, **DATA[name])
        for label, peer in peers(arguments.environments.resolve()).items():
            folder = out / name / label
            if not arguments.score and (not arguments.only or label in arguments.only):
                print(f"{time.strftime('%H:%M')} {name} {label}", file=sys.stderr, flush=True)
                race(peer, data, folder, arguments.limit)
            if (folder / "times.json").exists() and arguments.score:
                rows += score(peer, data, folder)
    if rows:
        table = pd.DataFrame(rows)
        with whole_file(out / "scores.csv") as partial:
            table.to_csv(partial, index=False)
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
