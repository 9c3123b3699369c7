r"""Trains a config, scores it, and leaves checkpoints, figures and pictures in a folder.

    python -m jaxreid.main --config=duatm_market \
        --config.data.root=/data/Market-1501-v15.09.15 --workdir=runs/duatm

--config=help lists the configs that come with this package, --config=duatm_market:help the rows of
its paper's tables, and --config=duatm_market --help all keys that --config.KEY=VALUE can set.
"""

import dataclasses
import errno
import functools
import logging
import operator
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from jaxreid import __version__, distributed, report, sharding
from jaxreid.checkpoint import FOLDER, Checkpoints, has_checkpoint
from jaxreid.config import (
    Config,
    claim_workdir,
    find_config,
    flat_keys,
    load_config,
    load_variants,
    parse_flags,
    same_training,
    validate,
)
from jaxreid.data import index
from jaxreid.data.decode import find_broken
from jaxreid.data.sources import Source, open_source
from jaxreid.errors import Interrupted, UserError
from jaxreid.evaluate import Evaluator, describe, make_evaluator
from jaxreid.lock import hold
from jaxreid.report import tables
from jaxreid.train import (
    check_batches,
    check_clips,
    check_model,
    first_epoch_rows,
    make_model,
    restore_or_start,
    train,
)
from jaxreid.variants import tables_of

Mode = Literal["train_and_evaluate", "evaluate"]

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config's name, or its file; NAME:VARIANT for a row of the paper."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: a new one, or one to go on with."
)
_MODE = flags.DEFINE_enum("mode", "train_and_evaluate", get_args(Mode), "What to do.")
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
        The scores, as in `eval/metrics.json`.

    Raises:
        UserError: anything that the user can put right.
        Interrupted: a signal stopped it; its state is saved.
    """
    validate(config)
    with hold(workdir):
        if config.data.split is None and (splits := index.NUM_SPLITS.get(config.data.name)):
            return run_splits(config, workdir, mode, splits, profile)
        return run_one(config, workdir, mode, profile)


def run_one(config: Config, workdir: Path, mode: Mode, profile: range) -> dict[str, Any]:
    """A run over one split of the data, in a folder that is held."""
    distributed.agree(setup(config), "the start")
    source, mesh = open_source(config.data), sharding.make_mesh()
    others = open_others(config)
    for each in (source, *others.values()):
        bodies = [each.bodies.summary] if each.bodies else []
        print(each.data.summary(), *index.warnings(each.data), *bodies, sep="\n", flush=True)
    for other in others.values():
        check_clips(config, other)
    model = make_model(config, source)
    evaluate = make_evaluator(config, model, source, mesh)
    elsewhere = {
        folder: make_evaluator(config, model, other, mesh, trained_on=source)
        for folder, other in others.items()
    }
    trains, started = mode == "train_and_evaluate", has_checkpoint(workdir)
    # All that can be wrong with the input is found before the folder is this run's.
    if trains:
        check_batches(config, source, mesh)
    check_model(config, source, mesh, trains=trains, starts=not started)
    if trains and config.data.check and config.data.source != "tfds":
        check_files(config, source, *others.values())
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
    else:
        if not started:
            print(f"no checkpoint in {workdir}: scoring the network as it starts", flush=True)
        with Checkpoints(workdir) as checkpoints:
            state = restore_or_start(checkpoints, config, source, mesh)

    def score(folder: Path, evaluate: Evaluator, source: Source) -> dict[str, Any]:
        evaluation = evaluate(state.variables, config.eval.lengths)
        evaluation = evaluation._replace(scores={**evaluation.scores, "step": int(state.step)})
        print(f"step {int(state.step)}, {describe(evaluation.scores)}", flush=True)
        # A host whose processor rounds in another way would rank in another way.
        distributed.agree({"scores": evaluation.scores}, "the scores")
        if distributed.is_first():
            variables = jax.device_get(state.variables)  # The others are not called on to compute.
            report.write(folder, config, source, model, variables, evaluation)
        print(f"report: {folder / 'report.html'}, pictures: {folder / 'eval'}", flush=True)
        return evaluation.scores

    if not others:
        return score(workdir, evaluate, source)
    config = dataclasses.replace(config, paper={}, paper_source="")  # They are of the data's own.
    scores = [score(workdir / at, elsewhere[at], other) for at, other in others.items()]
    if len(scores) == 1:
        return scores[0]
    return write_mean((workdir / next(iter(others))).parent, config, scores)


def open_others(config: Config) -> dict[str, Source]:
    """What `config.eval.data` names, each split by the folder that takes its scores.

    Raises:
        UserError: it is not there, or not what it should be.
    """
    if config.eval.data is None:
        return {}
    name, _, root = config.eval.data.partition(":")
    splits = index.NUM_SPLITS.get(name)
    folders = {f"on_{name}/split{n}": n for n in range(splits)} if splits else {f"on_{name}": None}
    try:
        return {
            folder: open_source(dataclasses.replace(config.data, name=name, root=root, split=split))
            for folder, split in folders.items()
        }
    except UserError as error:
        raise UserError(f"config.eval.data={config.eval.data}: {error}") from None


def run_table(
    name: str, number: str, changes: Mapping[str, Any], workdir: Path, mode: Mode
) -> None:
    """The rows of a paper's table one after another, each in `workdir/<variant>`.

    A row that is done, training and scores, is not run again. Rows that differ in the scoring alone
    train once: the others start from a copy of the first one's checkpoints.

    Args:
        name: of the config file that has the rows.
        number: of the table.
        changes: to the config of every row, by keys such as `train.precision`.
        workdir: takes the rows, and the table as `table<number>.md`.
        mode: of every row.

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
        validate(configs[row])
    trained: list[tuple[Config, Path]] = []
    with hold(workdir):
        for i, (row, config) in enumerate(configs.items(), start=1):
            folder, count = workdir / row, f"row {i} of {len(configs)}, {row}"
            # Asked of one process: what another sees may be of a moment before.
            asked = distributed.is_first() and mode == "train_and_evaluate"
            if distributed.any_host(asked and is_done(folder, config), "the next row"):
                print(f"{count}: done before, in {folder}", flush=True)
            else:
                print(f"{count}: in {folder}", flush=True)
                if mode == "train_and_evaluate":
                    for other, base in trained:
                        if same_training(config, other):
                            lend_training(base, folder)
                run(config, folder, mode)
            trained.append((config, folder))
        if distributed.is_first():
            runs, _ = tables.find_runs([workdir])
            text = tables.to_markdown(tables.fill([find_config(name)], number, runs))
            out = workdir / f"table{number}.md"
            out.write_text(text, encoding="utf-8")
            print(f"\n{text}\nwritten: {out}", flush=True)


