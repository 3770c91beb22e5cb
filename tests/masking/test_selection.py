"""The one primitive: exact budgets, whole groups, and the distribution that the scores say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdiff.masking.selection import choose

chosen_of = jax.jit(choose, static_argnames="noise")
many = jax.jit(jax.vmap(choose, in_axes=(0, None, None, None, None)))


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1, 12, 33]),  # each is compiled once
    seed=st.integers(0, 2**31 - 1),
    kinds=st.integers(1, 12),
    share=st.floats(0, 1),
    budget=st.integers(-1, 40),
    noise=st.sampled_from([0.0, 0.5, 1.0]),
    odd=st.sampled_from([None, np.nan, np.inf, -np.inf]),
)
def test_budget_is_exact_and_at_most_one_group_is_cut(size, seed, kinds, share, budget, noise, odd):
    rng = np.random.default_rng(seed)
    group = rng.integers(-3, kinds, size)
    eligible = rng.random(size) < share
    of_group = rng.integers(0, 3, kinds + 3).astype(np.float32)  # equal ones among them
    if odd is not None:
        of_group[0] = odd
    arrays = [jnp.asarray(x) for x in (of_group[group + 3], group, eligible, budget)]
    chosen = np.asarray(chosen_of(jax.random.key(seed), *arrays, noise=noise))
    assert chosen.sum() == np.clip(budget, 0, eligible.sum())
    assert not chosen[~eligible].any()
    cut = [g for g in set(group) if 0 < chosen[eligible & (group == g)].sum() < (eligible & (group == g)).sum()]
    assert len(cut) <= 1


def test_choice_does_not_depend_on_padding():
    group = jnp.arange(20) // 3
    short = chosen_of(jax.random.key(3), jnp.zeros(20), group, jnp.ones(20, bool), 8)
    padded_group = jnp.concatenate([group, jnp.arange(20, 30)])
    longer = chosen_of(jax.random.key(3), jnp.zeros(30), padded_group, jnp.arange(30) < 20, 8)
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
    assert scipy.stats.chisquare(np.asarray(first), 4000 * weights / weights.sum()).pvalue > 1e-3


def test_groups_are_drawn_one_after_another_in_proportion_to_what_is_left():
    """Equation 4 of arXiv 2305.14577, without replacement: the chance of a pair is that of its two orders."""
    weights = np.array([1.0, 2.0, 3.0, 4.0]) / 10
    group = np.array([7, 7, 2, 2, 9, 9, 4, 4])  # two units each, under any numbers
    score = np.log(np.repeat(weights, 2)).astype(np.float32)
    draws = 20_000
    keys = jax.random.split(jax.random.key(5), draws)
    chosen = np.asarray(many(keys, jnp.asarray(score), jnp.asarray(group), jnp.ones(8, bool), 4))
    assert (chosen[:, ::2] == chosen[:, 1::2]).all()
    pairs = list(itertools.combinations(range(4), 2))
    seen = [(chosen[:, 2 * a] & chosen[:, 2 * b]).sum() for a, b in pairs]
    chance = [weights[a] * weights[b] * (1 / (1 - weights[a]) + 1 / (1 - weights[b])) for a, b in pairs]
    assert scipy.stats.chisquare(seen, draws * np.array(chance)).pvalue > 1e-3


def test_without_noise_the_highest_scores_win():
    score = jnp.array([0.1, 0.9, 0.5, 0.7])
    chosen = chosen_of(jax.random.key(0), score, jnp.arange(4), jnp.ones(4, bool), 2, noise=0.0)
    assert chosen.tolist() == [False, True, False, True]


def test_a_cut_group_is_cut_at_random():
    keys = jax.random.split(jax.random.key(2), 2000)
    share = many(keys, jnp.zeros(6), jnp.zeros(6, jnp.int32), jnp.ones(6, bool), 3).mean(axis=0)
    np.testing.assert_allclose(share, 0.5, atol=4 * 0.5 / np.sqrt(2000))
