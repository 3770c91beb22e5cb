"""A state and a batch in, the next state and metrics out; knows neither video nor text."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from mmdiff.training.sharding import Placement, batch_sharding, parameter_placement, replicated, state_sharding
from mmdiff.training.state import TrainState


@runtime_checkable
class Objective(Protocol):
    """What a run makes small: called, it gives the loss of a batch and metrics that are averages over its examples."""

    couples: bool  # examples of one update enter each other's loss, wherever accumulation splits them

    def __call__(
        self, params: dict, batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]: ...

    def examples(self, batch, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, ""] | Float[Array, ""]:
        """How much a batch weighs beside others: how many of its examples, or places that the loss is a mean of, are real."""

    def without_remat(self) -> "Objective":
        """The same, with nothing computed twice to save memory."""


# What of a step needs no parameters: (batch, key, step) -> (the batch that the objective is given, metrics of its masks).
Draw = Callable[[Any, Key[Array, ""], Int[Array, ""]], tuple[Any, dict[str, Array]]]


@runtime_checkable
class Coupling(Objective, Protocol):
    """An objective that `couples`: its loss is `compare` of what `represent` makes of each example."""

    def represent(self, params: dict, batch, key: Key[Array, ""], step: Int[Array, ""]) -> Any:
        """What is made of each example by itself: a tree of arrays [b, ...]."""

    def compare(self, params: dict, represented: Any) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss and metrics of it."""


def split(batch, parts: int):
    """Microbatches of a batch along a new first axis; neighbours in the batch go to different ones.

    So each keeps its examples on the device that holds them.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def joined(parts):
    """The batch that `split` had split."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)


def in_parts(objective: Coupling, parts: int):
    """The objective over a batch of which a part at a time is on the devices, as if all of it were.

    Only what is made of each example is kept from one part to the next; in the backward pass each part is made again (as
    in gradient caching, arXiv 2101.06983), so that it costs one more forward pass than `averaged`.
    """

    def whole(params, batch, key, step):
        @jax.checkpoint
        def represent(params, part):
            return objective.represent(params, part, key, step)

        _, represented = jax.lax.scan(lambda _, part: (None, represent(params, part)), None, split(batch, parts))
        return objective.compare(params, joined(represented))

    return whole


def averaged(objective: Objective, parts: int):
    """(gradients, metrics) of microbatches by themselves, averaged by their `examples`: each compares only its own."""
    gradient = jax.grad(objective, has_aux=True)

    def weighed(params, part, key, step):
        weight = objective.examples(part, key, step).astype(jnp.float32)
        found = gradient(params, part, key, step)
        return weight, jax.tree.map(lambda x: weight * x, found)

    def average(params, batch, key, step):
        microbatches = split(batch, parts)

        def add(total, part):
            return jax.tree.map(jnp.add, total, weighed(params, part, key, step)), None

        shapes = jax.eval_shape(weighed, params, jax.tree.map(lambda x: x[0], microbatches), key, step)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (weight, summed), _ = jax.lax.scan(add, zeros, microbatches)
        return jax.tree.map(lambda x: x / jnp.maximum(weight, 1), summed)

    return average


def make_gradient(objective: Objective, accumulation: int):
    """(params, batch, key, step) -> (gradients, metrics) of a batch, `accumulation` parts of it one after another."""
    if accumulation == 1:
        return jax.grad(objective, has_aux=True)
    if objective.couples:
        return jax.grad(in_parts(objective, accumulation), has_aux=True)
    return averaged(objective, accumulation)


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    placement: Placement | None = None,
    branch: bool = True,
):
    """The function to jit: (state, batch, key) -> (state, metrics), the gradient in `accumulation` parts, then one update.

    The key is an argument so that runs with other seeds share one compiled program. The metrics are the objective's,
    `gradient_norm`, a 2-norm over all parameters, and `finite`. `placement` says where parameters are, on more than one
    device. A step whose loss or gradient is NaN or infinite changes nothing, not even the count of steps, and neither do
    those after it: the parameters that it was taken with are still there. With `branch` the update is skipped as a whole,
    which on a CPU takes a seventh of the time of choosing for each number whether it changes; a TPU fuses the choice, and
    a branch costs it 3% more memory traffic.
    """
    gradient = make_gradient(objective, accumulation)

    def place(params, part: str):
        return params if placement is None else jax.lax.with_sharding_constraint(params, getattr(placement, part))

    def train_step(state: TrainState, batch, key: Key[Array, ""]) -> tuple[TrainState, dict[str, Array]]:
        # Weights go to the examples. Left to itself, the compiler splits activations as weights or moments are split.
        grads, metrics = gradient(place(state.params, "used"), batch, key, state.step)
        # A gradient is summed over the devices before it is shared out, or the split would spread into the backward pass.
        grads, params = place(place(grads, "used"), "updated"), place(state.params, "updated")
        norm = optax.tree.norm(grads)
        finite = state.finite & jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)

        def update(params, opt_state):
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        before = params, state.opt_state
        if branch:
            params, opt_state = jax.lax.cond(finite, update, lambda *unchanged: unchanged, *before)
        else:
            params, opt_state = jax.tree.map(functools.partial(jnp.where, finite), update(*before), before)
        metrics |= {"gradient_norm": norm, "finite": finite}
        return TrainState(state.step + finite, place(params, "kept"), opt_state, finite), metrics

    return train_step


def update_size(before: dict, after: dict) -> dict[str, Array]:
    """`update_norm`, by how much parameters changed, and `update_ratio`, that as a share of them, in 2-norms over all."""
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after, before))
    return {"update_norm": moved, "update_ratio": moved / optax.tree.norm(before)}


def first_state(params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state of a run before its first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.ones((), bool))


def jit_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    mesh: Mesh,
    shapes: TrainState,
):
    """`make_train_step` on a mesh, for a state of these shapes, which it is given up to and returns placed alike."""
    shardings = state_sharding(mesh, shapes)
    placement = parameter_placement(mesh, shapes.params) if mesh.size > 1 else None
    return jax.jit(
        make_train_step(objective, optimizer, accumulation, placement, branch=mesh.devices.flat[0].platform == "cpu"),
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )


def model_flops(objective: Objective, params, batch) -> float:
    """FLOPs of the loss and gradient of a batch as they are defined, on all devices together.

    Counted before the compiler sees them: without what is computed twice to save memory, without the optimizer. `params` and
    `batch` may be shapes. 0 where JAX_PLATFORMS leaves the CPU out.
    """
    plain = jax.value_and_grad(objective.without_remat(), has_aux=True)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, batch))
    try:
        cpu = jax.local_devices(backend="cpu")[0]  # JAX counts on no other: not for a TPU, not for a GPU
    except RuntimeError:
        return 0.0
    with jax.default_device(cpu):
        lowered = jax.jit(plain).lower(*shapes, jax.random.key(0), jnp.zeros((), jnp.int32))
        return float((lowered.cost_analysis() or {}).get("flops", 0.0))


def step_flops(lowered, objective: Objective, accumulation: int, params, batch) -> float:
    """The model FLOPs of a step: those of `lowered`, the step as the compiler gets it, wherever it computes nothing twice.

    It saves tracing the model again; the update's own FLOPs are in it, less than a thousandth.
    """
    once = accumulation == 1 and objective.without_remat() == objective
    counted = (lowered.cost_analysis() or {}).get("flops", 0.0) if once else 0.0
    return counted or model_flops(objective, params, batch)
