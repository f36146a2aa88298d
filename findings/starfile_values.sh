#!/usr/bin/env bash
# starfile 0.5.13 changes values of star files: it cuts one at a number sign, and an apostrophe becomes a double quote.
# It matters because names of grids and folders have both, and RELION keeps them: a file that went through it names
# micrographs and stacks that do not exist.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet starfile==0.5.13 2> /dev/null
printf 'data_particles\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnImageName #3\n' > a.star
printf "Bob's_grid/mic.mrc 15000.0 1@a#1.mrcs\nplain.mrc 16000.0 2@b#2.mrcs\n" >> a.star
venv/bin/python - << 'END'
import importlib.metadata, starfile
table = starfile.read("a.star")
print("starfile", importlib.metadata.version("starfile"))
print(table.to_string())
assert table["rlnMicrographName"][0] == 'Bob"s_grid/mic.mrc', "the apostrophe is kept now"
assert table["rlnImageName"][0] == "1@a", "the number sign is kept now"
END
echo "written: Bob's_grid/mic.mrc and 1@a#1.mrcs; read: Bob\"s_grid/mic.mrc and 1@a"
