"""equipose: equivariant amortized inference of poses for cryo-EM.

    from equipose import read_particles, search, refine, fsc

`PUBLIC` lists what can be imported so, and where it comes from. A name is loaded when it is asked for: PyTorch takes
seconds.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

PUBLIC = {
    "read_particles": "io.particles.read_particles",
    "simulate": "reconstruction.session.simulate",
    "some": "reconstruction.session.some",
    "search": "reconstruction.session.search",
    "load_model": "model.autoencoder.load_model",
    "encode": "reconstruction.session.encode",
    "refine": "reconstruction.session.refine",
    "back_project": "reconstruction.session.back_project",
    "compare_poses": "core.pose_metrics.exact_scores",
    "fsc": "core.fsc.fourier_shell_correlation",
    "corrected_fsc": "core.fsc.corrected_fsc",
    "resolution": "core.fsc.exact_resolution",
    "read_map": "io.maps.read_map",
    "write_map": "io.maps.write_map",
}
"""The public names, and the functions of the package that they stand for."""

__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, function = PUBLIC[name].rpartition(".")
    return getattr(import_module(f"{__name__}.{module}"), function)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
