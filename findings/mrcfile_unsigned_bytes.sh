#!/usr/bin/env bash
# mrcfile 1.5.4 reads bytes without a sign as bytes with one, without a word, though IMOD's stamp and flags in the header say
# which they are. Its validation then calls the header's right extremes wrong. It matters because values above 127 wrap:
# bright particles become dark ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet mrcfile==1.5.4 numpy==1.26.4 2> /dev/null
venv/bin/python - << 'END'
import importlib.metadata, io, struct, mrcfile, numpy as np
stored = np.array([[[0, 100, 127, 128, 200, 255]]], np.uint8)
header = bytearray(1024)
struct.pack_into("<10i", header, 0, 6, 1, 1, 0, 0, 0, 0, 6, 1, 1)  # 6 x 1 x 1 values of mode 0
struct.pack_into("<6f", header, 40, 6, 1, 1, 90, 90, 90)
struct.pack_into("<3i3f", header, 64, 1, 2, 3, 0, 255, stored.mean())  # axes, and the least and largest value
struct.pack_into("<2i", header, 152, 1146047817, 0)  # IMOD's stamp; flags without the bit that says "bytes have a sign"
header[104:112] = bytes(4) + struct.pack("<i", 20140)
header[208:216] = b"MAP \x44\x44\0\0"
struct.pack_into("<f", header, 216, stored.std())
open("a.mrc", "wb").write(bytes(header) + stored.tobytes())
said = io.StringIO()
read = mrcfile.read("a.mrc")
mrcfile.validate("a.mrc", print_file=said)
print("mrcfile", importlib.metadata.version("mrcfile"))
print("stored ", *stored.ravel(), " the header's least and largest value: 0 and 255")
print("read   ", *read.ravel(), f" as {read.dtype}")
print(*(line for line in said.getvalue().splitlines() if "imum" in line), sep="\n")
assert read.dtype == np.int8 and read.min() == -128 and read.max() == 127, "the sign is that of the flags now"
END
