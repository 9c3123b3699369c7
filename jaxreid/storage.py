"""Vectors of a gallery, kept in float32, float16 or int8, in memory and in files."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxreid import npz
from jaxreid.errors import UserError, nearest

Storage = Literal["float32", "float16", "int8"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
MAX_INT8 = 127  # -128 is left unused, so that a vector and its negative are stored alike.

Vectors = Shaped[np.ndarray, "g d"] | Shaped[Array, "g d"]

# How many items are converted at once.
PART = 65_536


class Stored(NamedTuple):
    """Vectors as they are kept.

    An int8 vector has a scale of its own, its largest magnitude / 127. A scale for each dimension
    would have to span the largest item of the whole gallery, so one odd item would coarsen all
    others, and items that come later might not fit. Four bytes more for each item is the price.

    Attributes:
        values: float32, float16 or int8.
        scales: of int8 values: the vector is `scales * values`. None for the others.
    """

    values: Shaped[Any, "g d"]
    scales: Float[Any, " g"] | None = None

    @property
    def size(self) -> int:
        """How many vectors."""
        return self.values.shape[0]

    def take(self, rows: slice | Int[np.ndarray, " n"]) -> "Stored":
        """Some of the vectors."""
        return Stored(*(part if part is None else part[rows] for part in self))

    @property
    def bytes_per_item(self) -> int:
        """Of one vector and its scale."""
        scale = 0 if self.scales is None else self.scales.dtype.itemsize
        return self.values.shape[1] * self.values.dtype.itemsize + scale


def store(features: Vectors, storage: Storage) -> Stored:
    """Features in float32 (4 bytes a number), float16 (2) or int8 (1, and 4 for each item).

    Args:
        features: one vector in each row. float32 ones are not copied where they stay so.
        storage: which. What it costs of mAP: `storage_loss`.

    Raises:
        UserError: there is no such storage, or the features do not fit it.
    """
    if storage not in STORAGES:
        raise UserError(
            f"storage is {storage!r}; expected {', '.join(STORAGES[:-1])} or {STORAGES[-1]}"
            f"{nearest(storage, STORAGES)}"
        )
    features = np.asarray(features)
    as_is = storage == "float32"
    values = features.astype(np.float32, copy=False) if as_is else np.empty(features.shape, storage)
    scales = np.ones(len(features), np.float32) if storage == "int8" else None
    limit = np.finfo(np.float16 if storage == "float16" else np.float32).max
    for start in range(0, len(features), PART):
        rows = slice(start, start + PART)
        part = features[rows].astype(np.float32, copy=False)
        # NaN is not below the limit either.
        fits = np.abs(part).max(axis=1, initial=0) <= limit
        if not fits.all():
            raise UserError(
                f"the features of item {start + np.argmin(fits)} are not all finite and within"
                f" {limit:.5g} of zero; expected so for storage {storage}"
            )
        if storage == "float16":
            values[rows] = part
        elif scales is not None:
            scale = np.abs(part).max(axis=1, initial=0) / MAX_INT8
            scales[rows] = scale = np.where(scale > 0, scale, np.float32(1))
            values[rows] = np.rint(part / scale[:, None]).clip(-MAX_INT8, MAX_INT8)
    return Stored(values, scales)


def restore(block: Stored) -> Float[Array, "g d"]:
    """Vectors in float32, on the device."""
    values = jnp.asarray(block.values).astype(jnp.float32)
    return values if block.scales is None else values * jnp.asarray(block.scales)[:, None]


def save(path: Path, stored: Stored) -> None:
    """Writes one `.npz`, not compressed: `values`, and `scales` where there are any.

    Raises:
        UserError: nothing can be written there.
    """
    arrays = {name: part for name, part in stored._asdict().items() if part is not None}
    npz.write(path, "the features", arrays)


def load(path: Path) -> Stored:
    """Reads what `save` wrote. Nothing in the file is run, and it is not larger in memory.

    Raises:
        UserError: the file is missing, damaged, or another's.
    """
    expected = "expected stored features, as jaxreid.search.save writes them ({})"
    return npz.read(path, _parse, expected)


def _parse(arrays: Any) -> Stored:
    names = set(arrays.files)
    if not {"values"} <= names <= set(Stored._fields):
        raise ValueError(f"it holds {', '.join(sorted(names)) or 'nothing'}")
    values = arrays["values"]
    scales = arrays["scales"] if "scales" in names else None
    if values.ndim != 2 or values.dtype not in STORAGES:
        raise ValueError(f"its values are {values.dtype} of shape {values.shape}")
    if (scales is not None) != (values.dtype == np.int8):
        raise ValueError("scales belong to int8 values, and only to those")
    if scales is not None and (scales.dtype, scales.shape) != (np.float32, values.shape[:1]):
        raise ValueError(f"its scales are {scales.dtype} of shape {scales.shape}")
    if scales is not None and not np.all((scales > 0) & np.isfinite(scales)):
        raise ValueError("a scale is not a positive number")
    return Stored(values, scales)
