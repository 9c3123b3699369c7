"""The plan: which items make up step k is a pure function of (seed, step).

So a resumed run needs only its step, and a host takes its share of the same plan.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxreid.data import clips
from jaxreid.data.index import Tracklets
from jaxreid.errors import UserError


class ClipRule(NamedTuple):
    """How a clip is drawn from a tracklet: see `jaxreid.data.clips.sample`."""

    length: int
    how: clips.Sampling = "consecutive"
    compat: bool = False


class IdentityPlan:
    """P x K batches: an epoch visits every person once, in random order, with K items each.

    An item is an image, or a clip of a tracklet. A person with fewer than K images or tracklets
    is drawn with replacement. The last, incomplete batch of an epoch is dropped.
    """

    def __init__(
        self,
        tracks: Tracklets,
        num_ids: int,
        num_instances: int,
        seed: int,
        clip: ClipRule | None = None,
    ) -> None:
        """Prepares the plan.

        Args:
            tracks: of the training index, whose pids are 0..N-1.
            num_ids: P.
            num_instances: K.
            seed: of the plan.
            clip: how clips are drawn; None for images.

        Raises:
            UserError: there are fewer than P persons.
        """
        pids = tracks.pids
        self.tracks, self.clip = tracks, clip
        self.items_of = [np.flatnonzero(pids == pid) for pid in range(pids.max(initial=-1) + 1)]
        self.num_ids, self.num_instances, self.seed = num_ids, num_instances, seed
        if len(self.items_of) < num_ids:
            raise UserError(
                f"config.data.num_ids={num_ids}: the training set has {len(self.items_of)} persons"
            )
        self.steps_per_epoch = len(self.items_of) // num_ids
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def short_ids(self) -> int:
        """How many persons have fewer than K images or tracklets."""
        return sum(len(items) < self.num_instances for items in self.items_of)

    def rows(self, step: int) -> Int[np.ndarray, " b"] | Int[np.ndarray, "b t"]:
        """The rows of the index that make up a step: K items of the first person, K of the next.

        Returns:
            A row for each image, or the rows of each clip.
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[batch]

    def _draw_epoch(self, epoch: int) -> Int[np.ndarray, "steps b *t"]:
        rng = np.random.default_rng((self.seed, epoch))
        pids = rng.permutation(len(self.items_of))[: self.steps_per_epoch * self.num_ids]
        k = self.num_instances
        drawn = [rng.choice(self.items_of[p], k, replace=len(self.items_of[p]) < k) for p in pids]
        items = np.concatenate(drawn)
        rows = self.tracks.first[items]
        if self.clip is not None:
            length, how, compat = self.clip
            frames = self.tracks.length[items]
            rows = rows[:, None] + np.stack(
                [clips.sample(rng, f, length, how, compat=compat) for f in frames.tolist()]
            )
        return rows.reshape(self.steps_per_epoch, self.num_ids * k, *rows.shape[1:])
