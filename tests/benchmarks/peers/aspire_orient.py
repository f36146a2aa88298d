"""Run in ASPIRE's environment: `aspire_orient.py PARTICLES CLASS_AVERAGES OUT`, where OUT gets a .star, .mrc and .npy.

Its tutorial's pipeline: class averages, CLSyncVoting, a mean map. The rows of the images that head the classes are kept
in OUT.npy. CLSync3N, of the developers' experiments, did not end with 300 images in 145 s of a processor.
"""

import logging
import sys

import numpy as np
from aspire.abinitio import CLSyncVoting
from aspire.denoising import DefaultClassAvgSource
from aspire.reconstruction import MeanEstimator
from aspire.source import OrientedSource, RelionSource

star, classes, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
logging.disable(logging.INFO)
source = RelionSource(star).phase_flip().normalize_background().whiten().cache()
averages = DefaultClassAvgSource(source, n_nbor=30)[:classes].cache()
oriented = OrientedSource(averages, CLSyncVoting(averages, n_theta=180, max_shift=0.1, disable_gpu=True))
MeanEstimator(oriented).estimate().save(out + ".mrc", overwrite=True)
np.save(out + ".rotations.npy", oriented.rotations)
np.save(out + ".npy", np.asarray(averages.src.selection_indices)[:classes])
