"""Checkpoints: a thin wrapper over Orbax that saves, restores, and keeps the newest and the best.

A save that is killed half-way leaves a folder that the next start removes. Beside a checkpoint's
files lie their checksums: Orbax reads some flipped bits without a word, and where it does find
damage its threads go on, so what is damaged is found before Orbax sees it.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers as policies

from jaxreid import distributed
from jaxreid.errors import UserError
from jaxreid.types import TrainState, Variables

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"
BEST = "mAP"
_OLD = "old"


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: where they are.
    """

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        """Opens `workdir/checkpoints`, which need not exist.

        What a killed save left is removed. A damaged checkpoint is set aside, under another name,
        and that is said.

        Args:
            workdir: of the run. No other process may be at work there.
            keep: how many of the newest are kept, besides the one with the best mAP.

        Raises:
            UserError: there are checkpoints, and all of them are damaged.
        """
        _quiet_orbax()
        self.folder = (workdir / FOLDER).absolute()
        if distributed.is_first():
            _tidy(self.folder)
        distributed.barrier("the checkpoints")
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
                preservation_policy=preserve,
                best_fn=lambda m: m[BEST],  # Without it the scores are forgotten at the end.
                todelete_subdir=_OLD,  # Deleting is not done at once, and may be cut short.
                enable_async_checkpointing=False,
            ),
        )

    def save(self, step: int, state: TrainState, scores: dict[str, float] | None = None) -> None:
        """Writes the state; returns when it is on disk. A step that is there is left alone.

        Args:
            step: steps taken.
            state: what to save.
            scores: of this step, where it was scored; the best `mAP` is kept for good.

        Raises:
            UserError: it cannot be written, as when the disk is full. Earlier ones are as they
                were.
        """
        if step in self._manager.all_steps():
            return
        metrics = {BEST: float(scores[BEST])} if scores else None
        tree = ocp.args.StandardSave(_to_tree(state))
        try:
            with distributed.limited(f"saving step {step}"):
                self._manager.save(step, args=tree, metrics=metrics)
            if distributed.is_first():
                _write_checksums(self.folder / str(step))
                shutil.rmtree(self.folder / _OLD, ignore_errors=True)
        except (OSError, ValueError) as error:
            reason = _disk_error(error)
            if reason is None:
                raise
            _drop_unfinished(self.folder)
            free = shutil.disk_usage(self.folder).free / 1e6
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
            newest = max(_steps(self.folder), default=0)
            raise UserError(
                f"{self.folder}: cannot save step {step} ({reason}): about {needed:.3g} MB needed,"
                f" {free:.3g} MB free; the same command goes on from step {newest}"
            ) from error

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
        with distributed.limited(f"restoring step {step}"):
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
    return bool(_steps(Path(workdir) / FOLDER))


def load_variables(workdir: str | Path, step: int | None = None) -> Variables:
    """The variables of a run's checkpoint, as NumPy arrays; their average where the run kept one.

    Args:
        workdir: of the run.
        step: which checkpoint; by default the newest that is not damaged. If others are newer,
            that is said.

    Raises:
        UserError: there is no checkpoint, or none of that step, or it is damaged.
    """
    _quiet_orbax()
    folder = (Path(workdir) / FOLDER).absolute()
    steps = _steps(folder)
    if not steps:
        # Of splits, of a table's rows, of the demo.
        if runs := [path for path in Path(workdir).glob("*") if has_checkpoint(path)]:
            names = ", ".join(sorted(path.name for path in runs))
            raise UserError(
                f"{workdir}: has no checkpoint of its own; expected the folder of one of the runs"
                f" in it: {names}"
            )
        raise UserError(f"{folder}: no checkpoint there; train with --workdir={workdir} first")
    if step is not None and step not in steps:
        there = ", ".join(map(str, sorted(steps)))
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {there}")
    damage: dict[int, str] = {}
    for candidate in sorted(steps, reverse=True) if step is None else [step]:
        what = _damage(folder / str(candidate))
        if what is None:
            break
        damage[candidate] = what
    else:
        raise UserError(_all_damaged(folder, damage))
    for newer, what in damage.items():
        print(f"{folder / str(newer)}: damaged ({what}); step {candidate} is used", flush=True)
    tree = _read(folder / str(candidate))
    return tree.get("average") or {"params": tree["params"], **tree["model_state"]}


