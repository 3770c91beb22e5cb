"""Predictions and targets in, the symmetric contrastive loss between them out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmdiff.models.reserve import unit_normalize


class Contrast(NamedTuple):
    """Both losses average two directions: prediction to target and target to prediction."""

    loss: Float[Array, ""]  # what is minimised
    masked_loss: Float[Array, ""]  # over and among the rows that hold something
    accuracy: Float[Array, ""]  # share of predictions whose nearest target is their own


def logit_scale(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """What cosines are multiplied with before the softmax, never more than 100."""
    return jnp.exp(jnp.minimum(log_scale.astype(jnp.float32), np.log(100.0)))


def scaled(x: Float[Array, "*b d"], log_scale: Float[Array, ""]) -> Float[Array, "*b d"]:
    """Unit vectors times the square root of the scale of their products."""
    return unit_normalize(x) * jnp.sqrt(logit_scale(log_scale)).astype(x.dtype)


def one_hot_pool(
    do_pool: Bool[Array, "b n"], index: Int[Array, "b n"], x: Float[Array, "b n d"], slots: int
) -> Float[Array, "b s d"]:
    """Slot `s` is the sum of the rows with `do_pool` whose index is `s`; a slot without rows is zero."""
    to_slot = jax.nn.one_hot(index, slots, dtype=x.dtype) * do_pool[..., None].astype(x.dtype)
    return jnp.einsum("bns,bnd->bsd", to_slot, x)


def contrast(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    rows: Bool[Array, " n"],
    empty_rows_count: bool = False,
    round_numerator: bool = False,
) -> Contrast:
    """InfoNCE (arXiv 1807.03748) between rows of `x` and `y`, in both directions, in float32.

    Args:
      x: predictions, from `scaled`; zero where `rows` is false.
      y: their targets, likewise.
      rows: which rows hold something. With none, the loss is 0.
      empty_rows_count: leave the other, zero rows in the mean and among the negatives, as the original does; each
        then adds log(n), and the logged loss measures how clustered the mask is.
      round_numerator: compute the matching pair's logit in the inputs' type, as the original does.
    """
    logits = jnp.einsum("nd,md->nm", x, y, preferred_element_type=jnp.float32)
    own = (x * y).sum(axis=-1).astype(jnp.float32) if round_numerator else jnp.diagonal(logits)
    among = jnp.where(rows[:, None] & rows[None, :], logits, -jnp.inf)
    count = jnp.maximum(rows.sum(), 1)

    def mean_loss(logits, weight, total):
        # A row outside `rows` may have nothing to sum over: its loss is replaced, so that no NaN enters a gradient.
        to_target = jax.nn.logsumexp(jnp.where(weight[:, None], logits, 0.0), axis=1) - own
        to_prediction = jax.nn.logsumexp(jnp.where(weight[None, :], logits, 0.0), axis=0) - own
        return jnp.where(weight, to_target + to_prediction, 0.0).sum() / (2 * total)

    masked_loss = mean_loss(among, rows, count)
    loss = mean_loss(logits, jnp.ones_like(rows), rows.shape[0]) if empty_rows_count else masked_loss
    right = jnp.argmax(among, axis=1) == jnp.arange(rows.shape[0])
    return Contrast(loss, masked_loss, (right & rows).sum() / count)
