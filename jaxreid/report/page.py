"""`report.html`: all that a run left for a reader, in one file that needs nothing else."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from jaxreid import __version__
from jaxreid.config import flat_keys
from jaxreid.metrics import Ranking
from jaxreid.pages import picture, render
from jaxreid.report.charts import cmc_chart, training_charts
from jaxreid.report.pictures import HEAT, HEAT_ALPHA, Kind, RankedRow, decimals_of, read
from jaxreid.report.words import SCORES, percent, protocol
from jaxreid.types import AttentionMap, Batch

THUMBNAIL, LOOKED_AT, FRAME = 128, 256, 160  # Heights in pixels.
FRAMES = 16  # Of a clip, evenly spaced.

_SHOWS: dict[Kind, str] = {
    "hit": "the same person",
    "miss": "another person",
    "distractor": "a distractor",
}


class Item(NamedTuple):
    """A picture of a ranked gallery: the arguments of the macro `item`."""

    kind: Kind
    picture: str
    alt: str
    head: str
    lines: list[str]


class Leaf(NamedTuple):
    """A query and what it found.

    Attributes:
        outcome: `hit`: a true match stands first; `miss`: another does; `none`: there is none.
        title: who is searched for.
        verdict: the outcome in words.
        items: the query, then the gallery items, nearest first.
    """

    outcome: Literal["hit", "miss", "none"]
    title: str
    verdict: str
    items: list[Item]


class Looks(NamedTuple):
    """What a model's `explain` made of a batch.

    Attributes:
        batch: queries beside their partners.
        maps: what it returned, on the host.
    """

    batch: Batch
    maps: Mapping[str, AttentionMap]


def write_page(
    workdir: str | Path,
    *,
    config: Mapping[str, Any],
    scores: Mapping[str, Any],
    paper: Mapping[str, Any] | None = None,
    paper_source: str = "",
    history: Sequence[Mapping[str, Any]] = (),
    title: str = "",
    cmc: Float[np.ndarray, " _"] | None = None,
    rows: Sequence[RankedRow] = (),
    looks: Looks | None = None,
    by_camera: Mapping[int, Ranking] | None = None,
    lengths: Sequence[int] = (),
    by_length: Float[np.ndarray, "n n"] | None = None,
    splits: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes `report.html`. What is not given is left out of it.

    Args:
        workdir: the run's folder.
        config: the run's config, ready for JSON.
        scores: as in `eval/metrics.json`.
        paper: the same scores as the paper prints them.
        paper_source: where it prints them, and for which data set.
        history: records of `metrics.jsonl`.
        title: what was run, see `run_title`; by default the folder's name.
        cmc: share of queries matched within ranks 1, 2, ...
        rows: queries to leaf through, in this order.
        looks: where the model looked.
        by_camera: how well each camera's queries were matched.
        lengths: of clips, in frames.
        by_length: rank-1 for clips of these lengths, of queries (rows) against gallery tracklets.
        splits: scores of each split, by the folder beside the page that has its report.

    Returns:
        The page's path.

    Raises:
        ValueError: a score is not a fraction.
    """
    workdir = Path(workdir)
    path = workdir / "report.html"
    own = {key: percent(scores.get(key)) for key in SCORES if key in {**scores, **(paper or {})}}
    leaves = [leaf(row) for row in rows]
    page = render(
        "report.html",
        title=title or workdir.resolve().name,
        version=__version__,
        data=scores.get("data"),
        scores=[(SCORES[key], own[key], percent((paper or {}).get(key))) for key in own],
        paper=bool(paper),
        paper_source=paper_source,
        protocol=protocol({key: words for key, words in scores.items() if key != "data"}),
        cmc=None if cmc is None or np.isnan(cmc).all() else cmc_chart(cmc),
        training=training_charts(history),
        leaves=leaves,
        counts={outcome: sum(x.outcome == outcome for x in leaves) for outcome in ("hit", "miss")},
        looks=None if looks is None else attention(looks),
        cameras=[] if by_camera is None else [_camera(*each) for each in by_camera.items()],
        lengths=None if by_length is None else _by_length(by_length, lengths),
        splits=_by_split(splits or {}),
        config=[
            (key, json.dumps(value, ensure_ascii=False, default=str))
            for key, value in flat_keys(config).items()
        ],
    )
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def leaf(row: RankedRow) -> Leaf:
    """A query and what it found, with pictures as data URIs."""
    outcome: Literal["hit", "miss", "none"] = "hit" if row.first == 1 else "miss"
    verdict = f"first match at rank {row.first:,} · AP {percent(row.ap)} %"
    if row.first == 0:
        outcome, verdict = "none", "no match in the gallery"
    who = f"person {row.query_pid}, camera {row.query_camid}"
    query = Item(
        "query",
        picture(np.asarray(read(row.query)), THUMBNAIL),
        f"Query: {who}",
        "query",
        [f"pid {row.query_pid}", f"cam {row.query_camid}"],
    )
    decimals = decimals_of(row.distances)
    found = zip(row.gallery, row.kinds, row.pids, row.camids, row.distances, row.ranks)
    items = []
    for pixels, kind, pid, camid, distance, rank in found:
        far = f"{distance:.{decimals}f}"
        items.append(
            Item(
                kind,
                picture(np.asarray(read(pixels)), THUMBNAIL),
                f"Rank {rank}, {_SHOWS[kind]}: person {pid}, camera {camid}, distance {far}",
                f"{'✓' if kind == 'hit' else '✗'} {rank:,}",
                [f"pid {pid}", f"cam {camid}", far],
            )
        )
    return Leaf(outcome, who, verdict, [query, *items])


