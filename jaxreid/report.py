"""Metrics files -> tables and pictures: `report.md` and the PNGs that it shows.

    python -m jaxreid.report parts --name=market1501 --root=/data/Market-1501 --out=parts.png

draws images with their joints and the boxes of the body's parts.

Pictures are painted pixel by pixel and captioned by Matplotlib's object API, which needs no
display and leaves no global state behind.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, Float32, UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from jaxreid.config import Config, Data
from jaxreid.data.decode import decode, resize
from jaxreid.data.index import SPLITS, Tracklets
from jaxreid.data.sources import Source, open_source
from jaxreid.errors import UserError
from jaxreid.evaluate import Evaluation, Shown
from jaxreid.extract import clips
from jaxreid.logs import read_metrics
from jaxreid.ops.boxes import body_part_boxes, strip_boxes
from jaxreid.types import AttentionMap, Batch, ReidModel, Variables

Picture = str | Path | UInt8[np.ndarray, "h w 3"]
"""An image file, or its pixels."""

Pictures = UInt8[np.ndarray, "b *t h w 3"]
Pixels = tuple[int, int]

# A power of two, so that pixels / DPI inches give back exactly that many pixels.
DPI = 128
INK, FAINT = "#222222", "#777777"
GREEN, RED, BLUE, YELLOW = (0, 158, 70), (214, 39, 40), (31, 90, 180), (255, 225, 0)
PARTS = {
    "whole body": (120, 120, 120),
    "head": RED,
    "upper body": (220, 130, 0),
    "upper legs": GREEN,
    "lower legs": BLUE,
}
HEAT = matplotlib.colormaps["inferno"]
HEAT_ALPHA = 0.7

SCORES = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "mAP": "mAP",
    "mINP": "mINP",
}
COUNTS = ("num_queries", "num_gallery", "num_valid")
PROTOCOL_WORDS = {
    "ap": "AP definition",
    "flip": "flip augmentation",
    "rerank": "re-ranking",
    "query_expansion": "query expansion",
    "metric": "learned metric",
    "fisher": "Fisher vectors",
    "single_shot": "single gallery shot",
    "shortlist": "gallery items ranked exactly for each query",
    "match_on_shortlist": "queries with a match among these",
    "mars_protocol": "MARS protocol",
    "clips": "clips of a tracklet",
}
PICTURES = {
    "training.png": ("Training", "Loss and learning rate."),
    "eval/cmc.png": ("Cumulative match curve", "Queries with a true match among the first k."),
    "eval/ranked.png": (
        "Nearest gallery items",
        "Green and bold: the query's person; red: another. Below: pid · camera, and the distance.",
    ),
    "eval/lengths.png": ("Length of clips", "Rank-1 in percent."),
    "eval/attention.png": (
        "Attention",
        "Heat runs from zero to the peak that is written beside it. Bars are weights of whole"
        " frames.",
    ),
}


# ---------------------------------------------------------------------------------------------
# Curves
# ---------------------------------------------------------------------------------------------


def plot_cmc(path: str | Path, curves: Mapping[str, Float[np.ndarray, " _"]], title: str) -> None:
    """Draws cumulative match curves.

    Args:
        path: the PNG to write.
        curves: for each name, the share of queries matched within ranks 1, 2, ...
        title: stands above the picture.
    """
    figure = Figure(figsize=(6, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        ranks = np.arange(1, len(curve) + 1)
        label = f"{name}: rank-1 {_percent(curve[0])} %"
        axes.plot(ranks, 100 * curve, label=label, marker="o", markersize=3, linewidth=1.5)
    longest = max((len(curve) for curve in curves.values()), default=0)
    axes.set_xlim(0, max(longest, 1) + 1)
    axes.set_xticks([1, *range(10, longest + 1, 10)] if longest >= 10 else range(1, longest + 1))
    lowest = min((100 * c[0] for c in curves.values() if np.isfinite(c[0])), default=0.0)
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    axes.set_ylim(max(0, 10 * math.floor((lowest - 2) / 10)), 101)
    axes.set_xlabel("rank")
    axes.set_ylabel("queries matched (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(loc="lower right")
    _save(figure, path)


def plot_lengths(path: str | Path, rank1: Float[np.ndarray, "n n"], lengths: Sequence[int]) -> None:
    """Draws rank-1 by the lengths of the clips, after Fig. 7 of Where-and-When to Look.

    Args:
        path: the PNG to write.
        rank1: fractions; rows are the lengths of query clips, columns of gallery clips.
        lengths: in frames.
    """
    side = 2.5 + 0.6 * len(lengths)
    figure = Figure(figsize=(side + 0.6, side), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(100 * rank1, cmap="viridis", origin="lower")
    middle = 50 * (rank1.min() + rank1.max())
    for (row, column), share in np.ndenumerate(100 * rank1):
        color = "black" if share > middle else "white"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, size=9)
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_yticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_xlabel("frames of a gallery clip")
    axes.set_ylabel("frames of a query clip")
    axes.set_title("rank-1 (%)")
    figure.colorbar(shown, ax=axes, shrink=0.8)
    _save(figure, path)


def plot_training(path: str | Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Draws the loss and the learning rate over the steps.

    A run that was killed has taken some steps twice; the last record of a step counts.

    Args:
        path: the PNG to write.
        history: records of `metrics.jsonl`; those with `step` and `loss` or `lr` are
            drawn.

    Returns:
        Whether there was anything to draw.
    """
    panels = []
    for key, label in (("loss", "loss"), ("lr", "learning rate")):
        series = {record["step"]: record[key] for record in history if {"step", key} <= set(record)}
        if series:
            panels.append((label, np.array(sorted(series.items()), float).T))
    if not panels:
        return False
    figure = Figure(figsize=(7, 1 + 2.2 * len(panels)), dpi=DPI, layout="constrained")
    for axes, (label, (steps, values)) in zip(
        figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels
    ):
        window = len(steps) // 40
        if label == "loss" and window > 1:
            axes.plot(steps, values, color="C0", alpha=0.3, linewidth=0.8, label="each record")
            mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
            middle = steps[(window - 1) // 2 :][: len(mean)]
            axes.plot(middle, mean, color="C0", linewidth=1.8, label=f"mean of {window} records")
            axes.legend(loc="upper right")
        else:
            axes.plot(steps, values, color="C0", linewidth=1.5)
        if label == "learning rate" and 0 < 10 * np.min(values) <= np.max(values):
            axes.set_yscale("log")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.align_ylabels()
    _save(figure, path)
    return True


def write(
    workdir: Path,
    config: Config,
    source: Source,
    model: ReidModel,
    variables: Variables,
    evaluation: Evaluation,
) -> None:
    """Everything that a scored run leaves for a reader: `eval/` and `report.md`.

    Args:
        workdir: the run's folder.
        config: the run.
        source: of the images to show.
        model: its `explain` is called, if it has one.
        variables: that were scored.
        evaluation: the scores.
    """
    folder = workdir / "eval"
    scores, shown = evaluation.scores, evaluation.shown
    write_scores(workdir, scores)
    plot_cmc(folder / "cmc.png", {"this run": evaluation.ranking.cmc}, scores["data"])
    plot_ranked(folder / "ranked.png", ranked_rows(source, shown, config))
    if model.explain is not None:
        batch = partners(source, shown, config)
        maps = jax.device_get(jax.jit(model.explain)(variables, batch))
        plot = plot_attention if batch.images.ndim == 4 else plot_clips
        plot(folder / "attention.png", batch.images, maps)
    for name in ("lengths.json", "lengths.png"):  # of an earlier scoring
        (folder / name).unlink(missing_ok=True)
    if evaluation.by_length is not None:
        figures = {"lengths": config.eval.lengths, "rank1": evaluation.by_length.tolist()}
        (folder / "lengths.json").write_text(json.dumps(figures) + "\n")
        plot_lengths(folder / "lengths.png", evaluation.by_length, config.eval.lengths)
    history = read_metrics(workdir / "metrics.jsonl")
    write_report(
        workdir,
        config=config.to_dict(),
        scores=scores,
        paper=config.paper,
        paper_source=config.paper_source,
        history=history,
    )


def write_scores(workdir: Path, scores: Mapping[str, Any]) -> None:
    """Writes `eval/metrics.json`."""
    path = workdir / "eval" / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores, indent=2) + "\n")


