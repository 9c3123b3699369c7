"""A run's folder: who may work in it, what is written there of the config, and what it says."""

import dataclasses
import fcntl
import importlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxreid import distributed
from jaxreid.config import Config, Data, Eval, Optim, Train, flat_keys, validate
from jaxreid.data import index
from jaxreid.errors import UserError, nearest
from jaxreid.logs import read_metrics

LOCK = "lock"
_SECTIONS = {"data": Data, "optim": Optim, "train": Train, "eval": Eval}

# What may change from one start of a run to the next: where the data lies, how it is read, and
# what is reported of it.
_FREE = (
    *("data.root", "data.check", "eval.", "model.test_", "paper"),
    *("train.checkpoint_every", "train.keep", "train.log_every"),
)
# Changes no figure.
NO_MATTER = frozenset(
    {
        "model.pretrained",
        *("data.root", "data.source", "data.check", "data.joints", "data.cache"),
        *("train.checkpoint_every", "train.keep", "train.log_every"),
        *("eval.every", "eval.batch_size", "eval.query_block", "eval.gallery_block"),
        *("eval.max_rank", "eval.pictures", "eval.lengths"),
    }
)
_OF_NO_ROW = NO_MATTER | {"train.seed", "train.precision"}


@contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of a workdir; of the processes of one run, the first does.

    The kernel's lock (`flock`) on `workdir/lock` goes with the process, however that ends; what
    the file says is for people alone. On NFS it holds between hosts, unless the folder is mounted
    with `nolock` or `local_lock`, and on Lustre with the option `flock` only: elsewhere it keeps
    processes of one host apart, or there is none, and that is said. Of a host that is lost, an NFS
    server keeps the lock for a minute or two.

    A folder that was made for the lock, and has got nothing else by the end, is removed.

    Raises:
        UserError: another process is at work there, or the folder cannot be written.
    """
    if not distributed.is_first():
        yield
        return
    path = workdir / LOCK
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except BlockingIOError:
        raise UserError(
            f"--workdir={workdir}: {_holder(path)} is at work there; wait for it, or give another"
            " --workdir"
        ) from None
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot write there ({error.strerror})") from None
    try:
        yield
    finally:
        with suppress(OSError):  # The folder is gone, or another process was faster.
            if os.listdir(workdir) == [LOCK]:
                path.unlink()
                workdir.rmdir()
        os.close(file)


def _locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise
        except OSError as error:
            print(f"{path}: no lock can be had there ({error.strerror}), so none is", flush=True)
        # The one that held it may have removed it meanwhile.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                break
        os.close(file)
    with suppress(OSError):  # The disk is full.
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    return file


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"


def same_training(one: Config, other: Config) -> bool:
    """Whether two runs are trained alike, and differ at most in the scoring."""
    a, b = flat_keys(one.to_dict()), flat_keys(other.to_dict())
    return all(a.get(key) == b.get(key) for key in a | b if not key.startswith(_FREE))


def claim_workdir(
    config: Config, workdir: Path, fingerprint: str, num_ids: int, started: bool = False
) -> None:
    """Writes `config.json`, or makes sure that the run there is this one.

    Args:
        config: the run.
        workdir: its folder.
        fingerprint: of the data.
        num_ids: training persons.
        started: whether it has a checkpoint. Where its weights came from is then history, which
            need not be given again and is kept.

    Raises:
        UserError: the folder holds a run with another config, or over other data.
    """
    path = workdir / "config.json"
    kind = type(config.model)
    # What `jaxreid.trained` needs to build the network again, without the data.
    of_network = {"method": f"{kind.__module__}.{kind.__qualname__}", "num_ids": num_ids}
    tree = {**config.to_dict(), **of_network, "fingerprint": fingerprint}
    if path.is_file():
        try:
            there = json.loads(path.read_text())
            theirs = of_network | flat_keys(there)  # A run of an earlier version has not got it.
            if started:
                tree["model"]["pretrained"] = there["model"].get("pretrained")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not the config of a run ({error})") from None
        ours = flat_keys(tree)
        differing = [
            f"{key}: there {theirs.get(key)!r}, now {ours.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key) and not key.startswith(_FREE)
        ]
        if any(change.startswith("fingerprint") for change in differing):
            raise UserError(
                f"--workdir={workdir} holds a run over other data: the images or labels of"
                f" {config.data.name} have changed since it began; give another --workdir"
            )
        if differing:
            raise UserError(
                f"--workdir={workdir} holds a run with another config ({'; '.join(differing)});"
                " give another --workdir, or the same config"
            )
    try:
        write_json(path, tree)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot write there ({error.strerror})") from None


def write_json(path: Path, tree: Any) -> None:
    """Writes it whole or not at all, and the folder that it lies in."""
    text = json.dumps(tree, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())  # Else a power cut can leave the new name with nothing in it.
    temporary.replace(path)


def read_config(workdir: Path) -> tuple[Config, int]:
    """What `config.json` in a run's folder says.

    Returns:
        The config, and the number of training persons.

    Raises:
        UserError: it is not there, it is damaged, or it is of a method that cannot be imported.
    """
    path = workdir / "config.json"
    try:
        tree = json.loads(path.read_bytes())
        if not {"method", "num_ids"} <= tree.keys():
            raise UserError(
                f"{path}: does not name its method, as it was written by an earlier version; run"
                f" jaxreid.main with the same --config, --workdir={workdir} and --mode=evaluate"
            )
        sections = {
            name: _filled(kind, tree[name], f"{path}: {name}") for name, kind in _SECTIONS.items()
        }
        model = _filled(_method(tree["method"], path), tree["model"], f"{path}: model")
        paper = {key: tree.get(key) for key in ("paper", "paper_source", "paper_data")}
        config = Config(model, **sections, **paper)
        validate(config)
        return config, int(tree["num_ids"])
    except FileNotFoundError as error:
        raise UserError(f"{path}: {error.strerror}; expected the folder of a run") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the config of a run ({error})") from None


def _method(name: str, path: Path) -> Any:
    """The dataclass of a method's choices, by its full name."""
    module, _, kind = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: the method {name} cannot be imported ({error}); expected its module where"
            " Python looks for modules (PYTHONPATH)"
        ) from None
    if not dataclasses.is_dataclass(found) or not hasattr(found, "make"):
        raise UserError(f"{path}: {name} is not the Config of a method")
    return found