def _steps(folder: Path) -> list[int]:
    return list(ocp.utils.checkpoint_steps(folder.absolute())) if folder.is_dir() else []


def _tidy(folder: Path) -> None:
    """Removes what is unfinished, and sets aside what is damaged."""
    _drop_unfinished(folder)
    found = {step: _damage(folder / str(step)) for step in sorted(_steps(folder))}
    damage = {step: what for step, what in found.items() if what is not None}
    if damage and len(damage) == len(found):
        raise UserError(_all_damaged(folder, damage))
    for step, what in damage.items():
        names = (f"{step}.damaged{n or ''}" for n in itertools.count())
        aside = next(folder / name for name in names if not (folder / name).exists())
        (folder / str(step)).rename(aside)
        newest = max(found.keys() - damage.keys())
        print(
            f"{folder / str(step)}: damaged ({what}), and set aside as {aside.name}; the newest"
            f" checkpoint that is whole is of step {newest}",
            flush=True,
        )


def _all_damaged(folder: Path, damage: dict[int, str]) -> str:
    steps = ", ".join(f"{step}: {what}" for step, what in sorted(damage.items()))
    return (
        f"{folder}: damaged ({steps}), and no other checkpoint is there; without that folder the"
        " same command starts from the beginning"
    )


def _damage(step: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is what was written."""
    try:
        if not (step / CHECKSUMS).is_file():
            # Written by an earlier version, or killed just before its checksums were.
            _read(step)
            return None
        sums = dict(json.loads((step / CHECKSUMS).read_bytes()))
        for name, expected in sums.items():
            if not (step / name).is_file():
                return f"{name} is missing"
            if _checksum(step / name) != expected:
                return f"{name} is not what was written"
    except Exception as error:  # Orbax raises nearly every kind.
        return " ".join(str(error).split())[:120]
    return None


def _write_checksums(step: Path) -> None:
    files = sorted(path for path in step.rglob("*") if path.is_file())
    sums = {path.relative_to(step).as_posix(): _checksum(path) for path in files}
    temporary = step / f"{CHECKSUMS}.tmp"
    with temporary.open("w") as file:
        json.dump(sums, file, indent=0)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(step / CHECKSUMS)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop_unfinished(folder: Path) -> None:
    for path in (*folder.glob("*.orbax-checkpoint-tmp*"), folder / _OLD):
        shutil.rmtree(path, ignore_errors=True)


def _disk_error(error: Exception) -> str | None:
    """The system's words for why a file could not be written; None if that was not the reason."""
    if isinstance(error, OSError):
        return error.strerror
    found = re.search(r"([^:]+) \[os_error_code=", str(error))
    return found and found.group(1).strip()


def _read(step: Path) -> Any:
    """A checkpoint, as NumPy arrays."""
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _structure(step))
    # Not by a checkpointer: it would wait for the other processes, and look for more metadata.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        restore = ocp.args.PyTreeRestore(restore_args=as_numpy)
        return handler.restore(step / "default", args=restore)


def _structure(folder: Path) -> Any:
    """What a checkpoint holds, as a tree of shapes and types."""
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
    tree = {**state._asdict(), "opt_state": jax.tree.leaves(state.opt_state)}
    return {name: part for name, part in tree.items() if part is not None}


def _quiet_orbax() -> None:
    """Keeps Orbax's progress notes out of the run's output; its warnings stay.

    So do the errors that it raises. The same ones out of its threads, and what becomes of those
    threads' work afterwards, are kept out, too.
    """

    def keep(record: logging.LogRecord) -> bool:
        if "orbax" not in record.pathname:
            return True
        # Of a thread's error; and of a step that was not scored.
        known = record.module == "future" or "tracked_metric" in str(record.msg)
        return record.levelno >= logging.WARNING and not known

    logger, of_tasks = absl_logging.get_absl_logger(), logging.getLogger("asyncio")
    if not logger.filters:
        logger.addFilter(keep)
        of_tasks.addFilter(lambda record: "orbax" not in record.getMessage())
    previous = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    if getattr(previous, "__qualname__", None) != report.__qualname__:
        sys.unraisablehook = report