def is_done(folder: Path, config: Config) -> bool:
    """Whether a folder holds the run of a config, trained to its end and scored."""
    if not tables.is_run(folder):
        return False
    there = tables.read_run(folder)
    same = not tables.differences(there.config, config, tables.NO_MATTER)
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


def run_splits(
    config: Config, workdir: Path, mode: Mode, splits: int, profile: range
) -> dict[str, Any]:
    """A run for each split of the data set, in `workdir/split0`, ...; the scores are their mean."""
    scores = []
    for split in range(splits):
        print(f"split {split}, {splits} in all", flush=True)
        cache = config.data.cache and f"{config.data.cache}/split{split}"
        data = dataclasses.replace(config.data, split=split, cache=cache)
        # The paper's figures are of all splits.
        one = dataclasses.replace(config, data=data, paper={}, paper_source="")
        scores.append(run(one, workdir / f"split{split}", mode, profile))
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
    }
    report.write_report(workdir, **common)
    page = report.write_page(
        workdir, **common, splits={f"split{n}": one for n, one in enumerate(scores)}
    )
    print(f"report: {page}", flush=True)
    return mean


def setup(config: Config) -> dict[str, Any]:
    """What all processes of a run must have alike. Where the data lies may differ."""
    here = {
        "jaxreid": __version__,
        "jax": jax.__version__,
        "devices of a process": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
    }
    keys = flat_keys(config.to_dict(), "config.")
    return here | {k: keys[k] for k in keys.keys() - {"config.data.root", "config.data.cache"}}


def check_files(config: Config, source: Source, *others: Source) -> None:
    """Decodes every file that the first epoch and the scoring read; each process takes its share.

    Raises:
        UserError: some do not decode; names the first ones.
    """
    train = source.data.train
    paths = [train.path(row) for row in first_epoch_rows(config, source)]
    for data in [each.data for each in others or (source,)]:
        for split in (data.query, data.gallery):
            paths += [split.path(row) for row in range(split.size)]
    paths = list(dict.fromkeys(paths))
    print(f"decoding {len(paths)} files to check them", flush=True)
    if broken := find_broken(paths[jax.process_index() :: jax.process_count()]):
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
        print(f"jaxreid: error: {distributed.name()}{error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"jaxreid: error: {distributed.name()}{where}{error.strerror}", file=sys.stderr)
        return 2
    except distributed.Lost as lost:
        print(f"jaxreid: error: {distributed.name()}{lost}", file=sys.stderr, flush=True)
        return distributed.LOST
    except Interrupted as stopped:
        print(f"jaxreid: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:  # Outside the training loop there is nothing to save.
        print("jaxreid: stopped; the same command goes on from here", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def profiled_steps(text: str | None, mode: Mode) -> range:
    """The steps that `--profile` names; none without it.

    Raises:
        UserError: it is not written FIRST:COUNT, or there is no training to trace.
    """
    if text is None:
        return range(0)
    found = re.fullmatch(r"(\d+):([1-9]\d*)", text)
    if not found:
        raise UserError(f"--profile={text}: expected FIRST:COUNT, as in 10:5")
    if mode != "train_and_evaluate":
        raise UserError(f"--profile={text}: --mode={mode} does not train")
    first, count = map(int, found.groups())
    return range(first, first + count)


def main(argv: list[str]) -> None:
    """The command."""

    def command() -> None:
        if argv[1:]:
            raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
        distributed.start(_DISTRIBUTED.value, _DEADLINE.value)
        workdir, mode = Path(_WORKDIR.value or ""), cast(Mode, _MODE.value)
        flag, config = flags.FLAGS["config"], _CONFIG.value
        name, _, variant = config_flags.get_config_filename(flag).partition(":")
        number = variant.removeprefix("table")
        profile = profiled_steps(_PROFILE.value, mode)
        if variant.startswith("table") and number in tables_of(load_variants(name)):
            keys = config_flags.get_override_values(flag)
            changes = {key: operator.attrgetter(key)(config) for key in keys}
            if profile:
                raise UserError(f"--profile={_PROFILE.value}: expected one row, not a whole table")
            run_table(name, number, changes, workdir, mode)
        else:
            run(config, workdir, mode, profile)

    logging.getLogger("jax").setLevel(logging.WARNING)  # It tells which accelerators are not here.
    # Outside the training loop there is nothing to save, and either ends the process.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    use_compilation_cache()
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
    app.run(main, flags_parser=parse_flags)
