"""A state and a batch in, the next state and metrics out; knows neither video nor text."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

# (params, batch, key, step) -> (loss, metrics)
Objective = Callable[..., tuple[Float[Array, ""], dict[str, Array]]]


class TrainState(NamedTuple):
    """Everything that a step changes."""

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformation, accumulation: int, key: Key[Array, ""]
):
    """The function to jit: gradients averaged over `accumulation` microbatches, then one update."""

    def gradient(params, batch, step):
        (_, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params, batch, key, step)
        return metrics, grads

    def train_step(state: TrainState, batch) -> tuple[TrainState, dict[str, Array]]:
        if accumulation == 1:
            metrics, grads = gradient(state.params, batch, state.step)
        else:
            # Neighbours go to different microbatches, so that each keeps its examples on the device that holds them.
            micro = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)

            def add(total, part):
                return jax.tree.map(jnp.add, total, gradient(state.params, part, state.step)), None

            part = jax.tree.map(lambda x: x[0], micro)
            shapes = jax.eval_shape(gradient, state.params, part, state.step)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            summed, _ = jax.lax.scan(add, zeros, micro)
            metrics, grads = jax.tree.map(lambda x: x / accumulation, summed)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {"gradient_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step
