"""Training persons that are held out and scored in the place of the test set.

Whoever chooses between settings by the scores of the test set fits to it. With
`config.data.validation=0.1` a tenth of the training persons is not trained on, and is the query and
the gallery.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxreid.data.tables import Index, ReidData
from jaxreid.errors import UserError

_SEED = 0


class HeldOut(NamedTuple):
    """A data set whose test set are some of its training persons.

    Attributes:
        data: the new tables.
        rows: of each split, its rows in the training table that there was.
    """

    data: ReidData
    rows: dict[str, Int[np.ndarray, " _"]]


def hold_out(data: ReidData, share: float) -> HeldOut:
    """Takes a share of the training persons for the query and the gallery.

    The persons are drawn without regard to `train.seed`, so that all runs on a data set are scored
    on the same ones. The gallery holds all that shows them, and the query one image or tracklet of
    each person and camera. As a query's own person and camera are never its match, a query that is
    in the gallery does not find itself.

    Args:
        data: the data set; its own query and gallery are put aside.
        share: of the training persons, above 0 and below 1.

    Raises:
        UserError: fewer than two persons would be held out, or fewer than two be left.
    """
    rng = np.random.default_rng(_SEED)
    number = round(share * data.num_ids)
    if not 2 <= number <= data.num_ids - 2:
        raise UserError(
            f"config.data.validation={share}: holds out {number} of {data.num_ids} training"
            " persons; expected 2 or more, and 2 or more that are left"
        )
    held = np.isin(data.train.pids, rng.permutation(data.num_ids)[:number])
    tracks = data.train.tracks()
    tracks = tracks.take(rng.permutation(np.flatnonzero(held[tracks.first])))
    _, once = np.unique(np.stack([tracks.pids, tracks.camids]), axis=1, return_index=True)
    asked = np.isin(data.train.tracklets, tracks.ids[once])
    rows = {
        "train": np.flatnonzero(~held),
        "query": np.flatnonzero(held & asked),
        "gallery": np.flatnonzero(held),
    }

    def test(split: str) -> Index:
        some = data.train.take(rows[split])
        return some._replace(pids=data.train_pids[some.pids])

    train = data.train.take(rows["train"])
    left, labels = np.unique(train.pids, return_inverse=True)
    held_out = data._replace(
        train=train._replace(pids=labels.astype(train.pids.dtype)),
        query=test("query"),
        gallery=test("gallery"),
        train_pids=data.train_pids[left],
        shared_tracklets=False,
        single_shot=False,
        held_out=True,
        notes=(
            *data.notes,
            f"scored on {number} of {data.num_ids} training persons, which are held out, and not"
            " on the test set",
        ),
    )
    return HeldOut(held_out, rows)
