#!/usr/bin/env bash
# RELION 3.1.3 does not look at rlnCtfDataArePhaseFlipped in a star file, not even in data_optics.
#
# Its neighbour rlnCtfDataAreCtfPremultiplied, of the same form, in the same table, is obeyed. So one expects that images
# whose phases were flipped need only say so in their optics group. They do not: a program that is told nothing else takes
# the CTF's sign into account a second time, every other ring of the map is of the wrong sign, and nothing is said. The
# option --ctf_phase_flipped is the one way, of relion_refine as of relion_reconstruct.
#
# Needs relion (Debian: apt-get install relion); without it, it is installed here. All else stays in a temporary folder.
# Exit code 0: as described; 1: RELION behaves differently now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
type relion_reconstruct > /dev/null 2>&1 || apt-get install -y -qq relion=3.1.3* > /dev/null
dpkg-query --show --showformat='relion ${Version}\n' relion
python3 -m venv venv
venv/bin/pip install --quiet --quiet mrcfile==1.5.4 numpy==2.2.6
venv/bin/python - <<'PYTHON'
import mrcfile
import numpy as np

rng = np.random.default_rng(0)
with mrcfile.new("images.mrcs") as mrc:
    mrc.set_data(rng.standard_normal((60, 32, 32)).astype(np.float32))
    mrc.set_image_stack()
    mrc.voxel_size = 4.0
angles = rng.uniform([0, 0, 0], [360, 180, 360], (60, 3))
rows = "".join(
    f"{n + 1}@images.mrcs 1 {rot:.3f} {tilt:.3f} {psi:.3f} 0 0 15000 15000 0\n" for n, (rot, tilt, psi) in enumerate(angles)
)
labels = ["ImageName", "OpticsGroup", "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst"]
labels += ["DefocusU", "DefocusV", "DefocusAngle"]
particles = "\ndata_particles\n\nloop_\n" + "".join(f"_rln{label}\n" for label in labels) + rows
optics = ["OpticsGroup", "Voltage", "SphericalAberration", "AmplitudeContrast", "ImagePixelSize", "ImageSize"]
optics += ["ImageDimensionality", "CtfDataArePhaseFlipped", "CtfDataAreCtfPremultiplied"]
for name, flags in {"plain": "0 0", "flipped": "1 0", "premultiplied": "0 1"}.items():
    head = "data_optics\n\nloop_\n" + "".join(f"_rln{label}\n" for label in optics)
    open(f"{name}.star", "w").write(f"{head}1 300 2.7 0.1 4 32 2 {flags}\n{particles}")
PYTHON
reconstruct() { relion_reconstruct --i "$1.star" --o "$2.mrc" --ctf "${@:3}" > log 2>&1 || { cat log; exit 1; }; }
for name in plain flipped premultiplied; do reconstruct "$name" "$name"; done
reconstruct plain option --ctf_phase_flipped
venv/bin/python - <<'PYTHON'
import mrcfile
import numpy as np

plain = mrcfile.read("plain.mrc")
apart = {}
for name, what in {
    "flipped": "rlnCtfDataArePhaseFlipped 1 in data_optics",
    "premultiplied": "rlnCtfDataAreCtfPremultiplied 1 in data_optics",
    "option": "--ctf_phase_flipped",
}.items():
    apart[name] = float(np.abs(mrcfile.read(f"{name}.mrc") - plain).max() / np.abs(plain).max())
    print(f"{what:47} changes the map by {100 * apart[name]:.1f} % of its highest value")
as_described = apart["flipped"] == 0 and min(apart["premultiplied"], apart["option"]) > 0.05
raise SystemExit(0 if as_described else "changed: the column of flipped phases is obeyed now")
PYTHON
