"""Scores and groups in, a mask with exactly the budget out.

One primitive serves every strategy. Each unit's score gets Gumbel noise drawn once per group, and the best units are
taken: with log-weights as scores that is sampling groups without replacement in proportion to their weights
(arXiv 2305.14577, equation 4; the Gumbel top-k trick, arXiv 1903.06059), with equal scores it is uniform, and
without noise it is top-k.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32


def choose(
    key: Key[Array, ""],
    score: Float[Array, " n"],
    group: Int[Array, " n"],
    eligible: Bool[Array, " n"],
    budget: Int[Array, ""] | int,
    noise: float = 1.0,
) -> Bool[Array, " n"]:
    """Exactly `budget` of the eligible units, or all of them where there are fewer.

    Members of a group fall together, wanted as much as the one of them that is wanted most; at most one group is cut, at
    random, by the budget. The outcome depends neither on units beyond the last eligible one nor on what else is in the batch: map it over
    examples, each with a key of its own.

    Args:
      key: drawn from once for the groups and once for the order within a group.
      score: how much each unit is wanted.
      group: which units fall together: those with the same number, whatever it is.
      eligible: units that may be chosen.
      budget: how many to choose; it may be computed.
      noise: scales the Gumbel noise; 0 takes the highest scores, and draws between groups of equal score.
    """
    group_key, unit_key = jax.random.split(key)
    # A group draws at the place of its first member, which units behind it cannot move.
    first = jnp.argmax(group[:, None] == group[None, :], axis=1)
    drawn = jax.random.gumbel(group_key, score.shape)[first]
    of_group = jax.ops.segment_max(jnp.where(eligible, score, -jnp.inf), first, score.shape[0])[first]
    value = jnp.where(eligible, of_group + noise * drawn, -jnp.inf)
    within = jax.random.uniform(unit_key, score.shape)
    order = jnp.lexsort((within, first, -drawn, -value, ~eligible))
    rank = jnp.argsort(order)
    return eligible & (rank < budget)


def example_keys(ids: UInt32[Array, " b"], key: Key[Array, ""]) -> Key[Array, " b"]:
    """One key per example, whatever its place in the batch."""
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(ids)
