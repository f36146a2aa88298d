"""ChimeraX commands that open the truth and each model's best map side by side, at levels of equal enclosed volume.

`python -m equipose.figures.chimerax --dataset DIR --runs DIR … --output PATH`
"""

import os
from pathlib import Path

from equipose.core.surface import enclosing_level, molecule_fraction
from equipose.figures.command_line import dataset_command_line
from equipose.figures.style import TRUTH, model_colours
from equipose.io.files import write_text
from equipose.io.maps import read_map
from equipose.io.progress import run_main
from equipose.study.labels import chimerax, plain_label
from equipose.study.runs import Run, best_runs, load_runs


def commands(dataset: Path, runs: list[Run], folder: Path) -> list[str]:
    """Lines of a .cxc file in `folder`, with paths relative to it: ChimeraX runs them there.

    Other models are closed first: the numbers then begin with 1 (`open` has an option `id` in newer versions only).
    """
    colours = model_colours([run.label for run in runs])
    maps = [(dataset / "volume.mrc", "truth", TRUTH)]
    maps += [(run.folder / "volume_aligned.mrc", plain_label(run.label), colours[run.label]) for run in best_runs(runs)]
    fraction = molecule_fraction(read_map(maps[0][0])[0])
    lines = ["close", "set bgColor white", "lighting soft", "graphics silhouettes true"]
    for number, (path, name, colour) in enumerate(maps, start=1):
        level = enclosing_level(read_map(path)[0], fraction)
        lines += [
            f"open {chimerax(os.path.relpath(path, folder))} name {chimerax(name)}",
            f"volume #{number} style surface level {level:.6g} step 1 color {colour}",
        ]
    return [*lines, f"tile #1-{len(maps)} columns {len(maps)}"]  # in a row, the view on all


def main() -> None:
    arguments = dataset_command_line("chimerax", __doc__.splitlines()[0]).parse_args()
    runs = load_runs(arguments.runs, arguments.dataset)
    write_text(arguments.output, "\n".join(commands(arguments.dataset, runs, arguments.output.parent)) + "\n")


if __name__ == "__main__":
    run_main(main)
