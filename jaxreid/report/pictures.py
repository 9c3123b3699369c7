"""Pictures of a run as PNGs: ranked galleries, attention, and the parts of bodies.

Painted pixel by pixel, and captioned by Matplotlib.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Float32, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from jaxreid.data.tables import DISTRACTOR
from jaxreid.errors import UserError
from jaxreid.report.curves import DPI, save
from jaxreid.types import AttentionMap

Picture = str | Path | UInt8[np.ndarray, "h w 3"]
"""An image file, or its pixels."""


Kind = Literal["query", "hit", "miss", "distractor", ""]
"""Of a picture in a row of ranked ones; empty where nobody knows."""

Pictures = UInt8[np.ndarray, "b *t h w 3"]
Pixels = tuple[int, int]

INK, FAINT = "#222222", "#777777"
GREEN, RED, BLUE, YELLOW = (0, 158, 70), (214, 39, 40), (31, 90, 180), (255, 225, 0)
GREY, PURPLE = (170, 170, 170), (126, 61, 160)
KINDS: dict[Kind, tuple[int, int, int]] = {
    "query": BLUE,
    "hit": GREEN,
    "miss": RED,
    "distractor": PURPLE,
    "": GREY,
}
PARTS = {
    "whole body": (120, 120, 120),
    "head": RED,
    "upper body": (220, 130, 0),
    "upper legs": GREEN,
    "lower legs": BLUE,
}
HEAT = matplotlib.colormaps["inferno"]
HEAT_ALPHA = 0.7


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
        ranks: of the gallery items: 1, 2, ..., and that of a first match farther down.
        first: rank of the nearest true match; 0 where there is none.
        ap: average precision; NaN where there is no true match.
    """

    query: Picture
    query_pid: int
    query_camid: int
    gallery: list[Picture]
    pids: list[int]
    camids: list[int]
    distances: list[float]
    correct: list[bool]
    ranks: Sequence[int] = ()
    first: int = 0
    ap: float = math.nan

    @property
    def kinds(self) -> list[Kind]:
        """Of the gallery items: a distractor is nobody in particular."""
        wrong: list[Kind] = ["distractor" if pid == DISTRACTOR else "miss" for pid in self.pids]
        return ["hit" if correct else kind for correct, kind in zip(self.correct, wrong)]


class Cell(NamedTuple):
    """A picture in a row of ranked ones.

    Attributes:
        picture: what is shown.
        kind: what it is to the query.
        head: stands below it.
        foot: stands below that.
    """

    picture: Picture
    kind: Kind
    head: str
    foot: str = ""


def plot_ranked(path: str | Path, rows: Sequence[RankedRow]) -> None:
    """Draws queries, each with its gallery items framed: green (correct), red (wrong), or purple
    (a distractor).

    Args:
        path: the PNG to write.
        rows: at least one. All images are shown at one size, twice as high as wide.

    Raises:
        UserError: an image cannot be read.
        ValueError: `rows` is empty.
    """
    if not rows:
        raise ValueError("plot_ranked: no rows to draw")
    decimals = decimals_of(distance for row in rows for distance in row.distances)

    def cells(row: RankedRow) -> list[Cell]:
        items = zip(row.gallery, row.kinds, row.pids, row.camids, row.distances)
        query = Cell(row.query, "query", f"{row.query_pid} · c{row.query_camid}")
        return [query] + [
            Cell(picture, kind, f"{pid} · c{camid}", f"{distance:.{decimals}f}")
            for picture, kind, pid, camid, distance in items
        ]

    plot_rows(path, [cells(row) for row in rows])


def decimals_of(distances: Iterable[float]) -> int:
    """How many decimals distances are given with."""
    return 3 if max(map(abs, distances), default=0.0) < 10 else 1


