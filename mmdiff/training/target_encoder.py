"""A run's parameters and a momentum in, a copy of the vision encoder that follows it slowly out.

The copy makes the targets of masked video (as the teacher of AttnMask and MST does, arXiv 2203.12719; momentum encoders:
arXiv 1911.05722). It lies among the parameters, so that it is sharded, saved and restored with them.
"""

import jax
import jax.numpy as jnp
import optax

from mmdiff.objectives.masked_video import TARGET_ENCODER


def add_target_encoder(params: dict) -> dict:
    """The same parameters and a copy of the vision encoder's."""
    # In buffers of its own: those of a run's state are donated to its next step.
    return params | {TARGET_ENCODER: jax.tree.map(jnp.copy, params["vision_encoder"])}


def without_target_encoder(params: dict) -> dict:
    """What is left for others to use: the model."""
    return {name: tree for name, tree in params.items() if name != TARGET_ENCODER}


def follow(optimizer: optax.GradientTransformation, momentum: float) -> optax.GradientTransformation:
    """The optimizer of the model, after whose update the copy goes 1 - momentum of the way to the new weights."""

    def init(params):
        return optimizer.init(without_target_encoder(params))

    def update(updates, state, params):
        updates, state = optimizer.update(without_target_encoder(updates), state, without_target_encoder(params))
        moved = jax.tree.map(
            lambda copy, weight, change: (1 - momentum) * (weight + change - copy),
            params[TARGET_ENCODER],
            params["vision_encoder"],
            updates["vision_encoder"],
        )
        return updates | {TARGET_ENCODER: moved}, state

    return optax.GradientTransformation(init, update)
