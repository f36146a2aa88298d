#!/usr/bin/env bash
# mrcfile.mmap opens a stack without reading it, but update_header_stats() on it needs as much memory as the stack has bytes.
#
# A memory map is the way to write a stack that is larger than the memory, part by part. A valid file then needs its
# minimum, maximum, mean and standard deviation in the header, and mrcfile has a method for that. The method calls
# NumPy's std() of the whole map, which makes an array of all differences from the mean. So a job that wrote 60 GB in
# 100 MB of memory is killed at its last line, and again at each new try. Sums over parts give the same numbers.
#
# Writes only into a folder of its own. Exit code 0: as described; 1: mrcfile or NumPy behaves differently now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet mrcfile==1.5.4 numpy==2.2.6
"$folder/venv/bin/python" - "$folder/stack.mrcs" <<'PYTHON'
import sys
import tracemalloc

import mrcfile
import numpy as np

shape = (1000, 128, 128)
size = int(np.prod(shape)) * 4
tracemalloc.start()


def peak() -> int:
    """Most bytes that Python and NumPy have held since the last call."""
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    return most


with mrcfile.new_mmap(sys.argv[1], shape, mrc_mode=2) as mrc:
    rng = np.random.default_rng(0)
    for start in range(0, len(mrc.data), 50):
        mrc.data[start : start + 50] = rng.standard_normal((50, *shape[1:]), np.float32)
    written = peak()
    mrc.update_header_stats()
    updated = peak()
    squares = sum(float(np.square(mrc.data[n : n + 50], dtype=np.float64).sum()) for n in range(0, shape[0], 50))
    mean = sum(float(mrc.data[n : n + 50].sum(dtype=np.float64)) for n in range(0, shape[0], 50)) / mrc.data.size
    in_parts, by_parts = peak(), (squares / mrc.data.size - mean**2) ** 0.5
    by_mrcfile = float(mrc.header.rms)

megabytes = {"the stack": size, "to write it": written, "update_header_stats()": updated, "the same in parts": in_parts}
print("mrcfile", mrcfile.__version__, "NumPy", np.__version__)
for what, count in megabytes.items():
    print(f"{what:22} {count / 1e6:6.1f} MB")
print(f"standard deviation: {by_mrcfile:.6f} by mrcfile, {by_parts:.6f} by parts")
as_described = updated > 0.9 * size and in_parts < 0.2 * size and abs(by_mrcfile - by_parts) < 1e-5
raise SystemExit(0 if as_described else "changed: the statistics of a memory map need less memory than its bytes")
PYTHON
