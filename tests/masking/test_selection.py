"""The one primitive: exact budgets, whole groups, and the distribution that the scores say."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdiff.masking.selection import choose

many = jax.jit(jax.vmap(choose, in_axes=(0, None, None, None, None)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    groups=st.lists(st.integers(0, 11), min_size=12, max_size=12),
    eligible=st.lists(st.booleans(), min_size=12, max_size=12),
    budget=st.integers(0, 14),
)
def test_budget_is_exact_and_at_most_one_group_is_cut(seed, groups, eligible, budget):
    group, eligible = np.array(groups), np.array(eligible)
    score = np.random.default_rng(seed).normal(size=12)[group].astype(np.float32)
    arrays = jnp.asarray(score), jnp.asarray(group), jnp.asarray(eligible), jnp.asarray(budget)
    chosen = np.asarray(jax.jit(choose)(jax.random.key(seed), *arrays))
    assert chosen.sum() == min(budget, eligible.sum())
    assert not chosen[~eligible].any()
    cut = [g for g in set(groups) if 0 < chosen[eligible & (group == g)].sum() < (eligible & (group == g)).sum()]
    assert len(cut) <= 1


def test_choice_does_not_depend_on_padding():
    group = jnp.arange(20) // 3
    short = choose(jax.random.key(3), jnp.zeros(20), group, jnp.ones(20, bool), 8)
    padded_group = jnp.concatenate([group, jnp.arange(20, 30)])
    longer = choose(jax.random.key(3), jnp.zeros(30), padded_group, jnp.arange(30) < 20, 8)
    np.testing.assert_array_equal(longer[:20], short)
    assert not longer[20:].any()


def test_equal_scores_choose_uniformly():
    keys = jax.random.split(jax.random.key(0), 4000)
    share = many(keys, jnp.zeros(10), jnp.arange(10), jnp.ones(10, bool), 3).mean(axis=0)
    # Four standard deviations of a binomial share of 0.3 over 4000 draws.
    np.testing.assert_allclose(share, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 4000))


def test_log_weights_sample_in_proportion():
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    keys = jax.random.split(jax.random.key(1), 4000)
    first = many(keys, jnp.log(jnp.asarray(weights, jnp.float32)), jnp.arange(4), jnp.ones(4, bool), 1).sum(axis=0)
    expected = 4000 * weights / weights.sum()
    chi_square = ((np.asarray(first) - expected) ** 2 / expected).sum()
    assert chi_square < 16.27  # the 0.999 quantile at 3 degrees of freedom


def test_without_noise_the_highest_scores_win():
    score = jnp.array([0.1, 0.9, 0.5, 0.7])
    chosen = choose(jax.random.key(0), score, jnp.arange(4), jnp.ones(4, bool), 2, noise=0.0)
    assert chosen.tolist() == [False, True, False, True]


def test_a_cut_group_is_cut_at_random():
    keys = jax.random.split(jax.random.key(2), 2000)
    share = many(keys, jnp.zeros(6), jnp.zeros(6, jnp.int32), jnp.ones(6, bool), 3).mean(axis=0)
    np.testing.assert_allclose(share, 0.5, atol=4 * 0.5 / np.sqrt(2000))
