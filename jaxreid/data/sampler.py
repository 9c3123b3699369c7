"""The plan: which items make up step k is a pure function of (seed, step).

So a resumed run needs only its step, and a host takes its share of the same plan.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from jaxreid.errors import UserError


class IdentityPlan:
    """P x K batches: an epoch visits every person once, in random order, with K images each.

    A person with fewer than K images is drawn with replacement. The last, incomplete batch of
    an epoch is dropped.
    """

    def __init__(
        self, pids: Int[np.ndarray, " n"], num_ids: int, num_instances: int, seed: int
    ) -> None:
        """Prepares the plan.

        Args:
            pids: person of each row of the training index, 0..N-1.
            num_ids: P.
            num_instances: K.
            seed: of the plan.

        Raises:
            UserError: there are fewer than P persons.
        """
        self.rows_of = [np.flatnonzero(pids == pid) for pid in range(pids.max(initial=-1) + 1)]
        self.num_ids, self.num_instances, self.seed = num_ids, num_instances, seed
        if len(self.rows_of) < num_ids:
            raise UserError(
                f"config.data.num_ids={num_ids}: the training set has {len(self.rows_of)} persons"
            )
        self.steps_per_epoch = len(self.rows_of) // num_ids
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def short_ids(self) -> int:
        """How many persons have fewer than K images."""
        return sum(len(rows) < self.num_instances for rows in self.rows_of)

    def rows(self, step: int) -> Int[np.ndarray, " b"]:
        """The rows of the index that make up a step: K of the first person, K of the next, ..."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[batch]

    def _draw_epoch(self, epoch: int) -> Int[np.ndarray, "steps b"]:
        rng = np.random.default_rng((self.seed, epoch))
        pids = rng.permutation(len(self.rows_of))[: self.steps_per_epoch * self.num_ids]
        k = self.num_instances
        drawn = [rng.choice(self.rows_of[p], k, replace=len(self.rows_of[p]) < k) for p in pids]
        return np.concatenate(drawn).reshape(self.steps_per_epoch, -1)
