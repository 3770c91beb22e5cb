"""What of a text is hidden: the budget is exact, groups fall whole, scores decide how often."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff.masking.strategies import StrategyError
from mmdiff.masking.word_hiding import replace
from mmdiff.masking.word_strategies import (
    WORD_STRATEGIES,
    Tokens,
    WordMaskingConfig,
    drawn_spans,
    find,
    mask_tokens,
)

# [CLS] a pro ##tein binds << a marker >> well known drug . [SEP], with "well known" a collocation and "a", "drug" entities
WORD = np.array([0, 1, 2, 2, 3, 0, 4, 5, 0, 6, 7, 8, 9, 0], np.int32)
ENTITY = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0], np.int32)
NGRAM = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0], np.int32)
WEIGHT = np.array([0, 0.1, 0.9, 0.9, 0.3, 0, 0.1, 0.2, 0, 0.2, 0.2, 0.8, 0, 0], np.float32)
ATTENTION = np.array([5, 1, 2, 2, 1, 9, 1, 1, 9, 1, 1, 4, 1, 5], np.float32)
IMPORTANCE = np.array([0, 0, 0.5, 0, 0.01, 0, 0, 0, 0, 0, 0, 0.2, 0, 0], np.float32)
MASKABLE = WORD > 0
KEY = jax.random.key(0)


def tokens(key: jax.Array, pad: int = 0) -> Tokens:
    arrays = (WORD, WEIGHT, ENTITY, NGRAM, ATTENTION, IMPORTANCE)
    return Tokens(*(np.pad(x, (0, pad)) for x in arrays), key)


@functools.cache
def masking(*fields):
    """The masks of a text with 4000 different keys, as one program for all texts of a length."""
    keys, config = jax.random.split(jax.random.key(1), 4000), WordMaskingConfig(*fields)
    return jax.jit(lambda text: jax.vmap(lambda key: mask_tokens(key, text._replace(key=key), config).hidden)(keys))


def draw(config: WordMaskingConfig, count: int = 400, pad: int = 0, **changed) -> np.ndarray:
    """[count, t] masks of the text with different keys."""
    text = tokens(jax.random.key(0), pad)._replace(**changed)
    return np.asarray(masking(*dataclasses.astuple(config))(text))[:count]


def config(strategy: str, **changed) -> WordMaskingConfig:
    return WordMaskingConfig(strategy=strategy, **({"ratio": 0.4, "classifier": "folder"} | changed))


@pytest.mark.parametrize(
    ("strategy", "ratio"),
    [(name, 0.4) for name, row in WORD_STRATEGIES.items() if not row.any_number]
    + [("random_word", 0.05), ("difference", 0.25)],
)
def test_the_budget_is_exact_and_nothing_else_is_hidden(strategy, ratio):
    masks = draw(config(strategy, ratio=ratio), 50)
    assert set(masks.sum(axis=1)) == {max(int(ratio * MASKABLE.sum() + 1e-9), 1)}
    assert not masks[:, ~MASKABLE].any()


@pytest.mark.parametrize("strategy", ["difference", "span", "pmi", "entity_rates", "salient_span"])
def test_padding_changes_nothing(strategy):
    np.testing.assert_array_equal(draw(config(strategy), 20, pad=6)[:, : len(WORD)], draw(config(strategy), 20))


def cut(masks: np.ndarray, group: np.ndarray) -> np.ndarray:
    """How many groups of each mask are hidden in part."""
    found = np.zeros(len(masks), int)
    for number in set(group[group > 0].tolist()):
        members = masks[:, group == number]
        found += members.any(axis=1) & ~members.all(axis=1)
    return found


@pytest.mark.parametrize(
    ("strategy", "group"),
    [("random_word", WORD), ("difference", WORD), ("entity", ENTITY), ("salient_filled", ENTITY), ("pmi", NGRAM)],
)
def test_groups_fall_whole_but_for_one(strategy, group):
    masks = draw(config(strategy))
    assert cut(masks, group).max() <= 1
    assert cut(masks, group).mean() < 0.5


def test_tokens_fall_alone_where_words_need_not_be_whole():
    assert cut(draw(config("difference", whole_words=False)), WORD).max() == 1
    assert cut(draw(config("random_token")), WORD).mean() > cut(draw(config("random_word")), WORD).mean()


def shares(strategy: str, **changed) -> np.ndarray:
    """How often each token was hidden, of one token a text."""
    return draw(config(strategy, ratio=0.05, **changed), 4000).mean(axis=0)


def test_one_token_is_drawn_in_proportion_to_its_weight():
    """Equation 4 of the paper: a word by its similarity, a token by its attention."""
    found = shares("difference")
    of_word = np.array([found[number == WORD].sum() for number in range(1, 10)])
    weight = np.array([WEIGHT[number == WORD].max() for number in range(1, 10)])
    np.testing.assert_allclose(of_word, weight / weight.sum(), atol=0.03)
    attention = np.where(MASKABLE, ATTENTION, 0)
    np.testing.assert_allclose(shares("attn"), attention / attention.sum(), atol=0.03)
    inverse = np.where(MASKABLE, 1 / ATTENTION, 0)
    np.testing.assert_allclose(shares("mst"), inverse / inverse.sum(), atol=0.03)
    np.testing.assert_allclose(shares("selective"), IMPORTANCE / IMPORTANCE.sum(), atol=0.03)


def test_entities_are_wanted_as_much_more_as_their_weight_says():
    found = shares("entity")
    groups = [(ENTITY == 1), (ENTITY == 2), *(WORD == number for number in (3, 4, 5, 6, 7, 9))]
    weight = np.array([0.4, 0.4] + 6 * [0.12])
    np.testing.assert_allclose([found[group].sum() for group in groups], weight / weight.sum(), atol=0.03)


def test_one_salient_span_of_a_text_is_hidden_and_nothing_else():
    """REALM, arXiv 2002.08909, section 3.4: whatever the budget, each span as often as any other."""
    masks = draw(config("salient_span", ratio=0.05), 4000)
    whole = np.stack([(masks == (number == ENTITY)).all(axis=1) for number in (1, 2)])
    assert (whole.sum(axis=0) == 1).all()
    np.testing.assert_allclose(whole.mean(axis=1), 0.5, atol=0.03)
    assert not draw(config("salient_span"), 50, entity=np.zeros_like(ENTITY)).any()


def test_salient_spans_that_are_filled_up_are_entities_first():
    masks = draw(config("salient_filled", ratio=0.4))  # 4 tokens, as many as entities have
    assert masks[:, ENTITY > 0].all()
    few = draw(config("salient_filled", ratio=0.9, fill=False), 5)
    np.testing.assert_array_equal(few, np.broadcast_to(ENTITY > 0, few.shape))


def test_ranks_stand_for_similarities_in_the_official_code():
    """Its get_masked_indices: words in the order of their similarity, n - place for every token of a word."""
    found = shares("difference", weights="rank", whole_words=False)
    similarity = np.array([WEIGHT[number == WORD].max() for number in range(1, 10)])
    order = (-similarity).argsort(kind="stable")
    of_word = np.zeros(10)
    of_word[order + 1] = 9 - np.arange(9)
    weight = np.where(WEIGHT > 0, of_word[WORD], 0)  # the full stop has no similarity here
    assert 0.5 * np.abs(found - weight / weight.sum()).sum() < 0.02  # total variation
    np.testing.assert_allclose(found, weight / weight.sum(), atol=0.03)


def test_ranks_leave_a_strategy_of_ones_own_as_it_is():
    own = {"strategy": "test_word_strategies:first_tokens", "noise": 0.0, "whole_words": False, "ratio": 0.3}
    masks = draw(config(**own, weights="rank"), 5)
    assert (np.flatnonzero(masks[0]) == np.flatnonzero(MASKABLE)[:3]).all()


def first_tokens(text: Tokens) -> jax.Array:
    """A strategy of one's own: earlier tokens are wanted more."""
    return -jnp.arange(text.word.shape[0], dtype=jnp.float32)


