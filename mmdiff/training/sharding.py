"""Shapes in, where each array lives on the mesh out. Knows nothing of layers; models know nothing of it."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from mmdiff.training.config import ConfigError
from mmdiff.training.state import TrainState

SHARDED_FROM = 2**16  # smaller parameters are replicated: gathering them costs more than it saves


def make_mesh(fsdp: int) -> Mesh:
    """All devices as ("data", "fsdp"): batches are split over both, big parameters between steps over `fsdp` (0: all).

    Raises ConfigError where the devices do not divide.
    """
    # Auto: a contrastive product of two sharded batches is left to the compiler. `make_mesh` would say Explicit.
    return jax.make_mesh(
        mesh_shape(jax.device_count(), fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto)
    )


def mesh_shape(devices: int, fsdp: int) -> tuple[int, int]:
    """Sizes of the mesh's axes. Raises ConfigError where the devices do not divide."""
    if devices % (fsdp or devices):
        raise ConfigError(f"train.fsdp={fsdp} does not divide the {devices} devices there are")
    return devices // (fsdp or devices), fsdp or devices


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


class Placement(NamedTuple):
    """Where parameters, and what has their shapes, live while examples use them, in an update, and between steps."""

    used: NamedSharding
    updated: dict
    kept: dict


def parameter_placement(mesh: Mesh, params) -> Placement:
    """Used whole on every device; updated in shares, one for each device (the first stage of ZeRO, arXiv 1910.02054).

    Between steps parameters are split over `fsdp` and alike along `data`.
    """
    return Placement(
        replicated(mesh),
        split_arrays(mesh, params, ("data", "fsdp")),
        split_arrays(mesh, params, ("fsdp",)),
    )


def used_whole(mesh: Mesh, params):
    """Inside a program: parameters gathered for the examples, so that activations follow the examples alone."""
    return params if mesh.size == 1 else jax.lax.with_sharding_constraint(params, replicated(mesh))


def state_sharding(mesh: Mesh, state: TrainState) -> TrainState:
    """Where each array of a state of these shapes lives between steps: the optimizer's in shares, as it is updated."""
    params = split_arrays(mesh, state.params, ("fsdp",))
    return TrainState(replicated(mesh), params, split_arrays(mesh, state.opt_state, ("data", "fsdp")), replicated(mesh))


def split_arrays(mesh: Mesh, tree, axes: tuple[str, ...]):
    """For each array of a tree: along its largest axis that these axes of the mesh divide, if it is large."""
    parts = math.prod(mesh.shape[axis] for axis in axes)

    def place(array) -> NamedSharding:
        spec: list = [None] * len(array.shape)
        if parts > 1 and math.prod(array.shape) >= SHARDED_FROM:
            divisible = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
            if divisible:
                spec[max(divisible, key=lambda axis: array.shape[axis])] = axes
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, tree)


def put_batch(mesh: Mesh, batch):
    """This host's examples as its part of the global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def put_key(mesh: Mesh, key: Key[Array, ""]) -> Key[Array, ""]:
    """A key that every host has, on every device."""
    return jax.jit(jax.random.wrap_key_data, out_shardings=replicated(mesh))(np.asarray(jax.random.key_data(key)))