def attention(looks: Looks) -> dict[str, Any]:
    """What the script draws: pictures, and maps as bytes from 0 to 255 of their peak.

    Over frames, 255 is the peak of the clip; or, where maps are shown by their range, 0 and 255 are
    the least and the greatest of the frame.
    """
    images = np.asarray(looks.batch.images)
    # JAX returns them by name: first what lies over the item itself.
    maps = dict(sorted(looks.maps.items(), key=lambda each: each[1].over == "partner"))
    clips = images.ndim == 5
    frames = np.arange(images.shape[1]) if clips else None
    if frames is not None and len(frames) > FRAMES:
        frames = (2 * np.arange(FRAMES) + 1) * len(frames) // (2 * FRAMES)
    paired = clips or any(m.over == "partner" for m in maps.values())
    weights = {name: np.asarray(m.weights, np.float32) for name, m in maps.items()}
    reference = weights.pop("reference", None)
    if frames is not None:
        weights = {name: w[:, frames] for name, w in weights.items()}
    items = []
    for i, (pid, camid) in enumerate(zip(looks.batch.pids, looks.batch.camids)):
        role = ("gallery item" if i % 2 else "query") if paired else "image"
        shown = [images[i]] if frames is None else images[i, frames]
        items.append(
            {
                "words": f"{role}: person {int(pid)}, camera {int(camid)}",
                "pictures": [picture(x, LOOKED_AT if frames is None else FRAME) for x in shown],
                "maps": [_pack(w[i], clips, maps[name].shown) for name, w in weights.items()],
                "cells": None if reference is None else _cells(reference[i]),
            }
        )
    return {
        "clips": clips,
        "paired": paired,
        "frames": None if frames is None else [int(k) + 1 for k in frames],
        "grid": None if reference is None else list(reference.shape[2:]),
        "maps": [
            {
                "name": name,
                "over": maps[name].over,
                "grid": list(w.shape[2:]),
                "names": list(maps[name].names) or [f"{k + 1}" for k in range(w.shape[1])],
            }
            for name, w in weights.items()
        ],
        "items": items,
        "heat": _bytes((255 * HEAT(np.arange(256))[:, :3]).astype(np.uint8)),
        "alpha": HEAT_ALPHA,
    }


def _pack(weights: Float32[np.ndarray, "n h w"], together: bool, shown: str) -> dict[str, Any]:
    peaks = weights.max(axis=(1, 2))
    least, full = np.zeros_like(peaks), peaks
    if shown == "range":
        least = weights.min(axis=(1, 2))
    elif together:
        full = np.full_like(peaks, peaks.max())
    shares = (weights - least[:, None, None]) / np.maximum(full - least, 1e-12)[:, None, None]
    return {
        "least": [float(f"{value:.4g}") for value in least],
        "peaks": [float(f"{peak:.4g}") for peak in peaks],
        "data": _bytes((255 * np.clip(shares, 0, 1)).round().astype(np.uint8)),
    }


def _cells(reference: Float32[np.ndarray, "n h w"]) -> list[int]:
    cells: list[int] = reference.reshape(len(reference), -1).argmax(axis=1).tolist()
    return cells


def _bytes(values: UInt8[np.ndarray, "..."]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _camera(camid: int, ranking: Ranking) -> dict[str, Any]:
    rank1, count = float(ranking.cmc[0]), ranking.num_valid
    return {
        "camid": camid,
        "queries": len(ranking.ap),
        "counted": count,
        "rank1": percent(rank1),
        "share": 0.0 if math.isnan(rank1) else rank1,
        "interval": "{}–{}".format(*map(percent, wilson(rank1, count))) if count else "–",
        "mAP": percent(ranking.mean_ap),
    }


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval that holds the true share with 95 % confidence.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        share: what was found of `count` independent cases.
        count: at least 1.
        z: quantile of the normal distribution.
    """
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half = z / (1 + z**2 / count) * spread
    return max(0.0, middle - half), min(1.0, middle + half)


def _by_length(rank1: Float[np.ndarray, "n n"], lengths: Sequence[int]) -> dict[str, Any]:
    low, span = float(np.nanmin(rank1)), float(np.ptp(rank1)) or 1.0
    rows = [[(percent(v), round((float(v) - low) / span, 3)) for v in row] for row in rank1]
    return {"lengths": list(lengths), "rows": list(zip(lengths, rows))}


def _by_split(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    if not splits:
        return None
    keys = [key for key in SCORES if any(key in scores for scores in splits.values())]
    rows = [(name, [percent(scores.get(k)) for k in keys]) for name, scores in splits.items()]
    return {"names": [SCORES[key] for key in keys], "rows": rows}
