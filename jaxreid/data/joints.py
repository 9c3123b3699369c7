"""Joints of the body: read from files, and completed from canonical poses where some are missing.

Joints are 18 rows of (x, y, confidence) in OpenPose's order, in pixels; a joint of confidence 0 was
not found. For each image of a data set they come from OpenPose's own JSON or from one `.npz`.
Completing them follows "Attention Driven Person Re-identification" (Yang et al., Pattern
Recognition, 2019), section 3.2, which gives no numbers: those here are ours.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from jaxreid.data.files import entries
from jaxreid.errors import UserError, nearest

CONFIDENT = 0.2
"""From this confidence on a joint is kept; one below is as good as missing."""

FEWEST = 4
"""So many confident joints, at the least, place a canonical pose."""

# BODY_25 has COCO's 18 joints in the same order, with the middle of the hips between the left wrist
# and the right hip, and the feet at the end.
_OF_BODY_25 = np.array([*range(8), *range(9, 19)])

_FAR = 1e6  # no image is that large; rules out what is infinite or not a number, too

Joints = Float[np.ndarray, "n 18 3"]


# ---------------------------------------------------------------------------- reading


def read_joints(
    path: str | Path, names: Shaped[np.ndarray, " n"] | Sequence[str]
) -> Float32[np.ndarray, "n 18 3"]:
    """Reads the joints of each image; zeros where there are none.

    Args:
        path: an `.npz` file with `names` and `joints` (`[m, 18, 3]`); or a folder with OpenPose's
            JSON, in which the image `a/b.jpg` has `a/b_keypoints.json` or `a/b.json`. That may be
            the data set's own folder. Of several people in one image, the one whose confidences
            have the greatest sum is taken; of BODY_25's joints, the 18.
        names: the images' paths below the data set's root, as in `Index.paths`.

    Raises:
        UserError: a file is not what it should be, or there are joints for none of the images.
    """
    path = Path(path).expanduser()
    wanted = [str(name) for name in names]
    if path.is_dir():
        found = _read_folder(path, wanted)
        expected = f"{os.path.splitext(wanted[0])[0]}_keypoints.json" if wanted else ""
        hint = f"expected files like {path / expected}"
    elif path.is_file():
        found = _read_arrays(path)
        first = next(iter(found), "")
        hint = f"expected names like {wanted[0]!r}, found {first!r}" if wanted else ""
    else:
        raise UserError(
            f"{path}: not found; expected an .npz of joints, or a folder of OpenPose's JSON"
            f"{nearest(path.name, entries(path.parent))}"
        )
    if wanted and not any(name in found for name in wanted):
        raise UserError(f"{path}: holds joints of none of the {len(wanted)} images; {hint}")
    nobody = np.zeros((18, 3), np.float32)
    return np.array([found.get(name, nobody) for name in wanted], np.float32).reshape(-1, 18, 3)


def _read_arrays(file: Path) -> dict[str, Float32[np.ndarray, "18 3"]]:
    """The joints in an `.npz` file, by name."""
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names, joints = arrays["names"], arrays["joints"]
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file}: cannot be read ({reason}); expected an .npz with `names` and `joints`"
        ) from None
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UserError(
            f"{file}: `names` has shape {names.shape} and type {names.dtype}; expected one row of"
            " text"
        )
    if joints.shape != (len(names), 18, 3) or joints.dtype.kind not in "fiu":
        raise UserError(
            f"{file}: `joints` has shape {joints.shape} and type {joints.dtype}; expected numbers"
            f" of shape ({len(names)}, 18, 3)"
        )
    joints = _checked(file, joints)
    unique, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{file}: `names` holds {str(unique[counts.argmax()])!r} more than once")
    return dict(zip(names.tolist(), joints))


def _read_folder(folder: Path, names: Sequence[str]) -> dict[str, Float32[np.ndarray, "18 3"]]:
    """The joints in a folder of JSON files, by the image's name."""
    found = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        for file in (folder / f"{stem}_keypoints.json", folder / f"{stem}.json"):
            try:
                content = file.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror})") from None
            found[name] = _parse(file, content)
            break
    return found


def _parse(file: Path, content: bytes) -> Float32[np.ndarray, "18 3"]:
    """The joints of the person whom OpenPose is surest of; zeros for nobody."""
    try:
        people = [_person(person) for person in json.loads(content)["people"]]
    except Exception as error:  # of JSON that holds something else, nearly every kind
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{file}: not OpenPose's JSON ({reason}); expected people[].pose_keypoints_2d, 18 or 25"
            " times x, y, confidence"
        ) from None
    if not people:
        return np.zeros((18, 3), np.float32)
    joints = _checked(file, np.stack(people))
    return joints[joints[..., 2].sum(axis=1).argmax()]


def _person(person: Any) -> Float[np.ndarray, "18 3"]:
    points = np.array(person["pose_keypoints_2d"], np.float64).reshape(-1, 3)
    if len(points) not in (18, 25):
        raise ValueError(f"{len(points)} joints")
    return points if len(points) == 18 else points[_OF_BODY_25]


