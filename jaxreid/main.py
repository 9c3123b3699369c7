r"""Trains a config, scores it, and leaves checkpoints, figures and pictures in a folder.

    python -m jaxreid.main --config=duatm_market \
        --config.data.root=/data/Market-1501-v15.09.15 --workdir=runs/duatm

--config=help lists the configs that come with this package, --config=duatm_market:help the rows of
its paper's tables, and --config=duatm_market --help all keys that --config.KEY=VALUE can set.
"""

import functools
import logging
import operator
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
from absl import app, flags
from ml_collections import config_flags

from jaxreid import distributed, report, sharding
from jaxreid.checkpoint import Checkpoints, has_checkpoint
from jaxreid.command import (
    load_config,
    load_variants,
    parse_flags,
    profiled_steps,
    use_compilation_cache,
)
from jaxreid.config import Config, Eval, validate
from jaxreid.data import index
from jaxreid.data.sources import Source, open_source
from jaxreid.entry import outlive_the_reader, report_errors
from jaxreid.errors import UserError
from jaxreid.evaluate import Evaluation, Evaluator, make_evaluator
from jaxreid.paths import local_path
from jaxreid.preflight import check_run, open_others, setup
from jaxreid.protocol import describe
from jaxreid.series import run_splits, run_table, write_mean
from jaxreid.train import make_model, restore_or_start, train
from jaxreid.variants import tables_of
from jaxreid.workdir import claim_workdir, hold, of_the_protocol, scored_in

Mode = Literal["train_and_evaluate", "train", "evaluate"]

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config's name, or its file; NAME:VARIANT for a row of the paper."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: a new one, or one to go on with."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train_and_evaluate",
    get_args(Mode),
    "What to do. train scores nothing, and needs no query and no gallery.",
)
_DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "auto",
    "The processes of the run: auto (as SLURM, Open MPI or Kubernetes says; else one), off, or"
    " HOST:PORT,N,I: the coordinator's address, their number, and which of them this is.",
)
_DEADLINE = flags.DEFINE_float(
    "deadline",
    distributed.DEADLINE,
    "Seconds for which a process may be silent before the others give it up.",
    lower_bound=1.0,
)
_PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "FIRST:COUNT: trace COUNT steps of the training after FIRST others into WORKDIR/profile, for"
    " TensorBoard, XProf or Perfetto.",
)
_DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans",
    False,
    "Stop at the first operation whose result is not a number, with a traceback that names it. It"
    " is for the search of an error: every step waits for its result.",
)


def run(
    config: Config,
    workdir: Path,
    mode: Mode = "train_and_evaluate",
    profile: range = range(0),
) -> dict[str, Any]:
    """One run.

    Args:
        config: the run.
        workdir: its folder.
        mode: what to do.
        profile: steps that are traced, see `train`; of each split, where there are several.

    Returns:
        The scores, as in `eval/metrics.json`; with `mode="train"`, the step alone.

    Raises:
        UserError: anything that the user can put right.
        Interrupted: a signal stopped it; its state is saved.
    """
    validate(config)
    if config.data.validation is not None:  # The paper's figures are of the test set.
        config = config.without_figures()
    with hold(workdir):
        if config.data.split is None and (splits := index.NUM_SPLITS.get(config.data.name)):
            if mode == "train":
                raise UserError(
                    f"--mode=train: {config.data.name} comes in splits of its persons; expected"
                    f" --config.data.split=0 to {splits - 1}"
                )
            one = functools.partial(run, mode=mode, profile=profile)
            return run_splits(one, config, workdir, splits)
        return run_one(config, workdir, mode, profile)


