r"""A parser of a layout that the package does not know: `person07_cam2_00031.jpg`, in one folder.

Everybody with an odd number is for training; of the others, the first image of every camera is a
query. With this file where Python looks for modules, the function is a data set:

    PYTHONPATH=docs/examples python -m jaxreid.main --config=duatm_market \
        --config.data.name=own_layout:own_layout --config.data.root=/data/mine --workdir=runs/mine
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from jaxreid.data import tables
from jaxreid.data.files import list_images, say_skipped
from jaxreid.data.tables import Index, ReidData
from jaxreid.errors import UserError

# Anchored: `cam12` is not camera 1.
NAME = re.compile(r"person(\d+)_cam(\d+)_(\d+)")


def own_layout(root: Path) -> ReidData:
    """Reads the index. Junk and distractors: there are none.

    Raises:
        UserError: a file's name is of another form, or there are no files.
    """
    rows: dict[str, list[tuple[str, int, int]]] = {"train": [], "query": [], "gallery": []}
    seen = set()
    skipped: Counter[str] = Counter()
    for name in list_images(root, skipped):
        match = NAME.fullmatch(Path(name).stem)  # Folders above may look like such a name.
        if match is None:
            raise UserError(f"{root / name}: expected a name like person07_cam2_00031.jpg")
        pid, camid = int(match[1]), int(match[2])
        split = "train" if pid % 2 else "gallery" if (pid, camid) in seen else "query"
        seen.add((pid, camid))
        rows[split].append((name, pid, camid))
    if not all(rows.values()):
        raise UserError(f"{root}: expected images of at least two persons by two cameras")

    def table(split: str) -> Index:
        names, pids, camids = zip(*rows[split])
        each = np.arange(len(names), dtype=np.int32)  # A still image is a tracklet of its own.
        return Index(
            root=str(root),
            paths=np.array(names, dtype=np.str_),
            pids=np.array(pids, np.int32),
            camids=np.array(camids, np.int32),
            tracklets=each,
            frames=each,
        )

    return tables.make(
        "own_layout",
        {split: table(split) for split in rows},
        junk=dict.fromkeys(rows, 0),
        notes=say_skipped(skipped),
    )