def _checked(file: Path, joints: Shaped[np.ndarray, "n 18 3"]) -> Float32[np.ndarray, "n 18 3"]:
    """The joints as float32, or the error for numbers that cannot be joints."""
    if not (np.abs(joints) < _FAR).all() or (joints[..., 2] < 0).any():
        raise UserError(
            f"{file}: holds joints that cannot be; expected pixels, and confidences of 0 or more"
        )
    joints = joints.astype(np.float32)
    points = joints[..., :2][joints[..., 2] >= CONFIDENT]
    if len(points) > 1 and (np.abs(points) <= 1).all():
        raise UserError(f"{file}: holds joints as shares of the image; expected pixels")
    return joints


def scale(
    joints: Joints,
    from_size: tuple[int, int] | Int[np.ndarray, "n 2"],
    to_size: tuple[int, int],
) -> Joints:
    """Joints of images that are resized.

    Args:
        joints: in pixels of images of `from_size`.
        from_size: (height, width) of the files' images; one for all, or one for each.
        to_size: (height, width) after resizing.
    """
    down, across = np.moveaxis(np.array(to_size) / np.asarray(from_size), -1, 0)
    ones = np.ones_like(down)
    factors = np.stack([across, down, ones], axis=-1).astype(joints.dtype)
    return joints * factors.reshape(-1, 1, 3)


# ---------------------------------------------------------------------------- completing


class CanonicalPoses(NamedTuple):
    """Typical poses, to fill in missing joints from.

    Attributes:
        points: (x, y) of each joint, about their mean, in heights of the pose.
    """

    points: Float[np.ndarray, "k 18 2"]


def fit_poses(joints: Joints, poses: int = 8, seed: int = 0) -> CanonicalPoses:
    """Clusters the poses of which every joint is known: k-means of shift- and height-free poses.

    Args:
        joints: of the training images.
        poses: how many canonical poses; fewer come back where fewer differ, and none where no
            pose is known whole.
        seed: of k-means' starts.
    """
    from scipy.cluster.vq import kmeans  # takes a third of a second, and only training needs it

    whole = (joints[..., 2] >= CONFIDENT).all(axis=1)
    points = joints[whole, :, :2].astype(np.float64)
    points -= points.mean(axis=1, keepdims=True)
    height = np.ptp(points[..., 1], axis=1)
    points = points[height > 0] / height[height > 0, None, None]
    if not len(points):
        return CanonicalPoses(np.zeros((0, 18, 2)))
    centres, _ = kmeans(points.reshape(-1, 36), min(poses, len(points)), iter=5, seed=seed)
    return CanonicalPoses(centres.reshape(-1, 18, 2))


def complete(joints: Joints, poses: CanonicalPoses) -> tuple[Joints, Bool[np.ndarray, " n"]]:
    """Fills in missing joints from the canonical pose that fits the confident ones best.

    Each pose is scaled and shifted onto the confident joints by least squares. Nothing is made of
    fewer than `FEWEST` of those, nor where every pose fits best upside down.

    Args:
        joints: as they were read.
        poses: of the training images, from `fit_poses`.

    Returns:
        The joints; those filled in have confidence 0. And for which images they are all known:
        the others' are zeros, and their parts can only be strips.
    """
    sure = joints[..., 2] >= CONFIDENT
    known = np.array(sure.all(axis=1))
    completed = np.where(sure[..., None], joints, 0)
    rows = np.flatnonzero(~known & (sure.sum(axis=1) >= FEWEST))
    if len(rows) and len(poses.points):
        filled, upright = _fit(joints[rows, :, :2].astype(np.float64), sure[rows], poses.points)
        completed[rows, :, :2] = np.where(sure[rows, :, None], joints[rows, :, :2], filled)
        known[rows] = upright
    completed[~known] = 0
    return completed, known


def _fit(
    points: Float[np.ndarray, "n 18 2"],
    sure: Bool[np.ndarray, "n 18"],
    poses: Float[np.ndarray, "k 18 2"],
) -> tuple[Float[np.ndarray, "n 18 2"], Bool[np.ndarray, " n"]]:
    """The pose a·p + t nearest to each image's sure joints, and whether its a is positive."""
    share = sure / sure.sum(axis=1, keepdims=True)
    middle = np.einsum("nj,njx->nx", share, points)
    middles = np.einsum("nj,kjx->nkx", share, poses)
    spread = np.einsum("nj,kjx->nk", share, poses**2) - (middles**2).sum(axis=2)
    centred = (points - middle[:, None]) * share[..., None]
    common = np.einsum("njx,kjx->nk", centred, poses)
    # With the best a = common / spread, a pose explains common² / spread of the joints' spread.
    a = np.maximum(common, 0) / np.maximum(spread, 1e-12)
    best = (a * common).argmax(axis=1)
    each = np.arange(len(points))
    a = a[each, best][:, None]
    filled = a[..., None] * (poses[best] - middles[each, best][:, None]) + middle[:, None]
    return filled, a[:, 0] > 0


def summary(joints: Joints, known: Bool[np.ndarray, " n"]) -> str:
    """One line: how many images had joints, and what became of those that had not all.

    Args:
        joints: as they were read.
        known: what `complete` said of them.
    """
    sure = joints[..., 2] >= CONFIDENT
    whole = sure.all(axis=1)
    return (
        f"joints: {sure.any(axis=1).sum():,} of {len(joints):,} images have some,"
        f" {whole.sum():,} all 18; {(known & ~whole).sum():,} completed from canonical poses,"
        f" {(~known).sum():,} cut into strips"
    )
