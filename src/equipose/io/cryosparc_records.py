"""The records that cryoSPARC would have of a star file's particles: images and CTFs, ready for new poses."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from equipose.io.cryosparc import COLUMNS, INDEX, PIXEL, SHAPE, SIGN, SIGN_LABEL, STACK, UID
from equipose.io.particle_tables import DEFOCUS, OPTICS, image_names, loose, numbers, of_groups, per_particle
from equipose.io.particle_tables import SIZE as BOX
from equipose.io.stacks import SUFFIXES

RESOLUTION, UCSF_UID = "rlnCtfMaxResolution", "ucsfUid"


def records_of(star: Path, optics: pd.DataFrame, table: pd.DataFrame) -> dict[str, np.ndarray] | None:
    """The fields (n, …) of the tables' particles; None if these lack a defocus or optics, as clean projections do.

    A uid is cryoSPARC's, in ucsfUid, if each row has one of its own. Otherwise it is a hash of the image's name and
    row: the same file has the same ones at each call.
    """
    if DEFOCUS[0] not in table or not all(label in table or label in optics for label in OPTICS[:3]):
        return None
    index, number, names, _ = image_names(star, table["rlnImageName"])
    paths = [next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name) for name in names]
    if DEFOCUS[1] not in table:
        table = table.assign(**{DEFOCUS[1]: table[DEFOCUS[0]]})
    uids = _known_uids(table)
    if uids is None:
        known = zip(index.tolist(), number.tolist(), strict=True)
        hashes = [_hash(f"{row} {image} {paths[code]}") for row, (image, code) in enumerate(known)]
        uids = np.array(hashes, np.uint64)
    box = of_groups(star, BOX, optics, table).astype(np.uint32)
    records = {
        UID: uids,
        STACK: np.array([path.encode() for path in paths], "S")[number],
        INDEX: index.astype(np.uint32),
        SHAPE: np.stack([box, box], axis=1),
        "ctf/exp_group_id": per_particle(star, "rlnOpticsGroup", optics, table).astype(np.uint32),
    }
    if SIGN_LABEL in table:
        records[SIGN] = numbers(star, table[SIGN_LABEL]).astype(np.float32)
    if RESOLUTION in table:  # that of a fit that has failed is not finite; cryoSPARC's is 0 then
        table = table.assign(**{RESOLUTION: np.nan_to_num(loose(table[RESOLUTION]), nan=0, posinf=0, neginf=0)})
    for field, (label, unit) in COLUMNS.items():
        if label in table or label in optics or field.startswith("ctf/df") or field == PIXEL:
            records[field] = (per_particle(star, label, optics, table) / unit).astype(np.float32)
    return records


def _known_uids(table: pd.DataFrame) -> np.ndarray | None:
    """The uids (n,) that cryoSPARC gave the particles; None if the table lacks some, or has one twice."""
    if UCSF_UID not in table:
        return None
    try:
        uids = np.array([int(uid) for uid in table[UCSF_UID]], np.uint64)
    except (ValueError, OverflowError):
        return None
    return uids if len(np.unique(uids)) == len(uids) else None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
