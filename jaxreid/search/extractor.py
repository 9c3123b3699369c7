"""Features of anyone's pictures with a run's network, and who is nearest by its own distance."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
from jaxreid.data.decode import decode, resize
from jaxreid.errors import UserError
from jaxreid.extract import mean_over_clips, on_devices, pad
from jaxreid.matching import distance_blocks
from jaxreid.neighbours import NotFinite, nearest
from jaxreid.search import items
from jaxreid.search.items import Item
from jaxreid.types import Batch, Features

Side = Literal["query", "gallery"]
Skip = Callable[[int, UserError], None]

Picture = str | Path | Image.Image | np.ndarray
"""A photograph: its file, or its pixels, uint8 RGB `[h w 3]`."""

# Raised when the same pictures would give other features.
_VERSION = 1


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
        self._features = on_devices(self._model.features, self._mesh, self._batch_size)
        pool = self._model.pool
        self._pool = pool and on_devices(pool, self._mesh, self._mesh.size)
        self.tracklets = self.config.scored_clip_length is not None
        self.notes = []
        if self.config.data.joints is not None:
            self.notes.append(
                "this network was trained with joints, which nobody has found in these pictures:"
                " bodies are cut into strips"
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
        self, query: Any, gallery: Any, top: int = 20
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        """The gallery items that are nearest to each query by the model's own distance.

        Args:
            query: features, or a list of pictures.
            gallery: likewise.
            top: k, how many.

        Returns:
            Indices into the gallery and the distances to them, nearest first, and the lower index
            first where distances are equal. Where the gallery has fewer than k items, what is
            missing has index -1 and distance inf.

        Raises:
            UserError: these are not features of this network, or a distance is not a number.
        """
        if top < 1:
            raise UserError(f"top is {top}; expected 1 or more")
        query = self(query, "query") if isinstance(query, list) else query
        gallery = self(gallery) if isinstance(gallery, list) else gallery
        sizes = [self._size_of(feats) for feats in (query, gallery)]
        e, num = self.config.eval, sizes[0]
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
            *(_VERSION, type(c.model).__module__, model, c.data.image_size, c.scored_clip_length),
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
            nobody = np.zeros(len(batch), np.int32)
            joints = None
            if self.config.data.joints is not None:
                joints = np.zeros((len(batch), 18, 3), np.float32)  # None was found.
            masks = [clip.mask for clip in batch if clip.mask is not None]
            mask = np.stack(masks) if masks else None
            images = np.stack([clip.images for clip in batch])
            found = self._features(self._variables, Batch(images, nobody, nobody, mask, joints))
            for i, clip in enumerate(batch):
                yield clip.item, jax.tree.map(lambda x, i=i: x[i], found)

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
        frames = [resize(_pixels(number, frame), size) for frame in picture]
        if not frames:
            raise UserError(f"picture {number}: a tracklet without a frame")
        return np.stack(frames)


def _pixels(number: int, picture: Any) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(picture, (str, Path)):
        return decode(str(picture))
    if isinstance(picture, Image.Image):
        return decode(picture, f"picture {number}")
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"picture {number}: an array of {pixels.dtype} and shape {pixels.shape}; expected uint8"
            " RGB [height, width, 3], a path, or an image of Pillow's"
        )
    return pixels
