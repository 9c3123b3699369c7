"""Checkpoints: a thin wrapper over Orbax that saves, restores, and keeps the newest and the best.

A save that is killed half-way leaves a folder that the next start ignores.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers as policies

from jaxreid.errors import UserError
from jaxreid.types import TrainState, Variables

FOLDER = "checkpoints"
BEST = "mAP"


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: where they are.
    """

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        """Opens `workdir/checkpoints`, which need not exist.

        Args:
            workdir: of the run.
            keep: how many of the newest are kept, besides the one with the best mAP.
        """
        _quiet_orbax()
        self.folder = (workdir / FOLDER).absolute()
        preserve = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                policies.BestN(
                    get_metric_fn=lambda m: m[BEST], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preserve, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, state: TrainState, scores: dict[str, float] | None = None) -> None:
        """Writes the state; returns when it is on disk. A step that is there is left alone.

        Args:
            step: steps taken.
            state: what to save.
            scores: of this step, where it was scored; the best `mAP` is kept for good.
        """
        if step in self._manager.all_steps():
            return
        metrics = {BEST: float(scores[BEST])} if scores else None
        self._manager.save(step, args=ocp.args.StandardSave(_to_tree(state)), metrics=metrics)

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest state, laid out over the devices as `like` is; None if there is none.

        Raises:
            UserError: what is there belongs to another network.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _to_tree(like))
        folder = self.folder / str(step)
        # Checked here, and not left to Orbax: its threads go on after an error.
        there, here = _shapes(_structure(folder)), _shapes(target)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise UserError(
                    f"{folder}: not a checkpoint of this network ({name}: there"
                    f" {there.get(name, 'nothing')}, expected {here.get(name, 'nothing')})"
                )
        tree = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        tree["opt_state"] = jax.tree.unflatten(
            jax.tree.structure(like.opt_state), tree["opt_state"]
        )
        return TrainState(**tree)

    def __enter__(self) -> "Checkpoints":
        """Ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases Orbax's threads."""
        self._manager.close()


def has_checkpoint(workdir: str | Path) -> bool:
    """Whether a run has left a complete checkpoint in `workdir`."""
    return bool(_steps(Path(workdir)))


def load_variables(workdir: str | Path, step: int | None = None) -> Variables:
    """The variables of a run's checkpoint, as NumPy arrays.

    Args:
        workdir: of the run.
        step: which checkpoint; by default the newest.

    Raises:
        UserError: there is no checkpoint, or none of that step.
    """
    _quiet_orbax()
    folder, steps = (Path(workdir) / FOLDER).absolute(), _steps(Path(workdir))
    if not steps:
        splits = [path for path in Path(workdir).glob("split*") if has_checkpoint(path)]
        if splits:
            raise UserError(
                f"{workdir}: holds the runs of {len(splits)} splits and no checkpoint of its own;"
                f" give the folder of one of them, such as {min(splits)}"
            )
        raise UserError(f"{folder}: no checkpoint there; train with --workdir={workdir} first")
    if step is not None and step not in steps:
        there = ", ".join(map(str, sorted(steps)))
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {there}")
    path = folder / str(max(steps) if step is None else step)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _structure(path))
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(path / "default", ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {"params": tree["params"], **tree["model_state"]}


def _steps(workdir: Path) -> list[int]:
    folder = (workdir / FOLDER).absolute()
    return list(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def _structure(folder: Path) -> Any:
    """What a checkpoint holds, as a tree of shapes and types."""
    # Not by a checkpointer: it would look for the whole step's metadata beside the tree's.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.metadata(folder / "default").tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _to_tree(state: TrainState) -> dict[str, Any]:
    # The optimiser's state as a list: its nesting holds empty tuples, which Orbax refuses.
    return {**state._asdict(), "opt_state": jax.tree.leaves(state.opt_state)}


def _quiet_orbax() -> None:
    """Keeps Orbax's progress notes out of the run's output; its warnings stay."""

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or "orbax" not in record.pathname

    handler = absl_logging.get_absl_handler()
    if not handler.filters:
        handler.addFilter(keep)
