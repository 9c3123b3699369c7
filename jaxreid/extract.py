"""Features of every item of a split, an item being an image or a tracklet."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from jaxreid import distributed, sharding
from jaxreid.config import Config
from jaxreid.data.clips import Clips, scored_clips
from jaxreid.data.index import Tracklets
from jaxreid.data.sources import Source
from jaxreid.types import Batch, Features, ReidModel, Variables


class SplitExtractor(NamedTuple):
    """Features of a split, compiled once. (Of one's own pictures: `jaxreid.search.Extractor`.)

    Attributes:
        features: `(variables, source, split, length) -> features` of every item: the mean over its
            clips, as the model pools it. `length` is the clips' where it is not the config's.
        frames: `(variables, source, split, length) -> [Float["t d"], ...]`: of every item, the
            descriptors of all frames of its clips, if the model has such.
        vectors: `(variables, features) -> Float["n d"]`: one vector of each item.
    """

    features: Callable[..., Features]
    frames: Callable[..., list[Float[np.ndarray, "t d"]]]
    vectors: Callable[[Variables, Features], Float[np.ndarray, "n d"]]


def make_extractor(config: Config, model: ReidModel, mesh: Mesh) -> SplitExtractor:
    """Makes the functions of a `SplitExtractor`.

    Args:
        config: how clips are cut, and the size of batches.
        model: its `features`, and what it offers besides, are called.
        mesh: batches are divided over its devices.
    """
    batch_size = sharding.round_up(config.eval.batch_size, mesh.size)
    mine = sharding.own_rows(batch_size, sharding.split(mesh))

    def own(batch: Int[np.ndarray, " b"]) -> Int[np.ndarray, " own"]:
        """Those of a batch's items that are this host's: at the tail perhaps none, then the last.

        So all hosts take equal steps.
        """
        here = batch[mine]
        return here if len(here) else batch[-1:]

    of_batch = on_devices(model.features, mesh, batch_size)
    pool, vector, of_frames = (
        function and on_devices(function, mesh, batch_size)
        for function in (model.pool, model.vector, model.frames)
    )

    def batches(
        source: Source, split: str, length: int | None = None
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Bool[np.ndarray, "b t"] | None, Batch]]:
        """Of every batch of clips the item and the mask of each, and this host's share of it."""
        tracks = source.data.splits[split].tracks()
        rows, items, mask = clips(config, tracks, split, length)
        numbers = np.arange(len(rows))
        whole = [numbers[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        chosen = [own(batch) for batch in whole]
        images = source.images(split, [rows[some] for some in chosen], config.data.image_size)
        for batch, some, pixels in zip(whole, chosen, images, strict=True):
            of = items[some]
            real = None if mask is None else mask[some]
            joints = source.bodies and source.bodies.at(split, rows[some], config.data.image_size)
            part = Batch(pixels, tracks.pids[of], tracks.camids[of], real, joints)
            # No host hands it to the devices before all have read theirs.
            distributed.barrier("the next batch of the scoring")
            # In rising order, so the clips of an item are neighbours.
            yield items[batch], None if mask is None else mask[batch], part

    def features(
        variables: Variables, source: Source, split: str, length: int | None = None
    ) -> Features:
        size = source.data.splits[split].tracks().size
        total: Features = None
        counts = np.zeros(size, int)
        for of, _, batch in batches(source, split, length):
            found = of_batch(variables, batch)
            if total is None:
                total = jax.tree.map(lambda x: np.zeros((size, *x.shape[1:]), x.dtype), found)
            starts = np.flatnonzero(np.diff(of, prepend=-1))
            for sums, x in zip(jax.tree.leaves(total), jax.tree.leaves(found)):
                sums[of[starts]] += np.add.reduceat(x[: len(of)], starts, axis=0)
            counts += np.bincount(of, minlength=size)
        if counts.max() == 1:
            return total
        mean = mean_over_clips(total, counts)
        return mean if pool is None else in_batches(pool, variables, mean, size)

    def frames(
        variables: Variables, source: Source, split: str, length: int | None = None
    ) -> list[Float[np.ndarray, "t d"]]:
        assert of_frames is not None
        descriptors, items = [], []
        for of, mask, batch in batches(source, split, length):
            real = np.ones((len(of), batch.images.shape[1]), bool) if mask is None else mask
            descriptors.append(of_frames(variables, batch)[: len(of)][real])
            items.append(np.repeat(of, real.sum(axis=1)))
        ends = np.cumsum(np.bincount(np.concatenate(items)))[:-1]
        return np.split(np.concatenate(descriptors), ends)

    def vectors(variables: Variables, feats: Features) -> Float[np.ndarray, "n d"]:
        if vector is None:
            return feats
        return in_batches(vector, variables, feats, len(jax.tree.leaves(feats)[0]))

    def in_batches(function: Any, variables: Variables, feats: Features, size: int) -> Any:
        chosen = [own(batch) for batch in blocks(np.arange(size), size, batch_size)]
        found = [function(variables, jax.tree.map(lambda x, s=s: x[s], feats)) for s in chosen]
        return jax.tree.map(lambda *x: np.concatenate(x)[:size], *found)

    return SplitExtractor(features, frames, vectors)


def on_devices(
    function: Callable[..., Any], mesh: Mesh, batch_size: int
) -> Callable[[Variables, Any], Any]:
    """A function of variables and a batch, divided over the devices.

    Args:
        function: `(variables, batch) -> result`; each leaf of both has the leading axis b.
        mesh: of the devices.
        batch_size: of the whole batch, a multiple of the devices.

    Returns:
        `(variables, own rows) -> result` of the whole batch on every host, as NumPy arrays. Fewer
        rows than this host's are filled up.
    """
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    mine = sharding.own_rows(batch_size, divided)
    share = mine.stop - mine.start
    to_all = everywhere if share < batch_size else divided
    jitted = jax.jit(function, in_shardings=(everywhere, divided), out_shardings=to_all)
    return lambda variables, batch: jax.device_get(
        jitted(variables, sharding.put(pad(batch, share), divided))
    )


def clips(config: Config, tracks: Tracklets, split: str, length: int | None = None) -> Clips:
    """The images or clips of a split that are scored."""
    return scored_clips(tracks, length or config.scored_clip_length, config.eval.clips, split)


def mean_over_clips(total: Features, counts: Int[np.ndarray, " n"]) -> Features:
    """The features of every item: the sum over its clips, by their number. Not yet pooled."""
    return jax.tree.map(
        lambda x: x / counts.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype), total
    )


def blocks(tree: Any, size: int, length: int) -> Iterator[Any]:
    """Cuts the leading axis, `size` long, into blocks; the last one may be shorter."""
    for start in range(0, size, length):
        yield jax.tree.map(lambda x, s=start: x[s : s + length], tree)


def pad(tree: Any, length: int) -> Any:
    """Repeats the last item until there are `length`, so that every block has one shape."""
    return jax.tree.map(
        lambda x: np.concatenate([x, np.repeat(x[-1:], length - len(x), axis=0)]), tree
    )
