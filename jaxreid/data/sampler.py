"""The plan: which items make up step k is a pure function of (seed, step).

So a resumed run needs only its step, and a host takes its share of the same plan.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxreid.data import clips
from jaxreid.data.index import Tracklets
from jaxreid.errors import UserError

Sampler = Literal["identity", "pairs", "mixed_pairs", "shuffle"]
Positives = Literal["any", "cross_camera"]


class ClipRule(NamedTuple):
    """How a clip is drawn from a tracklet: see `jaxreid.data.clips.sample`."""

    length: int
    how: clips.Sampling = "consecutive"
    compat: bool = False


class Plan:
    """Batches of K items for each of P persons: an epoch visits every person once, in random order.

    An item is an image, or a clip of a tracklet. The last, incomplete batch of an epoch is dropped.

    `identity`: a person with fewer than K images or tracklets is drawn with replacement.

    `pairs`: the K = 4 items are two pairs. The first pair shows that person, from two cameras if
    there are two; the second shows that person and another one, who is drawn at random, from
    another camera if there is one. So half of the pairs are of one person.

    `mixed_pairs`: the same, but the other person is from any camera. Where queries are ranked among
    items of their own camera, too, as in MARS, a network that never saw strangers in one camera
    takes the camera for the person.

    `shuffle`: no persons are drawn; an epoch visits every item once, P x K at a time.

    With `positives="cross_camera"`, `identity` draws a person's items in pairs of two cameras,
    where two saw the person: items 2i and 2i+1 of the batch, for K even.
    """

    def __init__(
        self,
        tracks: Tracklets,
        num_ids: int,
        num_instances: int,
        seed: int,
        clip: ClipRule | None = None,
        sampling: Sampler = "identity",
        positives: Positives = "any",
    ) -> None:
        """Prepares the plan.

        Args:
            tracks: of the training index, whose pids are 0..N-1.
            num_ids: P.
            num_instances: K.
            seed: of the plan.
            clip: how clips are drawn; None for images.
            sampling: see above.
            positives: see above.

        Raises:
            UserError: there are fewer than P persons, or fewer items than a batch takes; or no
                person has the positives that are asked for.
        """
        pids = tracks.pids
        self.tracks, self.clip, self.sampling, self.positives = tracks, clip, sampling, positives
        self.items_of = [np.flatnonzero(pids == pid) for pid in range(pids.max(initial=-1) + 1)]
        self.num_ids, self.num_instances, self.seed = num_ids, num_instances, seed
        self.wanted = {"identity": num_instances, "shuffle": 1}.get(sampling, 2)
        if sampling == "shuffle":
            self.steps_per_epoch = tracks.size // (num_ids * num_instances)
            if not self.steps_per_epoch:
                raise UserError(
                    f"config.data.num_ids={num_ids} x config.data.num_instances={num_instances}:"
                    f" the training set has {tracks.size} items"
                )
        elif len(self.items_of) < num_ids:
            raise UserError(
                f"config.data.num_ids={num_ids}: the training set has {len(self.items_of)} persons"
            )
        else:
            self.steps_per_epoch = len(self.items_of) // num_ids
        if positives == "cross_camera" and self.one_camera_ids == len(self.items_of):
            raise UserError(
                "config.data.positives='cross_camera': no training person was seen by two cameras"
            )
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def short_ids(self) -> int:
        """How many persons have fewer images or tracklets than a batch wants of them."""
        return sum(len(items) < self.wanted for items in self.items_of)

    @property
    def one_camera_ids(self) -> int:
        """How many persons were seen by one camera alone."""
        camids = self.tracks.camids
        return sum(len(np.unique(camids[items])) < 2 for items in self.items_of)

    def rows(self, step: int) -> Int[np.ndarray, " b"] | Int[np.ndarray, "b t"]:
        """The rows of the index that make up a step: K items for the first person, K for the next.

        Returns:
            A row for each image, or the rows of each clip.
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[batch]

    def _draw_epoch(self, epoch: int) -> Int[np.ndarray, "steps b *t"]:
        rng = np.random.default_rng((self.seed, epoch))
        size = self.num_ids * self.num_instances
        if self.sampling == "shuffle":
            items = rng.permutation(self.tracks.size)[: self.steps_per_epoch * size]
        else:
            pids = rng.permutation(len(self.items_of))[: self.steps_per_epoch * self.num_ids]
            draw = self._draw_items if self.sampling == "identity" else self._draw_pairs
            items = np.concatenate([draw(rng, pid) for pid in pids.tolist()])
        rows = self.tracks.first[items]
        if self.clip is not None:
            length, how, compat = self.clip
            frames = self.tracks.length[items]
            rows = rows[:, None] + np.stack(
                [clips.sample(rng, f, length, how, compat=compat) for f in frames.tolist()]
            )
        return rows.reshape(self.steps_per_epoch, size, *rows.shape[1:])

    def _draw_items(self, rng: np.random.Generator, pid: int) -> Int[np.ndarray, " k"]:
        mine, k = self.items_of[pid], self.num_instances
        if self.positives == "cross_camera":
            return np.concatenate([self._draw_pair(rng, pid, pid) for _ in range(0, k, 2)])[:k]
        return rng.choice(mine, k, replace=len(mine) < k)

    def _draw_pairs(self, rng: np.random.Generator, pid: int) -> Int[np.ndarray, "4"]:
        other = (pid + 1 + int(rng.integers(len(self.items_of) - 1))) % len(self.items_of)
        return np.concatenate([self._draw_pair(rng, pid, partner) for partner in (pid, other)])

    def _draw_pair(self, rng: np.random.Generator, pid: int, partner: int) -> Int[np.ndarray, "2"]:
        first = rng.choice(self.items_of[pid])
        theirs = self.items_of[partner]
        if self.sampling == "mixed_pairs" and partner != pid:
            return np.array([first, rng.choice(theirs)])
        elsewhere = theirs[self.tracks.camids[theirs] != self.tracks.camids[first]]
        others = theirs[theirs != first]
        best = next(some for some in (elsewhere, others, theirs) if len(some))
        return np.array([first, rng.choice(best)])
