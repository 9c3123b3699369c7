r"""Trains a config, scores it, and leaves checkpoints, figures and pictures in a folder.

    python -m jaxreid.main --config=configs/duatm_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 --workdir=runs/duatm
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
from absl import app, flags
from ml_collections import config_flags

from jaxreid import report, sharding
from jaxreid.checkpoint import Checkpoints
from jaxreid.config import Config, claim_workdir, parse_flags, validate
from jaxreid.data import index
from jaxreid.data.decode import find_broken
from jaxreid.data.sources import Source, open_source
from jaxreid.errors import Interrupted, UserError
from jaxreid.evaluate import describe, make_evaluator
from jaxreid.train import first_epoch_rows, init_state, make_model, train

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
    source, mesh = open_source(config.data), sharding.make_mesh()
    print(source.data.summary(), *index.warnings(source.data), sep="\n", flush=True)
    claim_workdir(config, workdir, source.data.fingerprint())
    model = make_model(config, source, flip=config.eval.flip)
    evaluate = make_evaluator(config, model, source, mesh)
    if mode == "train_and_evaluate":
        if config.data.check and config.data.source == "files":
            check_files(config, source)
        state = train(config, workdir, source, mesh, lambda variables: evaluate(variables).scores)
    else:
        state = init_state(config, source, mesh)
        with Checkpoints(workdir) as checkpoints:
            found = checkpoints.restore(state)
        if found is None:
            print(f"no checkpoint in {workdir}: scoring the network as it starts", flush=True)
        state = found or state
    evaluation = evaluate(state.variables)
    report.write(workdir, config, source, model, state.variables, evaluation)
    print(f"step {int(state.step)}, {describe(evaluation.scores)}", flush=True)
    print(f"report: {workdir / 'report.md'}, pictures: {workdir / 'eval'}", flush=True)
    return evaluation.scores


def check_files(config: Config, source: Source) -> None:
    """Decodes every file that the first epoch and the scoring read.

    Raises:
        UserError: some do not decode; names the first ones.
    """
    splits = source.data.splits
    paths = [splits["train"].path(row) for row in first_epoch_rows(config, source)]
    for split in (splits["query"], splits["gallery"]):
        paths += [split.path(row) for row in range(split.size)]
    if broken := find_broken(paths):
        rest = f" (and {len(broken) - 3} more files)" if len(broken) > 3 else ""
        raise UserError("; ".join(broken[:3]) + rest)


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told another place."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxreid" / "xla"))


def main(argv: list[str]) -> None:
    """The command."""
    del argv
    use_compilation_cache()
    try:
        run(_CONFIG.value, Path(_WORKDIR.value or ""), cast(Mode, _MODE.value))
    except UserError as error:
        print(f"jaxreid: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        print(f"jaxreid: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:  # Outside the training loop there is nothing to save.
        print(
            "jaxreid: stopped; the same command goes on from the last checkpoint", file=sys.stderr
        )
        sys.exit(130)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
