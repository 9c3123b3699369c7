"""Where images come from: files, a TFDS copy, or memory. One interface for all three."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxreid.config import Data
from jaxreid.data import index as reid_index
from jaxreid.data import pipeline
from jaxreid.data.decode import decode, read_size, resize
from jaxreid.data.index import Index, ReidData
from jaxreid.data.joints import complete, fit_poses, read_joints, scale, summary
from jaxreid.data.validation import hold_out
from jaxreid.errors import UserError

Labels = Int[np.ndarray, " _"]
Rows = Int[np.ndarray, "..."]
Images = UInt8[np.ndarray, "... 3"]
Pixels = UInt8[np.ndarray, "_ _ 3"]


class Bodies(NamedTuple):
    """The joints of every image, completed.

    Attributes:
        joints: of each split, `[n 18 3]`: x and y in shares of the image's width and height, and
            confidence; zeros where too few are known.
        summary: how many were found and completed, in words.
    """

    joints: Mapping[str, Float[np.ndarray, "_ 18 3"]]
    summary: str

    def at(self, split: str, rows: Labels, size: tuple[int, int]) -> Float[np.ndarray, "b 18 3"]:
        """The joints of some images of a split, in pixels of images of (height, width) `size`."""
        return scale(self.joints[split][rows], (1, 1), size)


class Source(NamedTuple):
    """A data set that can be read.

    Attributes:
        data: who is where.
        images: `(split, plan, (height, width)) -> images`: for each array of rows in the plan,
            whatever its shape, those images of the split, decoded and resized.
        bodies: where their joints are, if the config names a file of them.
    """

    data: ReidData
    images: Callable[[str, Iterable[Rows], tuple[int, int]], Iterator[Images]]
    bodies: Bodies | None = None


def open_source(config: Data) -> Source:
    """Opens the data set that the config names; with `validation`, without its test set.

    Raises:
        UserError: it is not there, or not what it should be.
    """
    if not config.root:
        raise UserError(
            f"config.data.root is not set: the folder of {config.name}, as in"
            f" --config.data.root=/data/{config.name}"
        )
    if config.source == "files":
        pipeline.require_tensorflow()  # Before all files are checked, and the run has its folder.
    if config.source == "tfds":
        from jaxreid.data import builders  # Imports TFDS, which is an extra.

        data, readers = builders.open_prepared(config.root, config.name, config.split)
        if config.validation is not None:
            read = readers["train"]
            data, rows = hold_out(data, config.validation)
            readers = {split: partial(_at, read, some) for split, some in rows.items()}
        source = Source(data, partial(pipeline.stream, data, readers=readers))
        return _with_bodies(config, source, lambda split, row: readers[split](row))
    data = reid_index.load(config.name, config.root, config.split)
    if config.validation is not None:
        data, _ = hold_out(data, config.validation)
    if config.source == "memory":
        source = in_memory(data, lambda split, row: decode(data.splits[split].path(row)))
    else:
        source = Source(data, partial(pipeline.stream, data))
    return _with_bodies(config, source, lambda split, row: data.splits[split].path(row))


def _at(read: Callable[[SupportsIndex], bytes], rows: Labels, row: SupportsIndex) -> bytes:
    """What is read of one of some rows."""
    return read(rows[row])


def _with_bodies(config: Data, source: Source, file: Callable[[str, int], str | bytes]) -> Source:
    """Adds the joints that the config names, completed by the training set's poses.

    Args:
        config: names them.
        source: of the images.
        file: an image's path or content; joints are in pixels of it.
    """
    if config.joints is None or config.root is None:
        return source
    root = Path(config.root)
    path = (root if root.is_dir() else root.parent) / config.joints

    splits = source.data.splits
    found = {split: read_joints(path, index.paths) for split, index in splits.items()}
    poses = fit_poses(found["train"])
    known, shares = {}, {}
    for split, index in splits.items():
        completed, known[split] = complete(found[split], poses)
        with ThreadPoolExecutor() as pool:
            sizes = pool.map(lambda row, of=split: read_size(file(of, row)), range(index.size))
            shares[split] = scale(completed, np.array(list(sizes)), (1, 1))
    words = summary(*(np.concatenate(list(each.values())) for each in (found, known)))
    return source._replace(bodies=Bodies(shares, words))


def in_memory(data: ReidData, read: Callable[[str, int], Pixels]) -> Source:
    """A source that decodes each split once, at its first use, and needs no TensorFlow.

    Args:
        data: the index.
        read: `(split, row) -> pixels`, of any size.
    """

    def read_all(split: str, size: tuple[int, int]) -> Images:
        rows = range(data.splits[split].size)
        with ThreadPoolExecutor() as pool:
            images = pool.map(lambda row: resize(read(split, row), size), rows)
            return np.stack(list(images))

    @cache
    def everything(split: str, size: tuple[int, int]) -> Images:
        return pipeline.patiently(partial(read_all, split, size))

    def images(split: str, plan: Iterable[Rows], size: tuple[int, int]) -> Iterator[Images]:
        return (everything(split, size)[rows] for rows in plan)

    return Source(data, images)


class Labelled(NamedTuple):
    """Images of one size, or clips of one length, with their labels.

    Attributes:
        images: RGB, `[n h w 3]` or `[n t h w 3]`.
        pids: person ids, any integers; -1 and 0 have no meaning of their own in training.
        camids: camera ids.
    """

    images: Images
    pids: Labels
    camids: Labels


def from_arrays(train: Labelled, query: Labelled, gallery: Labelled) -> Source:
    """A source over arrays that are in memory already."""
    splits = {"train": train, "query": query, "gallery": gallery}
    train_pids, labels = np.unique(train.pids, return_inverse=True)

    def table(split: str) -> Index:
        pixels, pids, camids = splits[split]
        # Each item is a tracklet; an image is one of a single frame.
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        tracklets = np.repeat(np.arange(len(pixels), dtype=np.int32), frames)
        pids = (labels if split == "train" else pids).astype(np.int32)
        rows = np.arange(len(tracklets), dtype=np.int32)
        return Index(
            root="",
            paths=np.array([f"{split}[{row}]" for row in rows], dtype=np.str_),
            pids=pids[tracklets],
            camids=camids.astype(np.int32)[tracklets],
            tracklets=tracklets,
            frames=rows,
        )

    data = ReidData(
        name="arrays",
        train=table("train"),
        query=table("query"),
        gallery=table("gallery"),
        train_pids=train_pids.astype(np.int32),
    )
    flat = {
        split: part.images.reshape(-1, *part.images.shape[-3:]) for split, part in splits.items()
    }
    return in_memory(data, lambda split, row: flat[split][row])