def ranked_rows(source: Source, shown: Shown, config: Config) -> list["RankedRow"]:
    """The pictures and labels of the nearest gallery items of some queries.

    A tracklet is shown by the frame in its middle.
    """
    query, gallery = source.data.query.tracks(), source.data.gallery.tracks()

    def pictures(split: str, tracks: Tracklets, items: Any) -> Pictures:
        middle = tracks.first + tracks.length // 2
        return _images(source, split, middle[items], config)

    rows = []
    for row, found, distances in zip(*shown):
        found, distances = found[found >= 0], distances[found >= 0]
        rows.append(
            RankedRow(
                query=pictures("query", query, [row])[0],
                query_pid=int(query.pids[row]),
                query_camid=int(query.camids[row]),
                gallery=list(pictures("gallery", gallery, found)),
                pids=gallery.pids[found].tolist(),
                camids=gallery.camids[found].tolist(),
                distances=distances.tolist(),
                correct=(gallery.pids[found] == query.pids[row]).tolist(),
            )
        )
    return rows


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


# ---------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------


class RankedRow(NamedTuple):
    """A query and the gallery items that were found nearest to it, nearest first.

    Attributes:
        query: the query's image.
        query_pid: its person.
        query_camid: its camera.
        gallery: images of the gallery items; the other lists are as long.
        pids: their persons.
        camids: their cameras.
        distances: to the query.
        correct: whether they show the query's person.
    """

    query: Picture
    query_pid: int
    query_camid: int
    gallery: list[Picture]
    pids: list[int]
    camids: list[int]
    distances: list[float]
    correct: list[bool]


