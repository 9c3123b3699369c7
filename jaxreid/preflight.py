"""What is made sure of before a run begins: its data sets, its files, and that processes agree."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxreid import __version__
from jaxreid.config import Config, flat_keys
from jaxreid.data import index
from jaxreid.data.decode import find_broken
from jaxreid.data.sources import Source, open_source
from jaxreid.errors import UserError
from jaxreid.train import check_batches, check_clips, check_model, first_epoch_rows
from jaxreid.workdir import scored_in


def open_others(config: Config) -> dict[str, Source]:
    """What `config.eval.data` names, each split by the folder that takes its scores.

    Raises:
        UserError: it is not there, or not what it should be.
    """
    if config.eval.data is None:
        return {}
    name, root = index.split_place(config.eval.data)
    splits = index.NUM_SPLITS.get(name)
    folder = scored_in(config)
    folders = {f"{folder}/split{n}": n for n in range(splits)} if splits else {folder: None}
    try:
        return {
            folder: open_source(
                dataclasses.replace(config.data, name=name, root=root, split=split, validation=None)
            )
            for folder, split in folders.items()
        }
    except UserError as error:
        raise UserError(f"config.eval.data={config.eval.data}: {error}") from None


def setup(config: Config) -> dict[str, Any]:
    """What all processes of a run must have alike. Where the data lies may differ."""
    here = {
        "jaxreid": __version__,
        "jax": jax.__version__,
        "devices of a process": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
    }
    keys = flat_keys(config.to_dict(), "config.")
    return here | {k: keys[k] for k in keys.keys() - {"config.data.root", "config.data.cache"}}


def check_run(
    config: Config,
    source: Source,
    others: Sequence[Source],
    mesh: Mesh,
    *,
    trains: bool,
    starts: bool,
) -> None:
    """Finds what is wrong with the input before the run's folder is claimed.

    Args:
        config: the run.
        source: what is trained on.
        others: what is scored in its place, if anything is.
        mesh: of the devices.
        trains: whether it is to be trained.
        starts: whether it has no checkpoint. Files are decoded then only: once is enough.

    Raises:
        UserError: batches cannot be filled, clips do not fit, the model cannot take them, or files
            do not decode.
    """
    for other in others:
        check_clips(config, other)
    if trains:
        check_batches(config, source, mesh)
    check_model(config, source, mesh, trains=trains, starts=starts)
    if trains and starts and config.data.check and config.data.source != "tfds":
        check_files(config, source, *others)


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