def plot_rows(path: str | Path, rows: Sequence[Sequence[Cell]]) -> None:
    """Draws a query and what was found for it in every row.

    Args:
        path: the PNG to write.
        rows: at least one, each with the query first.

    Raises:
        UserError: an image cannot be read.
    """
    width, height, frame, gap, margin, head, caption = 112, 224, 6, 12, 24, 56, 44
    longest = max(map(len, rows))

    def corner(i: int, j: int) -> Pixels:
        """Where the picture in row i and column j starts; column 0 is the query's."""
        x = margin + frame + j * (width + 2 * frame + gap) + (2 * gap if j else 0)
        return x, head + frame + i * (height + 2 * frame + caption)

    right, bottom = corner(len(rows), longest)
    sheet = _Sheet(right - gap - frame + margin, bottom - frame + margin // 2)
    for j in range(longest):
        x, y = corner(0, j)
        words = str(j) if j else "query"
        sheet.text(x + width // 2, y - 22, words, size=10, weight="bold")
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            x, y = corner(i, j)
            pixels = _pixels(cell.picture, (width, height))
            sheet.framed(pixels, x, y, frame, KINDS[cell.kind])
            # Bold says it again to those who cannot tell green from red.
            weight = "bold" if cell.kind == "hit" else "normal"
            sheet.text(x + width // 2, y + height + 16, cell.head, weight=weight)
            sheet.text(x + width // 2, y + height + 31, cell.foot, color=FAINT)
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
    is written below it, as is the row's name, where the maps have names, below the query. A map
    named `reference` marks for each n the position that the others refer to: it is outlined on the
    query instead.

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
    names = max((m.names for m in maps.values()), key=len)
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
            if names:
                sheet.text(center, y + height + 13, names[n], weight="bold")
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

    A map is heat over its frame, from zero to the peak of the clip; or, where it is shown so, from
    the least to the greatest of the frame, which stand below it. A map of one cell is a weight of
    the frame: a bar as high as its share of the clip's largest, and the number.

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
    margin, gap, head, bar, caption = 24, 6, 60, 56, 18
    label = max(96, 16 + 10 * max(map(len, weights)))
    block_width = label + len(shown) * (width + gap) + 3 * gap
    bars = {name for name, heat in weights.items() if heat.shape[2:] == (1, 1)}
    ranges = {name for name, m in maps.items() if m.shown == "range"} - bars
    heights = {n: bar if n in bars else height + caption * (n in ranges) for n in weights}
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
                if name in bars:
                    sheet.bar(x, y + bar - 16, width, bar - 16, float(here[0, 0]), peak)
                    continue
                full = peak
                if name in ranges:
                    least, most = float(here.min()), float(here.max())
                    words = f"{least:.2f} to {most:.2f}"
                    sheet.text(x + width // 2, y + height + 9, words, color=FAINT)
                    here, full = here - least, most - least
                sheet.paste(_overlay(_pixels(clip[frame], size), here, full), x, y)
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


def read(picture: Picture) -> Image.Image:
    """A picture, decoded.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    try:
        with Image.open(picture) as file:
            return file.convert("RGB")
    except OSError as error:
        raise UserError(f"{picture}: expected an image ({error})") from error


def _pixels(picture: Picture, size: Pixels) -> UInt8[np.ndarray, "height width 3"]:
    """A picture at (width, height) `size`."""
    return np.asarray(read(picture).resize(size, Image.Resampling.BICUBIC))


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
            x / w,
            1 - y / h,
            words,
            size=size,
            color=color,
            weight=weight,
            ha="center",
            va="center",
            parse_math=False,  # Two dollar signs in a file's name would begin a formula.
        )

    def title(self, x: int, y: int, words: str, below: str = "") -> None:
        """A heading over a column that starts at y, with a smaller line below it."""
        self.text(x, y - 36, words, size=10, weight="bold")
        self.text(x, y - 16, below, color=FAINT)

    def save(self, path: str | Path) -> None:
        self.figure.figimage(self.pixels, origin="upper")
        save(self.figure, path)
