"""Which images of a data set a report shows: ranked galleries, and pairs to explain."""

from typing import Any

import numpy as np
from jaxtyping import Int

from jaxreid.config import Config
from jaxreid.data.index import Tracklets
from jaxreid.data.sources import Source
from jaxreid.evaluate import Shown
from jaxreid.extract import clips
from jaxreid.report.pictures import Pictures, RankedRow
from jaxreid.types import Batch


def ranked_rows(
    source: Source, shown: Shown, config: Config, farther: bool = False
) -> list[RankedRow]:
    """The pictures and labels of the nearest gallery items of some queries.

    A tracklet is shown by the frame in its middle.

    Args:
        source: of the images.
        shown: queries, and what they found.
        config: the size of images.
        farther: adds a first match that lies beyond the nearest.
    """
    query, gallery = source.data.query.tracks(), source.data.gallery.tracks()
    found = [items[items >= 0] for items in shown.gallery]
    distances = [far[: len(items)] for far, items in zip(shown.distances, found)]
    ranks = [np.arange(1, len(items) + 1) for items in found]
    if farther:
        for i in np.flatnonzero(shown.first > [len(items) for items in found]):
            found[i] = np.append(found[i], shown.match[i])
            distances[i] = np.append(distances[i], shown.how_far[i])
            ranks[i] = np.append(ranks[i], shown.first[i])

    def pictures(split: str, tracks: Tracklets, items: Int[np.ndarray, " _"]) -> Pictures:
        middle = (tracks.first + tracks.length // 2)[items]
        rows, places = np.unique(middle, return_inverse=True)
        return _images(source, split, rows, config)[places]

    queries = pictures("query", query, shown.queries)
    ends = np.cumsum([len(items) for items in found])
    items = np.split(pictures("gallery", gallery, np.concatenate(found)), ends[:-1])
    return [
        RankedRow(
            query=queries[i],
            query_pid=int(query.pids[row]),
            query_camid=int(query.camids[row]),
            gallery=list(items[i]),
            pids=gallery.pids[found[i]].tolist(),
            camids=gallery.camids[found[i]].tolist(),
            distances=distances[i].tolist(),
            correct=(gallery.pids[found[i]] == query.pids[row]).tolist(),
            ranks=ranks[i].tolist(),
            first=int(shown.first[i]),
            ap=float(shown.ap[i]),
        )
        for i, row in enumerate(shown.queries)
    ]


def partners(source: Source, shown: Shown, config: Config, pairs: int = 3) -> Batch:
    """Queries beside the nearest gallery item that shows their person, or else the nearest.

    Of a tracklet, its first clip.
    """
    query, gallery = source.data.query.tracks(), source.data.gallery.tracks()
    images, pids, camids = [], [], []
    masks: list[Any] = []
    joints: list[Any] = []

    def add(split: str, tracks: Tracklets, item: np.integer) -> None:
        of = clips(config, tracks.take(np.array([item])), split)
        images.append(_images(source, split, of.rows[:1], config)[0])
        masks.extend([] if of.mask is None else of.mask[:1])
        if source.bodies is not None:
            joints.extend(source.bodies.at(split, of.rows[:1], config.data.image_size))
        pids.append(tracks.pids[item])
        camids.append(tracks.camids[item])

    for row, found in list(zip(shown.queries, shown.gallery))[:pairs]:
        found = found[found >= 0]
        # The first that is right; argmax of nothing right is the first of all.
        partner = found[np.argmax(gallery.pids[found] == query.pids[row])]
        add("query", query, row)
        add("gallery", gallery, partner)
    some = (np.stack(each) if each else None for each in (masks, joints))
    return Batch(np.stack(images), np.array(pids), np.array(camids), *some)


def _images(source: Source, split: str, rows: Any, config: Config) -> Pictures:
    return next(source.images(split, [rows], config.data.image_size))
