"""Shapes in, where each array lives on the mesh out. Knows nothing of layers; models know nothing of it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmdiff.training.config import ConfigError

SHARDED_FROM = 2**16  # smaller parameters are replicated: gathering them costs more than it saves


def make_mesh(fsdp: int) -> Mesh:
    """All devices as ("data", "fsdp"): batches are split over both, big parameters over `fsdp`.

    Raises ConfigError where the devices do not divide.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise ConfigError(f"train.fsdp={fsdp} does not divide the {devices} devices there are")
    # Auto: a contrastive product of two sharded batches is left to the compiler. `make_mesh` would say Explicit.
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def parameter_sharding(mesh: Mesh, tree):
    """For each array of a tree of parameters or optimizer state: along its largest axis that `fsdp` divides."""
    fsdp = mesh.shape["fsdp"]

    def place(array) -> NamedSharding:
        spec = [None] * len(array.shape)
        if fsdp > 1 and np.prod(array.shape) >= SHARDED_FROM:
            divisible = [axis for axis, size in enumerate(array.shape) if size % fsdp == 0]
            if divisible:
                spec[max(divisible, key=lambda axis: array.shape[axis])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, tree)


def put_batch(mesh: Mesh, batch):
    """This host's examples as its part of the global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