def _filled(kind: Any, values: Any, where: str) -> Any:
    """A dataclass of values as JSON holds them. Those that are missing have their default."""
    known = [field.name for field in dataclasses.fields(kind)]
    filled = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    if unknown := [key for key in filled if key not in known]:
        raise UserError(
            f"{where} has a key {unknown[0]!r} that this version does not know"
            f"{nearest(unknown[0], known)}"
        )
    return kind(**filled)


def scored_in(config: Config) -> str:
    """Where in a run's folder its scores are: those of `config.eval.data` have one of their own."""
    return "." if config.eval.data is None else f"on_{index.split_place(config.eval.data)[0]}"


class Run(NamedTuple):
    """What a run's folder says of it.

    Attributes:
        folder: of the run.
        config: of the run; of a run over all splits of its data, as it was given.
        scores: of `eval/metrics.json`, see `scored_in`; none where it has not been scored.
        cmc: of `eval/cmc.json` beside it: the share matched within ranks 1, 2, ...; over splits,
            the mean of theirs. None where there are no scores or no such files.
        unfinished: how far the training has come that the scores are of; "" if to its end.
        when: it was last scored, or else begun, in seconds.
    """

    folder: Path
    config: Config
    scores: Mapping[str, Any]
    cmc: Float[np.ndarray, " _"] | None
    unfinished: str
    when: float


