"""Features of anyone's pictures with a run's network, and who is nearest by its own distance."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from jaxreid import released, sharding, trained
from jaxreid.data import clips
from jaxreid.data.decode import VERSION as DECODER
from jaxreid.data.decode import decode, resize
from jaxreid.errors import UserError
from jaxreid.extract import blocks, mean_over_clips, on_devices, pad
from jaxreid.matching import distance_blocks
from jaxreid.neighbours import NotFinite, nearest
from jaxreid.search import items
from jaxreid.search.items import Item
from jaxreid.types import Batch, Features, Variables

Side = Literal["query", "gallery"]
Skip = Callable[[int, UserError], None]

Picture = str | Path | Image.Image | np.ndarray
"""A photograph: its file, or its pixels, uint8 RGB `[h w 3]`."""


class Clip(NamedTuple):
    """What the network is given of an item, which is one clip of several.

    Attributes:
        item: which.
        images: `[h w 3]`, or `[t h w 3]` of a tracklet.
        mask: which frames are there for the first time; None for a photograph.
    """

    item: int
    images: UInt8[np.ndarray, "... 3"]
    mask: Bool[np.ndarray, " t"] | None


class Extractor:
    """A run's network, or one that others have trained, ready for pictures of one's own.

    Attributes:
        config: of the run.
        tracklets: whether the network compares tracklets, and not photographs.
        shapes: the shape and the type of an item's features, without the leading axis.
        notes: what to know of the features, one line each.
        clipped: how many boxes that `crops` was given reached beyond their frame.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        step: int | None = None,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """Loads the network.

        Args:
            workdir: of the run.
            step: of its checkpoint; by default the newest.
            batch_size: photographs or clips at a time; by default the run's `eval.batch_size`.
            mesh: of the devices that share the work; all by default.

        Raises:
            UserError: there is no such checkpoint, or it does not fit the run's config.
        """
        self._start(trained.load(workdir, step), batch_size, mesh)

    @classmethod
    def from_weights(
        cls,
        source: str | Path,
        arch: str | None = None,
        *,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ) -> "Extractor":
        """Loads a network that others have trained, without a run's folder.

        Args:
            source: its file; see `jaxreid.pretrained.read`.
            arch: one of `jaxreid.released.RELEASES`; by default the file's names and shapes say it.
            batch_size: photographs at a time; by default 64.
            mesh: see `Extractor`.

        Raises:
            UserError: the file cannot be read, or is of no network that is known here.
        """
        extractor = cls.__new__(cls)
        extractor._start(released.load(source, arch), batch_size, mesh)
        return extractor

    def _start(self, network: trained.Trained, batch_size: int | None, mesh: Mesh | None) -> None:
        self.config, self._model, variables, one = network
        self.shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), one)
        self._mesh = mesh or sharding.make_mesh()
        # Once, and not with every batch.
        self._variables = sharding.put(variables, sharding.replicated(self._mesh))
        size = batch_size or self.config.eval.batch_size
        self._batch_size = sharding.round_up(size, self._mesh.size)
        self._by_size: dict[int, Callable[[Variables, Batch], Features]] = {}
        self.clipped = 0
        pool = self._model.pool
        self._pool = pool and on_devices(pool, self._mesh, self._mesh.size)
        vector = self._model.vector
        self._vector = vector and on_devices(vector, self._mesh, self._batch_size)
        self.tracklets = self.config.scored_clip_length is not None
        self.notes = []
        if self.config.data.joints is not None:
            self.notes.append(
                "this network was trained with joints, which nobody has found in these pictures:"
                " bodies are cut into strips"
            )
        if "cameras" in self._variables["params"]:
            self.notes.append(
                "this network was trained with the cameras of its images, which nobody knows of"
                " these pictures: all get the mean of its cameras, and ranks may be much worse"
            )

    def __call__(self, pictures: Iterable[Any], side: Side = "gallery") -> Features:
        """Features, of the kind that `rank` compares; every leaf has the leading axis n.

        Args:
            pictures: n photographs, of any size: files, uint8 RGB arrays `[h w 3]`, or Pillow's
                images. Of a network that compares tracklets, n tracklets: folders of frames,
                videos, arrays `[t h w 3]`, or lists of photographs.
            side: what they are for. Of a tracklet some networks take the first frames of a query,
                and the last of a gallery item (`eval.clips=first_last`).

        Raises:
            UserError: one is not a picture, or there are none.
        """
        if isinstance(pictures, (str, Path, Image.Image)):
            pictures = [pictures]
        found = [features for _, features in self.stream(pictures, side)]
        if not found:
            raise UserError("no pictures: expected one or more")
        return jax.tree.map(lambda *x: np.stack(x), *found)

    def crops(self, frame: Any, boxes: Any, order: str = "rgb") -> Features:
        """Features of the persons in a frame, as a tracker asks for them.

        So many boxes as there are, up to the next power of two, are computed together: a stream of
        frames compiles a few programs, and then none.

        Args:
            frame: the whole picture, uint8 `[h w 3]`.
            boxes: `[n 4]`: left, top, right and bottom in pixels. What reaches beyond the frame is
                cut off, and counted in `clipped`.
            order: of the frame's channels; OpenCV's is "bgr".

        Returns:
            Features with the leading axis n, which may be 0.

        Raises:
            UserError: the network compares tracklets, the frame is not such a one, or a box has no
                pixel in it.
        """
        if self.tracklets:
            raise UserError(
                "crops: this network compares tracklets, and a frame has photographs; expected one"
                " that compares photographs"
            )
        if order not in ("rgb", "bgr"):
            raise UserError(f"crops: order={order!r}; expected 'rgb' or 'bgr'")
        frame = _pixels("crops: the frame", frame)
        size = self.config.data.image_size
        crops, clipped = cut(frame, boxes)
        self.clipped += clipped
        if order == "bgr":
            crops = [crop[..., ::-1] for crop in crops]
        images = [Clip(i, resize(crop, size), None) for i, crop in enumerate(crops)]
        nobody = jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), self.shapes)
        starts = range(0, len(images), self._batch_size)
        found = [self._compute(images[start : start + self._batch_size]) for start in starts]
        return jax.tree.map(lambda *x: np.concatenate(x), nobody, *found)

    def stream(
        self, pictures: Iterable[Any], side: Side = "gallery", skip: Skip | None = None
    ) -> Iterator[tuple[int, Features]]:
        """Features of one item after another, without the leading axis; each with its number.

        Few pictures are in memory at a time. Files are read while the devices compute.

        Args:
            pictures: see `__call__`; or what `find` returned.
            side: see `__call__`.
            skip: is told of pictures that cannot be read, by their number; they are left out. By
                default the first such ends it all.

        Raises:
            UserError: a picture cannot be read.
        """
        clips_of = self._read_ahead(pictures, side, skip)
        for number, group in groupby(self._by_clip(clips_of), key=lambda pair: pair[0]):
            several = [features for _, features in group]
            if len(several) == 1:
                yield number, several[0]
                continue
            total = jax.tree.map(lambda *x: np.sum(x, axis=0, keepdims=True), *several)
            mean = mean_over_clips(total, np.array([len(several)]))
            if self._pool is not None:
                mean = self._pool(self._variables, mean)
            yield number, jax.tree.map(lambda x: x[0], mean)

    def rank(
        self,
        query: Any,
        gallery: Any,
        top: int = 20,
        *,
        candidates: Int[np.ndarray, "q c"] | None = None,
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        """The gallery items that are nearest to each query by the model's own distance.

        Args:
            query: features, or a list of pictures.
            gallery: likewise.
            top: k, how many.
            candidates: of each query, the indices of the gallery items that are ranked, and no
                others; -1 is none. See {py:mod}`jaxreid.search.galleries`.

        Returns:
            Indices into the gallery and the distances to them, nearest first, and the lower index
            first where distances are equal. Where the gallery has fewer than k items, what is
            missing has index -1 and distance inf.

        Raises:
            UserError: these are not features of this network, candidates are not of this gallery,
                or a distance is not a number.
        """
        if top < 1:
            raise UserError(f"top is {top}; expected 1 or more")
        query = self(query, "query") if isinstance(query, list) else query
        gallery = self(gallery) if isinstance(gallery, list) else gallery
        num, size = (self._size_of(feats) for feats in (query, gallery))
        if candidates is not None:
            return self._rank_some(query, gallery, top, _of_gallery(candidates, num, size))
        e = self.config.eval
        if num > e.query_block:  # Blocks of one shape are compiled once.
            query = pad(query, sharding.round_up(num, e.query_block))
        try:
            indices, distances = nearest(
                query,
                gallery,
                top,
                mesh=self._mesh,
                distance=jax.tree_util.Partial(self._model.distance, self._variables),
                query_block=e.query_block,
                gallery_block=-(-e.gallery_block // self._mesh.size),
            )
        except NotFinite:
            raise UserError(
                "a distance is not a number: the run's weights are not finite"
            ) from None
        return indices[:num], distances[:num]

    def _rank_some(
        self, query: Features, gallery: Features, top: int, candidates: Int[np.ndarray, "q c"]
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        """`rank` of each query among its own candidates."""
        indices = np.full((len(candidates), top), -1)
        distances = np.full(indices.shape, np.inf, np.float32)
        for i, row in enumerate(candidates):
            there = np.unique(row[row >= 0])
            if not len(there):
                continue
            # Filled up, so that all are of one shape, which is compiled once.
            some = pad(jax.tree.map(lambda x, rows=there: x[rows], gallery), len(row))
            one = jax.tree.map(lambda x, i=i: x[i : i + 1], query)
            (places,), (far,) = self.rank(one, some, len(row))
            real = places < len(there)
            found = there[places[real]][:top]
            indices[i, : len(found)] = found
            distances[i, : len(found)] = far[real][:top]
        return indices, distances

    def vectors(self, features: Features) -> Float[np.ndarray, "n d"]:
        """One vector of each item, for a database of vectors.

        Of a method that compares vectors these are the features, and their Euclidean distance is
        its own. Of one that compares pairs it is a stand-in that chooses candidates for `rank`.

        Raises:
            UserError: these are not features of this network.
        """
        size = self._size_of(features)
        if self._vector is None:
            return np.asarray(features, np.float32)
        if not size:
            nobody = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), self.shapes)
            return self.vectors(nobody)[:0]
        parts = [
            self._vector(self._variables, part)[: len(jax.tree.leaves(part)[0])]
            for part in blocks(features, size, self._batch_size)
        ]
        return np.concatenate(parts).astype(np.float32)

    def distances(self, query: Features, gallery: Features) -> Iterator[Float[np.ndarray, "_ g"]]:
        """The model's own distances of all queries to the whole gallery, some queries at a time.

        Args:
            query: features.
            gallery: likewise.
        """
        e, size = self.config.eval, self._size_of(gallery)
        distance = jax.tree_util.Partial(self._model.distance, self._variables)
        sizes = self._mesh, e.query_block, e.gallery_block
        for block in distance_blocks(distance, query, gallery, *sizes):
            yield block.rows(np.arange(block.queries.stop - block.queries.start), size)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all that features depend on besides the pictures."""
        c = self.config
        model = {key: value for key, value in vars(c.model).items() if key != "pretrained"}
        choices = [
            *(DECODER, type(c.model).__module__, model, c.data.image_size, c.scored_clip_length),
            *(c.eval.clips, c.eval.flip, c.train.precision),
        ]
        digest = hashlib.sha256(json.dumps(choices).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._variables):
            leaf = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
            digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        return digest.hexdigest()[:16]

    def _size_of(self, feats: Any) -> int:
        """How many items features are of."""
        leaves: list[Any] = jax.tree.leaves(feats)
        tree: Any = jax.tree.structure(feats)
        size = len(leaves[0]) if leaves and np.ndim(leaves[0]) else 0
        expected = [(size, *x.shape) for x in jax.tree.leaves(self.shapes)]
        if tree != jax.tree.structure(self.shapes) or [np.shape(x) for x in leaves] != expected:
            raise UserError(
                "rank: not features of this network; expected what this Extractor returns, or a"
                " list of pictures"
            )
        return size

    # ------------------------------------------------------------------ reading and computing

    def _by_clip(self, clips_of: Iterator[Clip]) -> Iterator[tuple[int, Features]]:
        """The features of every clip, and the number of its item."""
        while batch := list(islice(clips_of, self._batch_size)):
            found = self._compute(batch, self._batch_size)
            for i, clip in enumerate(batch):
                yield clip.item, jax.tree.map(lambda x, i=i: x[i], found)

    def _compute(self, batch: Sequence[Clip], size: int | None = None) -> Features:
        """The features of some clips, filled up to a size, or to the next power of two."""
        if size is None:
            size = sharding.round_up(1 << (len(batch) - 1).bit_length(), self._mesh.size)
            size = min(size, self._batch_size)
        nobody = np.zeros(len(batch), np.int32)
        joints = None
        if self.config.data.joints is not None:
            joints = np.zeros((len(batch), 18, 3), np.float32)  # None was found.
        masks = [clip.mask for clip in batch if clip.mask is not None]
        mask = np.stack(masks) if masks else None
        images = np.stack([clip.images for clip in batch])
        found = self._features(size)(self._variables, Batch(images, nobody, nobody, mask, joints))
        return jax.tree.map(lambda x: x[: len(batch)], found)

    def _features(self, size: int) -> Callable[[Variables, Batch], Features]:
        """The model's, compiled once for batches of a size."""
        if size not in self._by_size:
            self._by_size[size] = on_devices(self._model.features, self._mesh, size)
        return self._by_size[size]

    def _read_ahead(self, pictures: Iterable[Any], side: Side, skip: Skip | None) -> Iterator[Clip]:
        """The clips of all items in their order, read by threads."""
        threads = os.cpu_count() or 1
        ahead = threads if self.tracklets else self._batch_size
        waiting: deque[tuple[int, Future[list[Clip]]]] = deque()

        def first() -> list[Clip]:
            number, reading = waiting.popleft()
            try:
                return reading.result()
            except UserError as error:
                if skip is None:
                    raise
                skip(number, error)
                return []

        with ThreadPoolExecutor(threads) as pool:
            try:
                for number, picture in enumerate(pictures):
                    waiting.append((number, pool.submit(self._clips, number, picture, side)))
                    if len(waiting) > ahead:
                        yield from first()
                while waiting:
                    yield from first()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _clips(self, number: int, picture: Any, side: Side) -> list[Clip]:
        """The clips of one item, as a run scores it."""
        frames = self._frames(number, picture)
        length = self.config.scored_clip_length
        if length is None:
            return [Clip(number, frames[0], None)]
        rows = clips.cut(len(frames), length, self.config.eval.clips, side)
        masks = clips.first_time(rows)
        return [Clip(number, frames[row], mask) for row, mask in zip(rows, masks)]

    def _frames(self, number: int, picture: Any) -> UInt8[np.ndarray, "t h w 3"]:
        size = self.config.data.image_size
        if isinstance(picture, (str, Path)):
            picture = items.of_path(picture, tracklets=self.tracklets)
        if isinstance(picture, Item):
            return items.read(picture, size)
        if not self.tracklets or isinstance(picture, Image.Image):
            picture = [picture]
        frames = [resize(_pixels(f"picture {number}", frame), size) for frame in picture]
        if not frames:
            raise UserError(f"picture {number}: a tracklet without a frame")
        return np.stack(frames)


def _of_gallery(candidates: Any, num: int, size: int) -> Int[np.ndarray, "q c"]:
    """Candidates that can be such.

    Raises:
        UserError: they cannot.
    """
    candidates = np.asarray(candidates)
    if candidates.ndim != 2 or len(candidates) != num or candidates.dtype.kind not in "iu":
        raise UserError(
            f"candidates of {candidates.dtype} and shape {candidates.shape}; expected a row of"
            f" indices for each of {num} queries"
        )
    if candidates.size and not -1 <= candidates.min() <= candidates.max() < size:
        raise UserError(
            f"candidates from {candidates.min()} to {candidates.max()}; expected indices into a"
            f" gallery of {size} items, or -1 for none"
        )
    return candidates


def cut(
    frame: UInt8[np.ndarray, "h w 3"], boxes: Any
) -> tuple[list[UInt8[np.ndarray, "_ _ 3"]], int]:
    """What is in each box, and how many of the boxes reached beyond the frame.

    Args:
        frame: the whole picture.
        boxes: `[n 4]`: left, top, right and bottom in pixels, which are rounded outwards.

    Raises:
        UserError: these are no boxes, or one has no pixel in the frame.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.size == 0:
        return [], 0
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"boxes of shape {boxes.shape}; expected [n, 4]: left, top, right, bottom")
    height, width = frame.shape[:2]
    crops, clipped = [], 0
    for i, box in enumerate(boxes):
        inside = np.clip(np.nan_to_num(box), 0, [width, height, width, height])
        left, top = np.floor(inside[:2]).astype(int)
        right, bottom = np.ceil(inside[2:]).astype(int)
        if not np.isfinite(box).all() or left >= right or top >= bottom:
            raise UserError(
                f"box {i}, {box.tolist()}, has no pixel in a frame of {width} x {height}; expected"
                " left, top, right, bottom in its pixels"
            )
        crops.append(frame[top:bottom, left:right])
        clipped += bool((inside != box).any())
    return crops, clipped


def _pixels(name: str, picture: Any) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(picture, (str, Path)):
        return decode(str(picture))
    if isinstance(picture, Image.Image):
        return decode(picture, name)
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"{name}: an array of {pixels.dtype} and shape {pixels.shape}; expected uint8"
            " RGB [height, width, 3], a path, or an image of Pillow's"
        )
    return pixels
