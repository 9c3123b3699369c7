"""Curves of a run as PNGs: matches, training, and rank-1 by the lengths of clips.

Drawn by Matplotlib's object API, which needs no display and leaves no global state behind.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxreid.metrics.calibration import Answers
from jaxreid.report.words import percent

# A power of two, so that pixels / DPI inches give back exactly that many pixels.
DPI = 128


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
        label = f"{name}: rank-1 {percent(curve[0])} %"
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
    save(figure, path)


def plot_matches(
    path: str | Path, curve: Float[np.ndarray, "n 3"], found: Answers, title: str
) -> None:
    """Draws the true match rate over the false match rate (ROC), and where the thresholds are.

    Args:
        path: the PNG to write.
        curve: see `jaxreid.metrics.calibration.curve`.
        found: the thresholds.
        title: stands above the picture.
    """
    figure = Figure(figsize=(6, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    shown = curve[curve[:, 1] > 0]
    axes.plot(100 * shown[:, 1], 100 * shown[:, 2], linewidth=1.5)
    points = {
        f'up to {found.same:.4g}: "same"': (found.false_match.value, found.true_match.value, "o"),
        f'above {found.nobody:.4g}: "nobody"': (1 - found.cleared, 1 - found.lost.value, "s"),
    }
    for label, (false_match, true_match, marker) in points.items():
        axes.plot(100 * false_match, 100 * true_match, marker, label=label, fillstyle="none")
    axes.set_xscale("log")
    axes.set_xlabel("pairs of two persons within the distance (%)")
    axes.set_ylabel("pairs of one person within the distance (%)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save(figure, path)


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
    save(figure, path)


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
    save(figure, path)
    return True


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG, and the folder that it lies in."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
