"""`report.md`: the scores, the protocol, the pictures and the config of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxreid.report.curves import plot_training
from jaxreid.report.words import SCORES, percent, protocol

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


def write_report(
    workdir: str | Path,
    *,
    config: Mapping[str, Any],
    scores: Mapping[str, Any],
    paper: Mapping[str, Any] | None = None,
    paper_source: str = "",
    history: Sequence[Mapping[str, Any]] = (),
    title: str = "",
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
        title: what was run, see `run_title`; by default the folder's name.

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
        f"# {title or workdir.resolve().name}",
        "",
        "Scores in percent.",
        "",
        "| | " + " | ".join(SCORES[key] for key in columns) + " |",
        "|---" + "|---:" * len(columns) + "|",
        *(
            f"| {name} | " + " | ".join(percent(row.get(key)) for key in columns) + " |"
            for name, row in rows
            if row
        ),
        "",
        "## Protocol",
        "",
        *(f"- {line}" for line in protocol(scores)),
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
