"""What a scored run leaves for a reader."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxreid.config import Config
from jaxreid.data.sources import Source
from jaxreid.evaluate import Evaluation
from jaxreid.logs import read_metrics
from jaxreid.report.curves import plot_cmc, plot_lengths
from jaxreid.report.markdown import write_report
from jaxreid.report.page import Looks, write_page
from jaxreid.report.pictures import plot_attention, plot_clips, plot_ranked
from jaxreid.report.shown import partners, ranked_rows
from jaxreid.report.words import run_title
from jaxreid.types import ReidModel, Variables


def write(
    workdir: Path,
    config: Config,
    source: Source,
    model: ReidModel,
    variables: Variables,
    evaluation: Evaluation,
) -> None:
    """Everything that a scored run leaves for a reader: `eval/`, `report.md` and `report.html`.

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
    by_camera = {
        camid: {"rank1": float(of.cmc[0]), "mAP": of.mean_ap, "num_valid": of.num_valid}
        for camid, of in evaluation.by_camera.items()
        if of.num_valid
    }
    (folder / "cameras.json").write_text(json.dumps(by_camera, indent=2) + "\n")
    (folder / "cmc.json").write_text(json.dumps(evaluation.ranking.cmc.tolist()) + "\n")
    plot_cmc(folder / "cmc.png", {"this run": evaluation.ranking.cmc}, scores["data"])
    plot_ranked(folder / "ranked.png", ranked_rows(source, shown, config))
    looks = None
    if model.explain is not None:
        batch = partners(source, shown, config)
        maps = jax.device_get(jax.jit(model.explain)(variables, batch))
        looks = Looks(batch, maps)
        plot = plot_attention if batch.images.ndim == 4 else plot_clips
        plot(folder / "attention.png", batch.images, maps)
    for name in ("lengths.json", "lengths.png"):  # of an earlier scoring
        (folder / name).unlink(missing_ok=True)
    if evaluation.by_length is not None:
        figures = {"lengths": config.eval.lengths, "rank1": evaluation.by_length.tolist()}
        (folder / "lengths.json").write_text(json.dumps(figures) + "\n")
        plot_lengths(folder / "lengths.png", evaluation.by_length, config.eval.lengths)
    common: dict[str, Any] = {
        "config": config.to_dict(),
        "scores": scores,
        "paper": config.paper,
        "paper_source": config.paper_source,
        "history": read_metrics(workdir / "metrics.jsonl"),
        "title": run_title(config, scores),
    }
    write_report(workdir, **common)
    write_page(
        workdir,
        **common,
        cmc=evaluation.ranking.cmc,
        rows=ranked_rows(source, evaluation.leaves, config, farther=True),
        looks=looks,
        by_camera=evaluation.by_camera,
        lengths=config.eval.lengths,
        by_length=evaluation.by_length,
    )


def write_scores(workdir: Path, scores: Mapping[str, Any]) -> None:
    """Writes `eval/metrics.json`."""
    path = workdir / "eval" / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores, indent=2) + "\n")
