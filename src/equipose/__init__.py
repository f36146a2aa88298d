"""equipose: equivariant amortized inference of poses for cryo-EM."""

__version__ = "0.2.0"