def plot_ranked(path: str | Path, rows: Sequence[RankedRow]) -> None:
    """Draws queries, each with its gallery items framed in green (correct) or red (wrong).

    Args:
        path: the PNG to write.
        rows: at least one. All images are shown at one size, twice as high as wide.

    Raises:
        UserError: an image cannot be read.
        ValueError: `rows` is empty.
    """
    if not rows:
        raise ValueError("plot_ranked: no rows to draw")
    width, height, frame, gap, margin, head, caption = 112, 224, 6, 12, 24, 56, 44
    longest = max(len(row.gallery) for row in rows)
    farthest = max((abs(d) for row in rows for d in row.distances), default=0.0)
    decimals = 3 if farthest < 10 else 1

    def corner(i: int, j: int) -> Pixels:
        """Where the picture in row i and column j starts; column 0 is the query's."""
        x = margin + frame + j * (width + 2 * frame + gap) + (2 * gap if j else 0)
        return x, head + frame + i * (height + 2 * frame + caption)

    right, bottom = corner(len(rows), longest + 1)
    sheet = _Sheet(right - gap - frame + margin, bottom - frame + margin // 2)
    x, y = corner(0, 0)
    sheet.text(x + width // 2, y - 22, "query", size=10, weight="bold")
    for j in range(1, longest + 1):
        sheet.text(corner(0, j)[0] + width // 2, y - 22, str(j), size=10, weight="bold")
    for i, row in enumerate(rows):
        x, y = corner(i, 0)
        sheet.framed(_pixels(row.query, (width, height)), x, y, frame, BLUE)
        sheet.text(x + width // 2, y + height + 16, f"{row.query_pid} · c{row.query_camid}")
        items = zip(row.gallery, row.pids, row.camids, row.distances, row.correct)
        for j, (picture, pid, camid, distance, correct) in enumerate(items, start=1):
            x, y = corner(i, j)
            sheet.framed(_pixels(picture, (width, height)), x, y, frame, GREEN if correct else RED)
            # Bold says it again to those who cannot tell green from red.
            weight = "bold" if correct else "normal"
            sheet.text(x + width // 2, y + height + 16, f"{pid} · c{camid}", weight=weight)
            sheet.text(x + width // 2, y + height + 31, f"{distance:.{decimals}f}", color=FAINT)
    sheet.save(path)


def plot_attention(
    path: str | Path,
    images: UInt8[np.ndarray, "b h w 3"],
    maps: Mapping[str, AttentionMap],
    *,
    references: int = 3,
) -> None:
    """Draws where a model looked, after Fig. 8 of the DuATM paper.

    A row shows one query and one of the n maps; its columns are the query, then every map as heat
    over the image that it lies on. Each heat picture runs from zero to that map's own peak, which
    is written below it. A map named `reference` marks for each n the position that the others
    refer to: it is outlined on the query instead.

    Args:
        path: the PNG to write.
        images: items 2i and 2i+1 are partners: a query and a gallery item. Where no map lies over
            the partner, every item has its own rows.
        maps: what the model's `explain` returned, as numpy arrays or as they came.
        references: how many of the n maps to show, evenly spaced. Where they are the positions
            of a grid, its border is avoided.

    Raises:
        ValueError: the maps do not fit the images or each other.
    """
    weights = {name: np.asarray(m.weights, np.float32) for name, m in maps.items()}
    paired = any(m.over == "partner" for m in maps.values())
    _check_maps(len(images), weights, paired)
    reference = weights.get("reference")
    heats = [name for name in maps if name != "reference"]
    grid = next(iter(weights.values())) if reference is None else reference
    num_maps = max(w.shape[1] for w in weights.values())
    chosen = _choose(num_maps, grid.shape[2:], references)
    items = range(0, len(images), 2 if paired else 1)

    h, w = images.shape[1:3]
    scale = min(288 / h, 640 / w)
    size = width, height = round(scale * w), round(scale * h)
    margin, gap, head, caption = 24, 16, 60, 28
    column = gap + max(width, 152, 11 * max(map(len, maps)))
    block_width = column * (1 + len(heats)) + 2 * gap
    block_height = head + len(chosen) * (height + caption) + gap
    # Blocks of narrow pictures stand side by side, else the sheet would be a ribbon.
    across = min(len(items), max(1, 2000 // block_width))
    down = math.ceil(len(items) / across)
    sheet = _Sheet(
        2 * margin + across * block_width - 3 * gap, margin // 2 + down * block_height - gap
    )
    own = "query" if paired else "image"
    for number, item in enumerate(items):
        line, place = divmod(number, across)
        top = line * block_height + head
        center = margin + place * block_width + (column - gap) // 2
        sheet.title(center, top, own, "" if reference is None else "outlined: reference")
        for j, name in enumerate(heats, start=1):
            lies_on = own if maps[name].over == "self" else "gallery item"
            sheet.title(center + j * column, top, name, f"over the {lies_on}")
        for k, n in enumerate(chosen):
            x, y = center - width // 2, top + k * (height + caption)
            sheet.paste(_pixels(images[item], size), x, y)
            if reference is not None:
                sheet.outline(reference[item, min(n, reference.shape[1] - 1)], size, x, y)
            for j, name in enumerate(heats, start=1):
                image = images[item if maps[name].over == "self" else item + 1]
                heat = weights[name][item, min(n, weights[name].shape[1] - 1)]
                peak = float(heat.max())
                sheet.paste(_overlay(_pixels(image, size), heat, peak), x + j * column, y)
                words = f"peak {peak:.2g}"
                sheet.text(center + j * column, y + height + 13, words, color=FAINT)
    sheet.save(path)


def plot_clips(
    path: str | Path,
    images: UInt8[np.ndarray, "b t h w 3"],
    maps: Mapping[str, AttentionMap],
    *,
    frames: int = 8,
) -> None:
    """Draws where a model looked in clips: the frames, and below them every map.

    A map is heat over its frame, from zero to the peak of the clip. A map of one cell is a weight
    of the frame: a bar as high as its share of the clip's largest, and the number.

    Args:
        path: the PNG to write.
        images: clips; items 2i and 2i+1 are partners: a query and a gallery item.
        maps: what the model's `explain` returned; map k of an item lies on its frame k.
        frames: how many to show, evenly spaced.

    Raises:
        ValueError: the maps do not fit the clips.
    """
    weights = {name: np.asarray(m.weights, np.float32) for name, m in maps.items()}
    for name, heat in weights.items():
        if heat.shape[:2] != images.shape[:2] or maps[name].over != "frames":
            raise ValueError(
                f"attention map {name!r}: expected one over each frame of {images.shape[:2]},"
                f" got {heat.shape} over the {maps[name].over}"
            )
    count = images.shape[1]
    shown = [(2 * i + 1) * count // (2 * min(frames, count)) for i in range(min(frames, count))]
    h, w = images.shape[2:4]
    scale = min(192 / h, 320 / w)
    size = width, height = round(scale * w), round(scale * h)
    margin, gap, head, bar = 24, 6, 60, 56
    label = max(96, 16 + 10 * max(map(len, weights)))
    block_width = label + len(shown) * (width + gap) + 3 * gap
    heights = {n: bar if heat.shape[2:] == (1, 1) else height for n, heat in weights.items()}
    block_height = head + height + gap + sum(heights.values()) + gap * len(heights) + gap
    across = 2 if len(images) > 1 else 1
    down = math.ceil(len(images) / across)
    sheet = _Sheet(2 * margin + across * block_width, margin + down * block_height)
    for item, clip in enumerate(images):
        line, place = divmod(item, across)
        left, top = margin + place * block_width, line * block_height + head
        center = left + label + len(shown) * (width + gap) // 2
        own = "gallery item" if item % 2 else "query"
        sheet.title(center, top, own, f"frames {shown[0] + 1} to {shown[-1] + 1} of the clip")
        for j, frame in enumerate(shown):
            x = left + label + j * (width + gap)
            sheet.paste(_pixels(clip[frame], size), x, top)
        y = top + height + gap
        for name, heat in weights.items():
            middle, peak = y + heights[name] // 2, float(heat[item].max())
            sheet.text(left + label // 2, middle - 8, name, size=10, weight="bold")
            sheet.text(left + label // 2, middle + 12, f"peak {peak:.2g}", color=FAINT)
            for j, frame in enumerate(shown):
                x, here = left + label + j * (width + gap), heat[item, frame]
                if heights[name] == height:
                    sheet.paste(_overlay(_pixels(clip[frame], size), here, peak), x, y)
                else:
                    sheet.bar(x, y + bar - 16, width, bar - 16, float(here[0, 0]), peak)
            y += heights[name] + gap
    sheet.save(path)


def plot_parts(
    path: str | Path,
    images: UInt8[np.ndarray, "b h w 3"],
    joints: Float[np.ndarray, "b 18 3"],
    boxes: Float[np.ndarray, "b 5 4"],
) -> None:
    """Draws images with their joints and body parts, which may reach beyond the image.

    Args:
        path: the PNG to write.
        images: of one size.
        joints: in pixels of them. Those of confidence 0 are hollow: they were completed. An image
            whose joints are all of confidence 0 shows none: its parts are strips.
        boxes: (x0, y0, x1, y1) in pixels: the body, head, upper body, upper and lower legs.
    """
    h, w = images.shape[1:3]
    scale, margin, across = max(1, round(224 / h)), 48, min(len(images), 8)
    width, height = scale * w + 2 * margin, scale * h + 2 * margin
    down = math.ceil(len(images) / across)
    sheet = _Sheet(across * width, 32 + down * height)
    for k, (name, (red, green, blue)) in enumerate(PARTS.items()):
        place, words = (2 * k + 1) * across * width // 10, f"#{red:02x}{green:02x}{blue:02x}"
        sheet.text(place, 16, name, size=10, weight="bold", color=words)
    for number, (image, points, of) in enumerate(zip(images, joints, boxes)):
        cell = Image.new("RGB", (width, height), (235, 235, 235))
        cell.paste(Image.fromarray(image).resize((scale * w, scale * h)), (margin, margin))
        draw = ImageDraw.Draw(cell)
        for inset, (box, color) in enumerate(zip(of, PARTS.values())):
            # Insets keep the edges of neighbours, which lie on each other, apart.
            x0, y0, x1, y1 = (scale * box + margin).tolist()
            inner = (x0 + inset, y0 + inset, max(x0, x1 - inset), max(y0, y1 - inset))
            draw.rectangle(inner, outline=color, width=2)
        for x, y, confidence in points.tolist() if points[:, 2].any() else []:
            x, y = scale * x + margin, scale * y + margin
            fill = YELLOW if confidence > 0 else None
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=fill, outline=YELLOW)
        line, place = divmod(number, across)
        sheet.paste(np.asarray(cell), place * width, 32 + line * height)
    sheet.save(path)


def _check_maps(num_items: int, weights: Mapping[str, np.ndarray], paired: bool) -> None:
    shapes = {name: w.shape for name, w in weights.items()}
    counts = {shape[1] for shape in shapes.values()} - {1}
    if not shapes or any(shape[0] != num_items for shape in shapes.values()) or len(counts) > 1:
        raise ValueError(
            f"attention maps for {num_items} images: expected arrays (b, n, h, w) with "
            f"b = {num_items} and one n (or 1), got {shapes}"
        )
    if paired and num_items % 2:
        raise ValueError(f"{num_items} images: maps over the partner need pairs")


def _choose(num_maps: int, grid: tuple[int, ...], references: int) -> list[int]:
    """`references` indices, evenly spaced over the maps, or over the inside of their grid."""
    candidates = np.arange(num_maps)
    h, w = grid
    if num_maps == h * w:
        inside = candidates.reshape(h, w)
        inside = inside[1:-1] if h > 2 else inside
        inside = inside[:, 1:-1] if w > 2 else inside
        candidates = inside.ravel()
    count = min(references, len(candidates))
    return [int(candidates[(2 * i + 1) * len(candidates) // (2 * count)]) for i in range(count)]


def _overlay(
    image: UInt8[np.ndarray, "h w 3"], weight: Float32[np.ndarray, "gh gw"], peak: float
) -> UInt8[np.ndarray, "h w 3"]:
    """`weight` as colour over the image in grey: clear at zero, brightest at the peak."""
    h, w = image.shape[:2]
    smooth = np.asarray(Image.fromarray(weight).resize((w, h), Image.Resampling.BILINEAR))
    share = smooth / max(peak, 1e-12)
    alpha = HEAT_ALPHA * share[..., None]
    grey = image.mean(axis=2, keepdims=True)
    return (alpha * 255 * HEAT(share)[..., :3] + (1 - alpha) * grey).astype(np.uint8)


def _pixels(picture: Picture, size: Pixels) -> UInt8[np.ndarray, "height width 3"]:
    """A picture at (width, height) `size`."""
    try:
        if isinstance(picture, np.ndarray):
            image = Image.fromarray(picture)
        else:
            with Image.open(picture) as file:
                image = file.convert("RGB")
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    except OSError as error:
        raise UserError(f"{picture}: expected an image ({error})") from error


class _Sheet:
    """A white sheet of `width` x `height` pixels with pictures and words; y runs downwards."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.full((height, width, 3), 255, np.uint8)
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def paste(self, image: UInt8[np.ndarray, "h w 3"], x: int, y: int) -> None:
        h, w = image.shape[:2]
        self.pixels[y : y + h, x : x + w] = image

    def framed(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        x: int,
        y: int,
        frame: int,
        color: tuple[int, int, int],
    ) -> None:
        h, w = image.shape[:2]
        self.pixels[y - frame : y + h + frame, x - frame : x + w + frame] = color
        self.paste(image, x, y)

    def outline(self, cell: Float32[np.ndarray, "gh gw"], size: Pixels, x: int, y: int) -> None:
        """Outlines the brightest cell of a grid that lies over the picture at (x, y)."""
        width, height = size
        gh, gw = cell.shape
        i, j = divmod(int(cell.argmax()), gw)
        top, bottom = y + i * height // gh, y + (i + 1) * height // gh
        left, right = x + j * width // gw, x + (j + 1) * width // gw
        inside = self.pixels[top + 4 : bottom - 4, left + 4 : right - 4].copy()
        self.pixels[top:bottom, left:right] = YELLOW
        self.paste(inside, left + 4, top + 4)

    def bar(self, x: int, foot: int, width: int, height: int, value: float, peak: float) -> None:
        """A bar that stands at y = foot, `height` high at the peak, with its value below it."""
        top = foot - round(height * value / max(peak, 1e-12))
        self.pixels[top:foot, x + width // 4 : x + width - width // 4] = BLUE
        self.text(x + width // 2, foot + 9, f"{value:.2f}", color=FAINT)

    def text(
        self,
        x: int,
        y: int,
        words: str,
        *,
        size: int = 8,
        color: str = INK,
        weight: str = "normal",
    ) -> None:
        h, w = self.pixels.shape[:2]
        self.figure.text(
            x / w, 1 - y / h, words, size=size, color=color, weight=weight, ha="center", va="center"
        )

    def title(self, x: int, y: int, words: str, below: str = "") -> None:
        """A heading over a column that starts at y, with a smaller line below it."""
        self.text(x, y - 36, words, size=10, weight="bold")
        self.text(x, y - 16, below, color=FAINT)

    def save(self, path: str | Path) -> None:
        self.figure.figimage(self.pixels, origin="upper")
        _save(self.figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


# ---------------------------------------------------------------------------------------------
# The report
# ---------------------------------------------------------------------------------------------


def write_report(
    workdir: str | Path,
    *,
    config: Mapping[str, Any],
    scores: Mapping[str, Any],
    paper: Mapping[str, Any] | None = None,
    paper_source: str = "",
    history: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes `report.md`, and `training.png` where there is a history.

    All scores are fractions.

    Args:
        workdir: the run's folder. The pictures that already lie in it are shown.
        config: the run's config, ready for JSON.
        scores: `rank1 rank5 rank10 rank20 mAP num_queries num_gallery num_valid`, and the
            protocol's words under any other key.
        paper: the same scores as the paper prints them.
        paper_source: where it prints them, and for which data set.
        history: records of `metrics.jsonl`.

    Returns:
        The report's path.

    Raises:
        ValueError: a score is not a fraction.
    """
    workdir = Path(workdir)
    rows = [
        ("this run", scores),
        (f"the paper's figures{paper_source and f' ({paper_source})'}", paper),
    ]
    columns = [key for key in SCORES if any(row and key in row for _, row in rows)]
    lines = [
        f"# {workdir.resolve().name}",
        "",
        "Scores in percent.",
        "",
        "| | " + " | ".join(SCORES[key] for key in columns) + " |",
        "|---" + "|---:" * len(columns) + "|",
        *(
            f"| {name} | " + " | ".join(_percent(row.get(key)) for key in columns) + " |"
            for name, row in rows
            if row
        ),
        "",
        "## Protocol",
        "",
        *_protocol(scores),
    ]
    plot_training(workdir / "training.png", history)
    for picture, (heading, words) in PICTURES.items():
        if (workdir / picture).exists():
            lines += ["", f"## {heading}", "", words, "", f"![{heading}]({picture})"]
    lines += ["", "## Config", "", "<details><summary>config.json</summary>", "", "```json"]
    lines += [
        json.dumps(config, indent=2, ensure_ascii=False, default=str),
        "```",
        "",
        "</details>",
        "",
    ]
    path = workdir / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _protocol(scores: Mapping[str, Any]) -> list[str]:
    """What changes the numbers, as a list in words."""
    lines = []
    if {"num_queries", "num_gallery"} <= set(scores):
        queries, gallery = scores["num_queries"], scores["num_gallery"]
        lines.append(f"- {queries:,} queries against {gallery:,} gallery items")
    if {"num_queries", "num_valid"} <= set(scores):
        without = scores["num_queries"] - scores["num_valid"]
        lines.append(f"- {without:,} queries without a match in the gallery, not counted")
    for key, words in scores.items():
        if isinstance(words, Mapping):
            name = words["mars_protocol"]
            figures = ", ".join(f"{SCORES[k]} {_percent(words[k])}" for k in SCORES if k in words)
            lines.append(f"- under MARS protocol {name}: {figures}")
        elif key not in SCORES and key not in COUNTS:
            words = {True: "on", False: "off"}[words] if isinstance(words, bool) else words
            words = f"{_percent(words)} %" if isinstance(words, float) else words
            lines.append(f"- {PROTOCOL_WORDS.get(key, key.replace('_', ' '))}: {words}")
    return lines


def _percent(fraction: SupportsFloat | None) -> str:
    """A fraction as a percentage with one decimal; a dash where it is not known."""
    value = math.nan if fraction is None else float(fraction)
    if math.isnan(value):
        return "–"
    if not 0 <= value <= 1:
        raise ValueError(f"a score is {value}; expected a fraction between 0 and 1")
    return f"{100 * value:.1f}"


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxreid.report")
    commands = parser.add_subparsers(required=True)
    parts = commands.add_parser("parts", help="draw images with joints and body parts")
    parts.add_argument("--name", required=True, help="of the data set, as config.data.name")
    parts.add_argument("--root", required=True, help="its folder")
    parts.add_argument("--joints", default="joints.npz", help="as config.data.joints")
    parts.add_argument("--split", default="query", choices=SPLITS)
    parts.add_argument("--count", type=int, default=16, help="images, evenly spaced")
    parts.add_argument("--size", default="256,128", help="height,width that they are resized to")
    parts.add_argument("--overlap", type=float, default=0.1, help="of neighbours, in heights")
    parts.add_argument("--out", required=True, help="the PNG to write")
    parts.set_defaults(run=_draw_parts)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"jaxreid: error: {error}", file=sys.stderr)
        return 2
    return 0


def _draw_parts(args: argparse.Namespace) -> None:
    match = re.fullmatch(r"(\d+),(\d+)", args.size)
    if match is None or args.count < 1:
        raise UserError(
            f"--size={args.size} --count={args.count}: expected height,width and 1 image or more"
        )
    height, width = int(match[1]), int(match[2])
    data = Data(name=args.name, root=args.root, joints=args.joints, source="memory")
    source = open_source(data)
    assert source.bodies is not None
    print(source.bodies.summary)
    total = source.data.splits[args.split].size
    rows = np.unique(np.linspace(0, total - 1, args.count, dtype=int))
    pixels = [decode(source.data.splits[args.split].path(row)) for row in rows.tolist()]
    images = np.stack([resize(image, (height, width)) for image in pixels])
    joints = source.bodies.at(args.split, rows, (height, width))
    boxes = np.where(
        joints[..., 2:].any(axis=1, keepdims=True),
        body_part_boxes(jnp.asarray(joints), args.overlap),
        strip_boxes(height, width)[None],
    )
    plot_parts(args.out, images, joints, boxes)
    print(f"drawn: {args.out}")


if __name__ == "__main__":
    sys.exit(main())
