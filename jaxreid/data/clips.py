"""Which frames of a tracklet make up a clip, in training and at test.

Every function gives offsets: 0 is the tracklet's first frame. A tracklet that is too short is
read in a circle.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxreid.data.index import Tracklets

Sampling = Literal["consecutive", "evenly", "random"]
Cut = Literal["all", "first", "last", "first_last", "central", "evenly"]


def sample(
    rng: np.random.Generator, frames: int, length: int, how: Sampling, *, compat: bool = False
) -> Int[np.ndarray, " t"]:
    """A training clip.

    Args:
        rng: of the draw.
        frames: of the tracklet.
        length: of the clip.
        how: a window of consecutive frames at a random place, evenly spaced frames, or random
            ones in the order of time.
        compat: the last window is never drawn, as in COSAM's released code.
    """
    if how == "evenly":
        return evenly(frames, length)
    if how == "random":
        return np.sort(rng.choice(frames, length, replace=frames < length))
    last = frames - length - compat
    start = rng.integers(last + 1) if last > 0 else 0
    return (start + np.arange(length)) % frames


def evenly(frames: int, length: int) -> Int[np.ndarray, " t"]:
    """The middle frame of each of `length` equal parts of the tracklet."""
    return (2 * np.arange(length) + 1) * frames // (2 * length)


def cut(frames: int, length: int, how: Cut, split: str) -> Int[np.ndarray, "n t"]:
    """The clips of a tracklet at test.

    Args:
        frames: of the tracklet.
        length: of each clip.
        how: all clips that do not overlap, the last one filled by its own frames in a circle;
            or one clip: the first frames, the last, those in the middle, evenly spaced ones;
            or `first_last`: the first frames of a query, and the last of a gallery tracklet.
        split: `query`, `gallery`, or `train` for what metrics are fitted to, which is cut as the
            gallery is.
    """
    if how == "all":
        starts = range(0, frames, length)
        return np.stack([s + np.arange(length) % min(length, frames - s) for s in starts])
    if how == "evenly":
        return evenly(frames, length)[None]
    if how == "first_last":
        how = "first" if split == "query" else "last"
    spare = max(frames - length, 0)
    start = {"first": 0, "central": spare // 2, "last": spare}[how]
    return ((start + np.arange(length)) % frames)[None]


class Clips(NamedTuple):
    """What is scored of a split: one clip or more of each item, in the order of the items.

    Attributes:
        rows: of the index; `[n]` for images, `[n t]` for clips.
        items: which tracklet each belongs to.
        mask: which frames of a clip are there for the first time; None for images.
    """

    rows: Int[np.ndarray, " n"] | Int[np.ndarray, "n t"]
    items: Int[np.ndarray, " n"]
    mask: Bool[np.ndarray, "n t"] | None


def scored_clips(tracks: Tracklets, length: int | None, how: Cut, split: str) -> Clips:
    """The clips of every tracklet; without a length, the image that each item is."""
    if length is None:
        return Clips(tracks.first, np.arange(len(tracks.first)), None)
    parts = [
        first + cut(frames, length, how, split)
        for first, frames in zip(tracks.first.tolist(), tracks.length.tolist())
    ]
    rows = np.concatenate(parts)
    items = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Clips(rows, items, first_time(rows))


def first_time(rows: Int[np.ndarray, "n t"]) -> Bool[np.ndarray, "n t"]:
    """Which frames of each clip are there for the first time."""
    order = np.argsort(rows, axis=1, kind="stable")
    new = np.diff(np.take_along_axis(rows, order, axis=1), axis=1, prepend=-1) != 0
    mask = np.empty_like(new)
    np.put_along_axis(mask, order, new, axis=1)
    return mask
