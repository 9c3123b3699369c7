"""Several runs one after another: the rows of a paper's table, and the splits of a data set."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxreid import distributed, report
from jaxreid.checkpoint import FOLDER, has_checkpoint
from jaxreid.command import find_config, load_config, load_variants
from jaxreid.config import Config, validate
from jaxreid.errors import UserError
from jaxreid.protocol import describe
from jaxreid.report import tables
from jaxreid.report.words import run_title
from jaxreid.variants import tables_of
from jaxreid.workdir import (
    NO_MATTER,
    differences,
    hold,
    is_run,
    of_the_protocol,
    read_run,
    same_training,
)

Run = Callable[[Config, Path], dict[str, Any]]


def run_table(
    run: Run, name: str, number: str, changes: Mapping[str, Any], workdir: Path, *, trains: bool
) -> None:
    """The rows of a paper's table one after another, each in `workdir/<variant>`.

    A row that is done, training and scores, is not run again. Rows that differ in the scoring alone
    train once: the others start from a copy of the first one's checkpoints.

    Args:
        run: one run of a config, in a folder.
        name: of the config file that has the rows.
        number: of the table.
        changes: to the config of every row, by keys such as `train.precision`.
        workdir: takes the rows, and the table as `table<number>.md`.
        trains: whether the rows are trained, or scored alone.

    Raises:
        UserError: a change is of what the rows differ in; and whatever a run raises.
    """
    configs = {}
    for row, variant in tables_of(load_variants(name))[number].items():
        configs[row] = load_config(name, row)
        for key, value in changes.items():
            if key in variant.changes:
                raise UserError(
                    f"--config.{key}={value}: Table {number} is of its effect, and its row {row}"
                    f" has {variant.changes[key]}"
                )
            *path, last = key.split(".")
            setattr(functools.reduce(getattr, path, configs[row]), last, value)
        configs[row] = of_the_protocol(configs[row], load_config(name, row))
        validate(configs[row])
    before: list[tuple[Config, Path]] = []
    with hold(workdir):
        for i, (row, config) in enumerate(configs.items(), start=1):
            folder, count = workdir / row, f"row {i} of {len(configs)}, {row}"
            # Asked of one process: what another sees may be of a moment before.
            asked = distributed.is_first() and trains
            if distributed.any_host(asked and is_done(folder, config), "the next row"):
                print(f"{count}: done before, in {folder}", flush=True)
            else:
                print(f"{count}: in {folder}", flush=True)
                if trains:
                    for other, base in before:
                        if same_training(config, other):
                            lend_training(base, folder)
                run(config, folder)
            before.append((config, folder))
        if distributed.is_first():
            runs, _ = tables.find_runs([workdir])
            text = tables.to_markdown(tables.fill([find_config(name)], number, runs))
            out = workdir / f"table{number}.md"
            out.write_text(text, encoding="utf-8")
            print(f"\n{text}\nwritten: {out}", flush=True)


def is_done(folder: Path, config: Config) -> bool:
    """Whether a folder holds the run of a config, trained to its end and scored."""
    if not is_run(folder):
        return False
    there = read_run(folder)
    same = not differences(there.config, config, NO_MATTER)
    return bool(same and there.scores and not there.unfinished)


def lend_training(base: Path, folder: Path) -> None:
    """Copies what the training of one run has left into the folder of another, if it has none."""
    for source in (base, *sorted(base.glob("split*"))):
        to = folder / source.relative_to(base)
        if not has_checkpoint(source):
            continue
        if distributed.is_first() and not has_checkpoint(to):
            print(f"{to}: trained as {source} was, whose checkpoints are copied", flush=True)
            shutil.rmtree(to / "lent", ignore_errors=True)
            shutil.copytree(source / FOLDER, to / "lent")
            shutil.copy2(source / "metrics.jsonl", to)
            shutil.rmtree(to / FOLDER, ignore_errors=True)
            (to / "lent").rename(to / FOLDER)  # A copy that was killed half-way is not there.
        distributed.require_shared(to / FOLDER)


def run_splits(run: Run, config: Config, workdir: Path, splits: int) -> dict[str, Any]:
    """A run for each split of the data set, in `workdir/split0`, ...; the scores are their mean."""
    scores = []
    for split in range(splits):
        print(f"split {split}, {splits} in all", flush=True)
        cache = config.data.cache and f"{config.data.cache}/split{split}"
        data = dataclasses.replace(config.data, split=split, cache=cache)
        # The paper's figures are of all splits.
        one = dataclasses.replace(config.without_figures(), data=data)
        scores.append(run(one, workdir / f"split{split}"))
    return write_mean(workdir, config, scores)


def write_mean(workdir: Path, config: Config, scores: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the splits, printed and written as a run's own scores are."""
    mean = {
        key: float(np.mean([s[key] for s in scores])) if isinstance(value, float) else value
        for key, value in scores[0].items()
    } | {"split": f"mean of {len(scores)}"}
    print(f"all splits, {describe(mean)}", flush=True)
    if not distributed.is_first():
        return mean
    report.write_scores(workdir, mean)
    common: dict[str, Any] = {
        "config": config.to_dict(),
        "scores": mean,
        "paper": config.paper,
        "paper_source": config.paper_source,
        "title": run_title(config, mean),
    }
    report.write_report(workdir, **common)
    page = report.write_page(
        workdir, **common, splits={f"split{n}": one for n, one in enumerate(scores)}
    )
    print(f"report: {page}", flush=True)
    return mean
