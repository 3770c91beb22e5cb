"""Draws masks by a program of its own, so that all strategies share the compiled program of the step."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from mmdiff.objectives.masked_language import MaskedLanguage
from mmdiff.training.sharding import batch_sharding
from mmdiff.training.train_step import Draw


def drawing(mesh: Mesh, draw: Draw) -> Draw:
    """`draw`, compiled for a mesh."""
    return jax.jit(draw, out_shardings=(batch_sharding(mesh), None))


def drawing_texts(mesh: Mesh, objective: MaskedLanguage, longest: int) -> Draw:
    """The masks of texts of any length by one program: as if of `longest` tokens, for padding changes no mask.

    What is compiled for each length does no more than add padding and take it away.
    """
    draw = drawing(mesh, objective.draw)

    def grown(x: Array) -> Array:
        return x if x.ndim == 1 else jnp.pad(x, [(0, 0), (0, max(longest - x.shape[1], 0))])

    grow = jax.jit(lambda batch: jax.tree.map(grown, batch), out_shardings=batch_sharding(mesh))
    shorten = jax.jit(objective.shortened, static_argnums=1, out_shardings=batch_sharding(mesh))

    def drawn(batch, key, step):
        found, metrics = draw(grow(batch), key, step)
        return shorten(found, batch.tokens.shape[1]), metrics

    return drawn