def test_alpha_is_the_most_that_the_strategy_gets():
    masks = draw(config("salient_filled", ratio=0.4, alpha=0.5))
    assert (masks[:, ENTITY > 0].sum(axis=1) >= 2).all()
    assert 2 < masks[:, ENTITY > 0].sum(axis=1).mean() < 3.5


def test_mslm_hides_entities_and_others_at_their_own_rates():
    """arXiv 2403.18025: floor(rate * entities) entities, whole, and each other token by chance.

    So are those of entities that were not chosen: with rates .5 and .15 their tokens are hidden in .5 + .5 * .15 of the texts.
    """
    masks = draw(config("entity_rates", entity_rate=0.5, base_rate=0.15), 4000)
    whole = np.stack([masks[:, ENTITY == number].all(axis=1) for number in (1, 2)])
    assert (whole.sum(axis=0) >= 1).all()
    np.testing.assert_allclose(masks[:, ENTITY > 0].mean(axis=0), 0.575, atol=0.03)
    others = MASKABLE & (ENTITY == 0)
    np.testing.assert_allclose(masks[:, others].mean(axis=0), 0.15, atol=0.03)


def test_tokens_that_mslm_hides_by_chance_do_not_count_as_terms():
    made = config("entity_rates", entity_rate=0.5, base_rate=0.5)
    keys = jax.random.split(jax.random.key(1), 200)
    text = jax.tree.map(jnp.asarray, tokens(KEY))
    masks = jax.jit(jax.vmap(lambda key: mask_tokens(key, text._replace(key=key), made)))(keys)
    assert (masks.term.sum(axis=1) == np.where(masks.term[:, 1], 3, 1)).all()
    assert (masks.hidden & ~masks.term)[:, ENTITY > 0].any()


