r"""Trains a config, scores it, and leaves checkpoints, figures and pictures in a folder.

    python -m jaxreid.main --config=configs/duatm_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 --workdir=runs/duatm
"""

import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from jaxreid import report, sharding
from jaxreid.checkpoint import Checkpoints, has_checkpoint
from jaxreid.config import Config, claim_workdir, parse_flags, validate
from jaxreid.data import index
from jaxreid.data.decode import find_broken
from jaxreid.data.sources import Source, open_source
from jaxreid.errors import Interrupted, UserError
from jaxreid.evaluate import describe, make_evaluator
from jaxreid.train import (
    check_batches,
    check_model,
    first_epoch_rows,
    make_model,
    restore_or_start,
    train,
)

Mode = Literal["train_and_evaluate", "evaluate"]

_CONFIG = config_flags.DEFINE_config_file("config", None, "A config file, or file.py:variant.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: a new one, or one to go on with."
)
_MODE = flags.DEFINE_enum("mode", "train_and_evaluate", get_args(Mode), "What to do.")


def run(config: Config, workdir: Path, mode: Mode = "train_and_evaluate") -> dict[str, Any]:
    """One run.

    Returns:
        The scores, as in `eval/metrics.json`.

    Raises:
        UserError: anything that the user can put right.
        Interrupted: a signal stopped it; its state is saved.
    """
    validate(config)
    if config.data.split is None and (splits := index.NUM_SPLITS.get(config.data.name)):
        return run_splits(config, workdir, mode, splits)
    source, mesh = open_source(config.data), sharding.make_mesh()
    print(source.data.summary(), *index.warnings(source.data), sep="\n", flush=True)
    evaluate = make_evaluator(config, make_model(config, source), source, mesh)
    trains, started = mode == "train_and_evaluate", has_checkpoint(workdir)
    # All that can be wrong with the input is found before the folder is this run's.
    if trains:
        check_batches(config, source, mesh)
    check_model(config, source, mesh, starts=not started)
    if trains and config.data.check and config.data.source != "tfds":
        check_files(config, source)
    claim_workdir(config, workdir, source.data.fingerprint(), started)
    if trains:
        state = train(config, workdir, source, mesh, lambda variables: evaluate(variables).scores)
    else:
        if not started:
            print(f"no checkpoint in {workdir}: scoring the network as it starts", flush=True)
        with Checkpoints(workdir) as checkpoints:
            state = restore_or_start(checkpoints, config, source, mesh)
    evaluation = evaluate(state.variables)
    print(f"step {int(state.step)}, {describe(evaluation.scores)}", flush=True)
    report.write(workdir, config, source, state.variables, evaluation)
    print(f"report: {workdir / 'report.md'}, pictures: {workdir / 'eval'}", flush=True)
    return evaluation.scores


def run_splits(config: Config, workdir: Path, mode: Mode, splits: int) -> dict[str, Any]:
    """A run for each split of the data set, in `workdir/split0`, ...; the scores are their mean."""
    scores = []
    for split in range(splits):
        print(f"split {split}, {splits} in all", flush=True)
        data = dataclasses.replace(config.data, split=split)
        # The paper's figures are of all splits.
        one = dataclasses.replace(config, data=data, paper={}, paper_source="")
        scores.append(run(one, workdir / f"split{split}", mode))
    mean = {
        key: float(np.mean([s[key] for s in scores])) if isinstance(value, float) else value
        for key, value in scores[0].items()
    } | {"split": f"mean of {splits}"}
    print(f"all splits, {describe(mean)}", flush=True)
    report.write_scores(workdir, mean)
    page = report.write_report(
        workdir,
        config=config.to_dict(),
        scores=mean,
        paper=config.paper,
        paper_source=config.paper_source,
    )
    print(f"report: {page}", flush=True)
    return mean


def check_files(config: Config, source: Source) -> None:
    """Decodes every file that the first epoch and the scoring read.

    Raises:
        UserError: some do not decode; names the first ones.
    """
    splits = source.data.splits
    paths = [splits["train"].path(row) for row in first_epoch_rows(config, source)]
    for split in (splits["query"], splits["gallery"]):
        paths += [split.path(row) for row in range(split.size)]
    print(f"decoding {len(set(paths))} files to check them", flush=True)
    if broken := find_broken(paths):
        rest = f" (and {len(broken) - 3} more files)" if len(broken) > 3 else ""
        raise UserError("; ".join(broken[:3]) + rest)


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told another place."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxreid" / "xla"))


def report_errors(command: Callable[[], object]) -> int:
    """Runs a command; what a user can put right, or asked for, is one line and an exit code."""
    try:
        command()
    except UserError as error:
        print(f"jaxreid: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(f"jaxreid: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:  # Outside the training loop there is nothing to save.
        print("jaxreid: stopped; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def main(argv: list[str]) -> None:
    """The command."""

    def command() -> None:
        if argv[1:]:
            raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
        run(_CONFIG.value, Path(_WORKDIR.value or ""), cast(Mode, _MODE.value))

    use_compilation_cache()
    sys.exit(report_errors(command))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