def is_run(folder: Path) -> bool:
    """Whether a run, of one split or of all, has been started in a folder."""
    return any((folder / name / "config.json").is_file() for name in (".", "split0"))


def read_run(folder: Path) -> Run:
    """What a run's folder says of it.

    Raises:
        UserError: its files cannot be read.
    """
    whole = (folder / "config.json").is_file()
    start = folder / ("." if whole else "split0") / "config.json"
    config, _ = read_config(start.parent)
    # The mean over splits of what is trained on is written by itself.
    path = folder / (scored_in(config) if whole else ".") / "eval" / "metrics.json"
    try:
        scores = dict(json.loads(path.read_bytes())) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not the scores of a run ({error})") from None
    cmc = _read_cmc(path.with_name("cmc.json")) if scores else None
    if whole:
        unfinished = _unfinished(folder, config, scores.get("step"))
    else:
        config.data.split, total = None, index.NUM_SPLITS.get(config.data.name)
        if total is None:
            raise UserError(
                f"{start}: a split of {config.data.name}, which does not come in splits"
            )
        splits = [folder / f"split{n}" for n in range(total)]
        done = sum(is_run(split) and not _unfinished(split, config) for split in splits)
        unfinished = f"{done} of {total} splits" if done < total else ""
    when = (path if scores else start).stat().st_mtime
    return Run(folder, config, scores, cmc, unfinished, when)


def _read_cmc(path: Path) -> Float[np.ndarray, " _"] | None:
    """The curve that is written there; or else, over splits, the mean of what is in their folders.

    Raises:
        UserError: a file is not a curve.
    """
    curves = []
    for file in [path] if path.is_file() else path.parent.parent.glob("split*/eval/cmc.json"):
        try:
            curves.append(np.array(json.loads(file.read_bytes()), float).reshape(-1))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file}: not the matches of a run ({error})") from None
    # Scorings with other lengths of the curve have the ranks of the shortest in common.
    length = min(map(len, curves), default=0)
    return np.mean([curve[:length] for curve in curves], axis=0) if length else None


def _unfinished(folder: Path, config: Config, scored: int | None = None) -> str:
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "epoch" in line]
    if not lines:
        return "not trained"
    step, epoch, of = lines[-1]["step"], lines[-1]["epoch"], config.train
    if of.steps and step < of.steps:
        return f"step {step} of {of.steps}"
    if not of.steps and epoch < of.epochs:
        return f"epoch {epoch:.4g} of {of.epochs}"
    return f"scored at step {scored} of {step}" if scored not in (None, step) else ""


def differences(run: Config, row: Config, no_matter: Iterable[str] = _OF_NO_ROW) -> list[str]:
    """What makes a run another one than a row, as in "optim.lr 0.02, not 0.01"."""
    theirs, ours = _facts(run), _facts(row)
    keys = [k for k in (ours | theirs) if k not in no_matter and not k.startswith("paper")]
    return [
        f"{key} {theirs.get(key)}, not {ours.get(key)}"
        for key in keys
        if theirs.get(key) != ours.get(key)
    ]


def of_the_protocol(config: Config, printed: Config) -> Config:
    """A config, without the paper's figures where it is scored in another way than they are.

    Args:
        config: as a user changed it.
        printed: as the config file has it, with the paper's figures.
    """
    changed = [
        each
        for each in differences(config, printed, NO_MATTER | {"eval.data"})
        if each.startswith(("eval.", "model.test_"))
    ]
    if not changed or not config.paper:
        return config
    print(f"the paper's figures are left out: {'; '.join(changed)}", flush=True)
    return config.without_figures()


def _facts(config: Config) -> dict[str, Any]:
    """The config by its keys; of other data that is scored, the name and not the place."""
    facts = flat_keys(config.to_dict())
    if config.eval.data is not None:
        facts["eval.data"], _ = index.split_place(config.eval.data)
    return facts