def run_one(config: Config, workdir: Path, mode: Mode, profile: range) -> dict[str, Any]:
    """A run over one split of the data, in a folder that is held."""
    distributed.agree(setup(config), "the start")
    trains, scoring = mode != "evaluate", mode != "train"
    if not scoring and (config.eval.every or config.eval.data):
        key = "every" if config.eval.every else "data"
        raise UserError(
            f"config.eval.{key}={getattr(config.eval, key)}: --mode=train scores nothing; expected"
            f" {getattr(Eval(), key)}"
        )
    source, mesh = open_source(config.data), sharding.make_mesh()
    others = open_others(config)
    for each in (source, *others.values()):
        bodies = [each.bodies.summary] if each.bodies else []
        print(each.data.summary(), *index.warnings(each.data), *bodies, sep="\n", flush=True)
    model = make_model(config, source)
    evaluate: Evaluator = _nothing
    if scoring and (config.eval.every or not others):
        evaluate = make_evaluator(config, model, source, mesh)
    elsewhere = {
        folder: make_evaluator(config, model, other, mesh, trained_on=source)
        for folder, other in others.items()
    }
    started = has_checkpoint(workdir)
    # All that can be wrong with the input is found before the folder is this run's.
    check_run(config, source, list(others.values()), mesh, trains=trains, starts=not started)
    fingerprint = source.data.fingerprint()
    of_others = {name: other.data.fingerprint() for name, other in others.items()}
    facts = {"the data": fingerprint, **of_others, f"checkpoint in {workdir}": started}
    distributed.agree(facts, "the data")
    if distributed.is_first():
        claim_workdir(config, workdir, fingerprint, source.data.num_ids, started)
    distributed.require_shared(workdir / "config.json")
    if trains:
        state = train(
            config, workdir, source, mesh, lambda variables: evaluate(variables).scores, profile
        )
        if not scoring:
            print(f"trained to step {int(state.step)} in {workdir}; not scored", flush=True)
            return {"step": int(state.step)}
    else:
        if not started:
            print(f"no checkpoint in {workdir}: scoring the network as it starts", flush=True)
        with Checkpoints(workdir) as checkpoints:
            state = restore_or_start(checkpoints, config, source, mesh)

    def score(folder: Path, evaluate: Evaluator, source: Source) -> dict[str, Any]:
        evaluation = evaluate(state.scored, config.eval.lengths)
        evaluation = evaluation._replace(scores={**evaluation.scores, "step": int(state.step)})
        print(f"step {int(state.step)}, {describe(evaluation.scores)}", flush=True)
        # A host whose processor rounds in another way would rank in another way.
        distributed.agree({"scores": evaluation.scores}, "the scores")
        if distributed.is_first():
            variables = jax.device_get(state.scored)  # The others are not called on to compute.
            report.write(folder, config, source, model, variables, evaluation)
        print(f"report: {folder / 'report.html'}, pictures: {folder / 'eval'}", flush=True)
        return evaluation.scores

    if not others:
        return score(workdir, evaluate, source)
    scored, _ = index.split_place(config.eval.data or "")
    whole, part = config, config.without_figures()
    if scored != config.paper_data:  # The figures are of other data.
        whole = part
    config = whole if len(others) == 1 else part
    scores = [score(workdir / at, elsewhere[at], other) for at, other in others.items()]
    if len(scores) == 1:
        return scores[0]
    return write_mean(workdir / scored_in(config), whole, scores)


def _nothing(*_: Any) -> Evaluation:
    raise AssertionError("this run has nothing to score")


def main(argv: list[str]) -> None:
    """The command."""

    def command() -> None:
        if argv[1:]:
            raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
        jax.config.update("jax_debug_nans", _DEBUG_NANS.value)
        distributed.start(_DISTRIBUTED.value, _DEADLINE.value)
        workdir, mode = Path(local_path(_WORKDIR.value or "")), cast(Mode, _MODE.value)
        flag, config = flags.FLAGS["config"], _CONFIG.value
        name, _, variant = config_flags.get_config_filename(flag).partition(":")
        number = variant.removeprefix("table")
        profile = profiled_steps(_PROFILE.value, trains=mode != "evaluate")
        if variant.startswith("table") and number in tables_of(load_variants(name)):
            keys = config_flags.get_override_values(flag)
            changes = {key: operator.attrgetter(key)(config) for key in keys}
            if profile:
                raise UserError(f"--profile={_PROFILE.value}: expected one row, not a whole table")
            if mode == "train":
                raise UserError("--mode=train: expected one row, not a whole table")
            row, trains = functools.partial(run, mode=mode), mode == "train_and_evaluate"
            run_table(row, name, number, changes, workdir, trains=trains)
        else:
            printed = load_config(name, *filter(None, [variant]))
            run(of_the_protocol(config, printed), workdir, mode, profile)

    logging.getLogger("jax").setLevel(logging.WARNING)  # It tells which accelerators are not here.
    # Outside the training loop there is nothing to save, and either ends the process.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    use_compilation_cache()
    outlive_the_reader()
    try:
        code = report_errors(command)
    except Exception as error:
        distributed.give_up(error)
        raise
    distributed.end(code)
    sys.exit(code)


if __name__ == "__main__":
    flags.register_validator("config", bool, "expected a config (--config=help lists some)")
    flags.register_validator("workdir", bool, "expected a folder for the run")
    sys.exit(report_errors(lambda: app.run(main, flags_parser=parse_flags)))
