"""Images before they are Fourier-cropped: those that the SNR of a dataset with `snr_box` is of."""

import dataclasses

from equipose.config.settings import SimulationConfig


def uncropped(config: SimulationConfig) -> SimulationConfig:
    """The same molecule in a box of `snr_box` smaller pixels; Å stay Å."""
    box = config.snr_box or config.box
    finer = box / config.box
    voxel_size, resolution = config.voxel_size / finer, config.resolution * finer  # the latter in voxels
    return dataclasses.replace(config, box=box, voxel_size=voxel_size, resolution=resolution)
