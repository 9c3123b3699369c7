"""What the drawn data sets share: who is in them, and how a set gets onto the disk.

`images` and `tracklets` say what to draw. Every random number of both follows from
the seed and the name of the thing it is for, so that what is drawn does not depend on which
process draws it, and equal specs give byte-identical files.
"""

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator

from jaxreid.errors import UserError, require
from jaxreid.synthetic.pedestrian import Person, people
from jaxreid.synthetic.scene import stream

Item = TypeVar("Item")
Drawn = TypeVar("Drawn")
People = list[tuple[int, Person]]
Rules = dict[str, tuple[bool, str]]
"""For a field of a spec, whether it is possible, and what it would have to be."""


def validate(spec: Any, rules: Rules) -> None:
    """Checks what every spec has, and what only this one has.

    Raises:
        UserError: no data set can follow from the spec.
    """
    low, high = spec.cameras_per_id
    common = {
        "seed": (spec.seed >= 0, "must not be negative"),
        "num_train_ids": (spec.num_train_ids >= 1, "must be at least 1"),
        "num_test_ids": (spec.num_test_ids >= 1, "must be at least 1"),
        "cameras": (2 <= spec.cameras <= 9, "must lie in 2..9"),
        "cameras_per_id": (
            2 <= low <= high <= spec.cameras,
            f"must be (low, high) with 2 <= low <= high <= cameras = {spec.cameras}",
        ),
        "num_distractors": (spec.num_distractors >= 0, "must not be negative"),
        "num_junk": (spec.num_junk >= 0, "must not be negative"),
        "height": (spec.height >= 32, "must be at least 32 pixels"),
        "width": (spec.width >= 16, "must be at least 16 pixels"),
    }
    kind, text = type(spec).__name__, "{key} {expected}, not {value}"
    require(f"{kind}.", spec, {**common, **rules}, text)
    difficulty = {
        name: (0 <= value < math.inf, "must be 0 or more")
        if name != "occlusion"
        else (0 <= value <= 1, "must be a probability")
        for name, value in vars(spec.difficulty).items()
    }
    require("Difficulty.", spec.difficulty, difficulty, text)
    number = spec.num_train_ids + spec.num_test_ids
    if number > 4000:  # names have four digits for a pid, and pids have gaps
        raise UserError(f"{kind}.num_train_ids + num_test_ids must be at most 4000, not {number}")


def identities(spec: Any, rng: Generator) -> tuple[People, People]:
    """Who is in training and who in the test: pids, ascending, and the persons they name."""
    number = spec.num_train_ids + spec.num_test_ids
    # Market's and MARS's ids have gaps, and so have these: nobody should count on 0..N-1.
    pids = rng.choice(np.arange(2, 2 + max(1500, 2 * number)), number, replace=False)
    train, test = np.split(pids, [spec.num_train_ids])
    first, second = (
        list(zip(np.sort(split).tolist(), people(stream(spec.seed, "people", which), len(split))))
        for which, split in enumerate((train, test))
    )
    return first, second


def write_once(root: Path | str, spec: Any, version: int, fill: Callable[[Path], None]) -> Path:
    """Makes a folder that appears whole or not at all, unless it is there already.

    Args:
        root: the folder; made if missing, its parents too.
        spec: a dataclass, written beside what was drawn as `spec.json`.
        version: of the drawing; raised whenever the same spec would give other pictures.
        fill: draws everything into an empty folder.

    Returns:
        `root`.

    Raises:
        UserError: `root` holds something else.
    """
    root = Path(root)
    description = _description(spec, version)
    if _holds(root, description):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        draft.chmod(0o755)
        fill(draft)
        (draft / "spec.json").write_text(description)
        try:
            draft.rename(root)
        except OSError:
            if not _holds(root, description):  # another process may have been faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _description(spec: Any, version: int) -> str:
    """The text of `spec.json`; a strength given as 0 is the same as 0.0."""

    def plain(value: Any, kind: Any) -> Any:
        if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            return {field.name: plain(getattr(value, field.name), field.type) for field in fields}
        return float(value) if kind is float else value

    return json.dumps({"version": version, **plain(spec, None)}, indent=2) + "\n"


def _holds(root: Path, description: str) -> bool:
    """Whether `root` holds this very data set; an error if it holds another thing."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / "spec.json").is_file():
        raise UserError(
            f"{root}: holds something other than a synthetic data set; give a new folder"
        )
    if (root / "spec.json").read_text() != description:
        raise UserError(
            f"{root}: holds a synthetic data set of another spec (see its spec.json); give a new"
            " folder, or remove this one"
        )
    return True


def draw_all(
    draw: Callable[[Item], Drawn], items: Sequence[Item], images: int, processes: int | None
) -> list[Drawn]:
    """Draws every item, in order.

    Args:
        draw: draws one; must be picklable where there are several processes.
        items: what to draw.
        images: how many images that makes.
        processes: how many draw; every core if None, where there is enough to do.

    Raises:
        UserError: an impossible number of processes.
    """
    if processes is not None and processes < 1:
        raise UserError(f"processes must be at least 1, not {processes}")
    if processes is None:  # a few images are drawn sooner than a process starts
        processes = min(os.cpu_count() or 1, 1 + images // 200)
    if processes == 1:
        return [draw(item) for item in items]
    # Spawned, not forked: the caller may run JAX's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        chunk = 1 + 32 * len(items) // max(1, images)  # about 32 images
        return list(pool.map(draw, items, chunksize=chunk))
