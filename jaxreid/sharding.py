"""One mesh with one axis, over which batches and galleries are split."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxreid.errors import UserError

AXIS = "data"
T = TypeVar("T", bound=PyTree)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices in a row. Axes are Auto: the compiler finds the communication."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def put(tree: T, sharding: NamedSharding) -> T:
    """Host arrays to global arrays; each process gives the rows of its own devices."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def own_rows(size: int, sharding: NamedSharding) -> slice:
    """Which rows of an array of `size` rows lie on this process's devices, which are neighbours."""
    indices = sharding.addressable_devices_indices_map((size,)).values()
    bounds = [index[0].indices(size) for index in indices if index is not None]
    return slice(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def round_up(number: int, multiple: int) -> int:
    """The next multiple of a number."""
    return -(-number // multiple) * multiple


def require_divisible(number: int, mesh: Mesh, what: str) -> None:
    """Raises `UserError` unless `number` splits evenly over the devices."""
    if number % mesh.size:
        below = number // mesh.size * mesh.size
        near = f"{below} or {below + mesh.size}" if below else f"{mesh.size}"
        raise UserError(
            f"{what} is {number}, which does not divide among {mesh.size} devices; {near} would"
        )
