"""Charts of a page: SVG drawn from numbers, read by pointer, by keyboard or as a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import LogLocator, MaxNLocator

from jaxreid.report.words import SCORES

WIDTH, HEIGHT = 520, 300
LEFT, TOP, RIGHT, BOTTOM = 64, 14, WIDTH - 14, HEIGHT - 46
POINTS = 240  # Of a line of training; more than a screen shows apart.
TABLE = 25  # Rows of the table beside a chart.


class Tick(NamedTuple):
    """A place on an axis, in units of the drawing, and what is written there."""

    at: float
    words: str


class Drawn(NamedTuple):
    """A line: what it is called, and the SVG path that draws it."""

    name: str
    path: str


class Reading(NamedTuple):
    """What stands above one x: its place, each line's (None where it has none), and the words."""

    at: float
    marks: list[float | None]
    words: str


class Chart(NamedTuple):
    """What the macro `chart` draws.

    Attributes:
        id: unique on the page.
        title: above it.
        x_name: what runs from left to right.
        x_ticks: of that axis.
        y_ticks: of the other.
        lines: the series.
        readings: for each x.
        words: what is written before anything is pointed at.
        table: rows of x and each series' value, in words.
    """

    id: str
    title: str
    x_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Drawn]
    readings: list[Reading]
    words: str
    table: list[list[str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    right: int = RIGHT
    bottom: int = BOTTOM


def cmc_chart(cmc: Float[np.ndarray, " k"]) -> Chart:
    """The cumulative match curve."""
    ranks = np.arange(1, len(cmc) + 1)
    return chart(
        "cmc",
        "Queries with a true match among the first k (%)",
        "rank",
        {"queries matched": (ranks, 100 * cmc)},
        lambda value: f"{value:.1f} %",
        bounds=(100 * float(cmc[0]), 100.0),
    )


def training_charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The loss, the learning rate, and the scores on the way, where the history has them.

    A run that was killed has taken some steps twice; the last record of a step counts. Of long
    histories, each point is the mean of neighbouring records.

    Args:
        history: records of `metrics.jsonl`.
    """
    charts = []
    for key, title in (("loss", "Loss"), ("lr", "Learning rate")):
        if (series := _series(history, key)) is not None:
            x, y = (_thin(values) for values in series)
            log = key == "lr" and bool(0 < 10 * y.min() <= y.max())
            lines = {title.lower(): (x, y)}
            charts.append(chart(key, title, "step", lines, lambda v: f"{v:.4g}", log=log))
    of_scores = {SCORES[key]: _series(history, key) for key in ("rank1", "mAP")}
    lines = {name: (x, 100 * y) for name, found in of_scores.items() if found for x, y in [found]}
    if lines and all(len(x) > 1 for x, _ in lines.values()):
        title = "Scores while it trained (%)"
        charts.append(chart("progress", title, "step", lines, lambda v: f"{v:.1f} %"))
    return charts


def chart(
    id: str,
    title: str,
    x_name: str,
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    say: Callable[[float], str],
    *,
    bounds: tuple[float, float] | None = None,
    log: bool = False,
) -> Chart:
    """Lays a chart out.

    Args:
        id: unique on the page.
        title: above it.
        x_name: what runs from left to right.
        lines: for each name the values of x, ascending, and of y. All have the same x.
        say: a value of y in words.
        bounds: what the y axis shows at least; by default the values.
        log: whether the y axis is logarithmic.
    """
    x = np.asarray(next(iter(lines.values()))[0], float)
    values = np.concatenate([np.asarray(y, float) for _, y in lines.values()])
    finite = values[np.isfinite(values)]
    low, high = bounds or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    if low == high:  # A constant stands in the middle.
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (-1.0, 1.0)
    locator = LogLocator(numticks=6) if log else MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
    y_ticks = np.asarray(locator.tick_values(low, high))
    if log:
        y_ticks = y_ticks[(y_ticks >= low / 1.0001) & (y_ticks <= high * 1.0001)]
    else:
        low, high = y_ticks[0], y_ticks[-1]
    scale = np.log10 if log else np.asarray
    x_low, x_high = float(x[0]), float(x[-1])
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1

    def across(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - x_low) / (x_high - x_low), 1)

    def up(value: float) -> float | None:
        if not np.isfinite(value):
            return None
        bottom, top = (float(scale(v)) for v in (low, high))
        share = (float(scale(value)) - bottom) / (top - bottom or 1)
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    steps = MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]).tick_values(x_low, x_high)
    places = np.union1d(steps, [x_low]) if x_low == 1 else np.asarray(steps)
    readings, rows = [], []
    for i, at in enumerate(x):
        each = {name: float(y[i]) for name, (_, y) in lines.items()}
        said = {name: say(v) if np.isfinite(v) else "–" for name, v in each.items()}
        rows.append([f"{at:,.0f}", *said.values()])
        words = ", ".join(f"{name} {value}" for name, value in said.items())
        marks = [up(v) for v in each.values()]
        readings.append(Reading(across(at), marks, f"{x_name} {at:,.0f}: {words}"))
    some = np.unique(np.linspace(0, len(rows) - 1, TABLE).round().astype(int))
    if len(rows) <= 2 * TABLE:
        some = np.arange(len(rows))
    return Chart(
        id=id,
        title=title,
        x_name=x_name,
        x_ticks=[Tick(across(v), f"{v:,.0f}") for v in places if x_low <= v <= x_high],
        y_ticks=[Tick(up(v) or 0.0, f"{v:.6g}") for v in y_ticks],
        lines=[
            Drawn(name, _path([(each.at, each.marks[k]) for each in readings]))
            for k, name in enumerate(lines)
        ],
        readings=readings,
        words=readings[-1].words,
        table=[rows[i] for i in some],
    )


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    """An SVG path, with a gap where a value is missing."""
    pen, path = "M", []
    for x, y in points:
        if y is not None:
            path.append(f"{pen}{x:g} {y:g}")
        pen = "M" if y is None else "L"
    return "".join(path)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and values, ascending."""
    found = {record["step"]: record[key] for record in history if {"step", key} <= set(record)}
    if not found:
        return None
    steps, values = np.array(sorted(found.items()), float).T
    return steps, values


def _thin(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """At most `POINTS` values: means of neighbours."""
    return np.array([some.mean() for some in np.array_split(values, min(POINTS, len(values)))])
