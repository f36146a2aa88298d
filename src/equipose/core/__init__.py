"""Numbers and arrays alone: rotations, groups, Fourier transforms, CTF, FSC, masks. Nothing here reads a file."""