def test_spans_are_of_geometric_length():
    """SpanBERT, section 3.1: p = 0.2, cut off at 10 words, 3.8 on average."""
    words = np.arange(1, 2001, dtype=np.int32)
    groups = np.asarray(jax.jit(drawn_spans)(tokens(jax.random.key(5))._replace(word=words)))
    _, lengths = np.unique(groups, return_counts=True)
    lengths = lengths[:-1]  # the last one ends with the text
    assert lengths.max() <= 10
    share = 0.2 * 0.8 ** np.arange(10)
    np.testing.assert_allclose(np.bincount(lengths, minlength=11)[1:] / len(lengths), share / share.sum(), atol=0.05)
    assert lengths.mean() == pytest.approx(3.8, abs=0.3)


def test_a_text_without_words_loses_nothing():
    for strategy in WORD_STRATEGIES:
        assert not draw(config(strategy), word=np.zeros_like(WORD)).any()


def loudest(seen: Tokens):
    return jnp.where(seen.word == 3, 0.0, -jnp.inf)


def test_a_strategy_of_ones_own_is_a_function():
    masks = draw(config(f"{__name__}:loudest", ratio=0.05), 20)
    np.testing.assert_array_equal(masks, np.broadcast_to(WORD == 3, masks.shape))


def wrong_shape(seen: Tokens):
    return jnp.zeros(2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("difrence", "known: random_token, random_word, difference"),
        ("no_such_module:score", "cannot be imported"),
        (f"{__name__}:WORD", "must be a function from Tokens"),
    ],
)
def test_an_unknown_strategy_is_told_in_a_sentence(name, said):
    with pytest.raises(StrategyError, match=said):
        find(name)


def test_a_strategy_that_gives_something_else_is_told_in_a_sentence():
    with pytest.raises(StrategyError, match="one floating number for each of the 14 tokens"):
        mask_tokens(jax.random.key(0), tokens(jax.random.key(0)), config(f"{__name__}:wrong_shape"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ratio": 1.0}, "ratio=1.0 must lie between 0 and 1"),
        ({"replacement": "blank"}, "known: random, 80-10-10, mask"),
        ({"weights": "log"}, "known: similarity, rank"),
        ({"base_rate": 1.5}, "base_rate=1.5 must lie from 0 to 1"),
        ({"strategy": "selective"}, "needs masking.classifier"),
    ],
)
def test_values_that_mean_nothing_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(WordMaskingConfig(), **changed).validate()


def test_replacements():
    """BERT, section 3.1: of hidden tokens 80% are the mask, 10% random, 10% as they were."""
    count = 20_000
    original, hidden = jnp.full(count, 7), jnp.arange(count) % 2 == 0
    ordinary = jnp.arange(10, 20)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def program(how: str, together: bool) -> jax.Array:
        group = jnp.arange(count) // 4
        return replace(jax.random.key(0), original, hidden, group, how, 3, ordinary, together)

    def replaced(how: str, together: bool = False) -> np.ndarray:
        return np.asarray(program(how, together))

    for how in ("random", "mask", "80-10-10"):
        assert (replaced(how)[1::2] == 7).all()
    assert set(replaced("random")[::2]) == set(range(10, 20))
    assert (replaced("mask")[::2] == 3).all()
    found = replaced("80-10-10")[::2]
    shares = [(found == 3).mean(), (found >= 10).mean(), (found == 7).mean()]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    pairs = replaced("80-10-10", together=True)[::2].reshape(-1, 2)
    assert ((pairs == 3).all(axis=1) | (pairs != 3).all(axis=1)).all()
