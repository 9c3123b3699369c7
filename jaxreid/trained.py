"""A run's network from its folder alone: no data set, no TensorFlow."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxreid.config import Config, Data, Eval, Optim, Train, validate
from jaxreid.errors import UserError, nearest
from jaxreid.types import ReidModel, Variables

_SECTIONS = {"data": Data, "optim": Optim, "train": Train, "eval": Eval}


class Trained(NamedTuple):
    """A network that can be run.

    Attributes:
        config: of the run.
        model: the method's pure functions, as the run scores with them.
        variables: what they are given, as NumPy arrays.
        features: the shapes and types of the features of one item, with the leading axis 1.
    """

    config: Config
    model: ReidModel
    variables: Variables
    features: Any


def load(workdir: str | Path, step: int | None = None) -> Trained:
    """The network of a run.

    Args:
        workdir: of the run.
        step: of its checkpoint; by default the newest, whose scores the report gives.

    Raises:
        UserError: there is no such checkpoint, or it does not fit the run's `config.json`.
    """
    # These take a while to import.
    from jaxreid.checkpoint import load_variables
    from jaxreid.train import PRECISIONS, example_batch

    variables = load_variables(workdir, step)
    config, num_ids = read_config(Path(workdir))
    precision = PRECISIONS[config.train.precision]
    model = config.model.make(num_ids, dtype=precision, flip=config.eval.flip)
    try:
        batch = example_batch(config, config.scored_clip_length)
        features = jax.eval_shape(model.features, variables, batch)
    except Exception as error:  # Flax raises several kinds, and each lists the layers above it.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{workdir}: its checkpoint does not fit its config.json ({reason})"
        ) from error
    return Trained(config, model, variables, features)


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
        config = Config(model, **sections, paper=tree["paper"], paper_source=tree["paper_source"])
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
