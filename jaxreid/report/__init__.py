"""What a run leaves for a reader: `report.html`, `report.md` and the PNGs that the latter shows.

    python -m jaxreid.report parts --name=market1501 --root=/data/Market-1501 --out=parts.png

draws images with their joints and the boxes of the body's parts, and

    python -m jaxreid.report table --paper=duatm --table=1 runs/*

lays a paper's table out, with its figures and those of runs.
"""

from jaxreid.report.curves import plot_cmc, plot_lengths, plot_training
from jaxreid.report.markdown import write_report
from jaxreid.report.page import write_page
from jaxreid.report.pictures import (
    RankedRow,
    plot_attention,
    plot_clips,
    plot_parts,
    plot_ranked,
)
from jaxreid.report.run import write, write_scores

__all__ = [
    "RankedRow",
    "plot_attention",
    "plot_clips",
    "plot_cmc",
    "plot_lengths",
    "plot_parts",
    "plot_ranked",
    "plot_training",
    "write",
    "write_page",
    "write_report",
    "write_scores",
]
