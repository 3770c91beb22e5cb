"""Scores and groups in, a mask with exactly the budget out.

One primitive serves every strategy. Each unit's score gets Gumbel noise drawn once per group, and the best units are
taken: with log-weights as scores that is sampling groups without replacement in proportion to their weights
(arXiv 2305.14577, equation 4; the Gumbel top-k trick, arXiv 1903.06059), with equal scores it is uniform, and
without noise it is top-k.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def choose(
    key: Key[Array, ""],
    score: Float[Array, " n"],
    group: Int[Array, " n"],
    eligible: Bool[Array, " n"],
    budget: Int[Array, ""] | int,
    noise: float = 1.0,
) -> Bool[Array, " n"]:
    """Exactly `budget` of the eligible units, or all of them where there are fewer.

    Members of a group have one score and fall together; at most one group is cut, at random, by the budget. The
    outcome depends neither on units beyond the last eligible one nor on what else is in the batch: map it over
    examples, each with a key of its own.

    Args:
      key: drawn from once for the groups and once for the order within a group.
      score: how much each unit is wanted; the same for all of a group.
      group: which units fall together, numbers from 0 to n - 1.
      eligible: units that may be chosen.
      budget: how many to choose; it may be computed.
      noise: scales the Gumbel noise; 0 takes the highest scores.
    """
    group_key, unit_key = jax.random.split(key)
    drawn = jax.random.gumbel(group_key, score.shape)[group]
    value = jnp.where(eligible, score + noise * drawn, -jnp.inf)
    within = jax.random.uniform(unit_key, score.shape)
    order = jnp.lexsort((within, group, -value, ~eligible))
    rank = jnp.argsort(order)
    return eligible & (rank < budget)
