"""The loss of hidden tokens: what it is a mean of, what it does not depend on, and how MSLM weighs it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_texts

from mmdiff.data.loader import stack
from mmdiff.data.text_batches import padded
from mmdiff.data.text_corpora import Text
from mmdiff.data.text_examples import Annotations, TextBatch, text_examples
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.masking.word_strategies import WordMaskingConfig
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.models.text_encoder import TextModel
from mmdiff.objectives.masked_language import MaskedLanguage, MaskedLanguageConfig, TermWeights, term_weights
from mmdiff.training.train_step import averaged

KEY, STEP = jax.random.key(4), jnp.zeros((), jnp.int32)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A model, its tokenizer and eight examples that hold all that strategies look at."""
    model = read_text_model(tiny_texts.write_model(tmp_path_factory.mktemp("model")))
    tokenizer = TextTokenizer(model.tokenizer, 40)
    texts = [Text(f"train.txt:{i}", text, None, None, None) for i, (text, _) in enumerate(tiny_texts.texts(8))]
    tokenized = tokenizer.encode([text.text for text in texts])

    def terms(text: Text) -> list[tuple[int, int]]:
        found = [(text.text.find(word), len(word)) for word in tiny_texts.PARSERS]
        return [(start, start + length) for start, length in found if start >= 0]

    ones = [np.ones(len(x.tokens), np.float32) for x in tokenized]
    look = Annotations(
        lambda word: 1.0 if word in tiny_texts.PARSERS else 0.1, terms, lambda words: [1 + (i > 2) for i, _ in enumerate(words)],
        ones, ones,
    )  # fmt: skip
    return (
        model._replace(params=jax.tree.map(jnp.asarray, model.params)),
        tokenizer,
        text_examples(texts, tokenized, look),
    )


def objective(parts, masking: WordMaskingConfig | None = None, **changed) -> MaskedLanguage:
    model, tokenizer, _ = parts
    config = MaskedLanguageConfig(**({"dropout": 0.0} | changed))
    masking = masking or WordMaskingConfig(strategy="random_word")
    sizes = model.config._replace(dropout=config.dropout)
    return MaskedLanguage(TextModel(sizes), masking, config, tokenizer.mask_id, tokenizer.special_ids)


def batch(examples: list[TextBatch], length: int = 40) -> TextBatch:
    return jax.tree.map(jnp.asarray, stack([padded(example, length) for example in examples]))


@pytest.mark.parametrize("strategy", ["difference", "span", "entity_rates"])
def test_the_loss_is_the_mean_cross_entropy_of_the_hidden_tokens(parts, strategy):
    model, _, examples = parts
    masking = WordMaskingConfig(strategy=strategy, classifier="folder", replacement="mask")
    made = objective(parts, masking)
    rows = batch(examples)
    mask, shown = made.hide(rows, KEY, STEP)
    np.testing.assert_array_equal(np.where(mask.hidden, made.mask_token, rows.tokens), shown)
    places = jnp.broadcast_to(jnp.arange(40), (8, 40))
    logits = made.model.apply({"params": model.params}, shown, rows.valid, places, method="masked_logits")
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, rows.tokens)
    found, metrics = made(model.params, rows, KEY, STEP)
    np.testing.assert_allclose(found, loss[mask.hidden].mean(), rtol=1e-5)
    right = (logits.argmax(-1) == rows.tokens)[mask.hidden].mean()
    np.testing.assert_allclose(metrics["accuracy"], right, rtol=1e-5)
    np.testing.assert_allclose(metrics["hidden_share"], mask.hidden.sum() / (rows.word > 0).sum(), rtol=1e-6)


WEIGHED = [
    (WordMaskingConfig(strategy="random_word"), "equal"),
    (WordMaskingConfig(strategy="salient_span", fill=False, ratio=0.5), "equal"),
    (WordMaskingConfig(strategy="entity_rates", base_rate=0.3), "terms"),
    (WordMaskingConfig(strategy="entity_rates", base_rate=0.3), "mslm"),
]


@pytest.mark.parametrize(("masking", "weighting"), WEIGHED)
def test_neither_padding_nor_the_size_of_batches_changes_the_loss(parts, masking, weighting):
    model, _, examples = parts
    made = dataclasses.replace(objective(parts, masking, weighting=weighting), weights=TermWeights(1.7, 1.2))
    whole, _ = made(model.params, batch(examples), KEY, STEP)
    empty = jax.tree.map(np.zeros_like, examples[0])
    tight = max(len(example.tokens) for example in examples)
    padded_out, _ = made(model.params, batch([*examples, empty, empty], tight), KEY, STEP)
    np.testing.assert_allclose(padded_out, whole, rtol=1e-5)
    alone = [made(model.params, batch([example]), KEY, STEP)[0] for example in examples]
    weights = [float(made.examples(batch([example]), KEY, STEP)) for example in examples]
    np.testing.assert_allclose(np.average(alone, weights=weights), whole, rtol=1e-5)
    assert float(made.examples(batch([*examples, empty]), KEY, STEP)) == pytest.approx(sum(weights), rel=1e-6)


@pytest.mark.parametrize(("masking", "weighting"), WEIGHED[:3:2])
def test_accumulation_changes_neither_loss_nor_gradient(parts, masking, weighting):
    model, _, examples = parts
    made = dataclasses.replace(objective(parts, masking, weighting=weighting), weights=TermWeights(1.7, 1.2))
    rows = batch(examples)
    params = {name: model.params[name] for name in ("encoder", "mlm_head")}
    grads, metrics = jax.grad(made, has_aux=True)(params, rows, KEY, STEP)
    in_parts, averages = averaged(made, 4)(params, rows, KEY, STEP)
    np.testing.assert_allclose(averages["loss"], metrics["loss"], rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), in_parts, grads)


def test_masks_are_a_texts_own(parts):
    _, _, examples = parts
    static, fresh = (
        objective(parts, WordMaskingConfig(strategy="random_token", static=flag)) for flag in (True, False)
    )
    rows, other = batch(examples), batch(examples[::-1])
    later = jnp.ones((), jnp.int32)

    def hidden(made, rows, step):
        return np.asarray(made.hide(rows, KEY, step)[0].hidden)

    np.testing.assert_array_equal(hidden(static, rows, STEP), hidden(static, other, later)[::-1])
    assert (hidden(fresh, rows, STEP) != hidden(fresh, rows, later)).any()
    shown = [np.asarray(static.hide(rows, KEY, step)[1]) for step in (STEP, later)]
    assert (shown[0] != shown[1]).any()  # what stands in place of them is drawn anew


def test_a_random_token_is_never_a_special_one(parts):
    _, tokenizer, examples = parts
    made = objective(parts, WordMaskingConfig(strategy="random_token", ratio=0.9))
    for step in range(20):
        mask, shown = made.hide(batch(examples), KEY, jnp.asarray(step, jnp.int32))
        assert not np.isin(np.asarray(shown)[np.asarray(mask.hidden)], tokenizer.special_ids).any()


def test_dropout_is_for_training_alone(parts):
    model, _, examples = parts
    made, rows = objective(parts, dropout=0.3), batch(examples)
    loss = [float(made(model.params, rows, KEY, jnp.asarray(step, jnp.int32))[0]) for step in (0, 0)]
    plain = float(objective(parts)(model.params, rows, KEY, STEP)[0])
    assert loss[0] == loss[1] != plain
    assert float(made.without_dropout()(model.params, rows, KEY, STEP)[0]) == pytest.approx(plain, rel=1e-6)


def test_remat_changes_nothing_but_memory(parts):
    model, _, examples = parts
    made, rows = objective(parts), batch(examples)
    again = dataclasses.replace(made, model=TextModel(made.model.config._replace(remat=True)))
    assert again.without_remat() == made != again
    np.testing.assert_allclose(
        again(model.params, rows, KEY, STEP)[0], made(model.params, rows, KEY, STEP)[0], rtol=1e-6
    )


MSLM = WordMaskingConfig(strategy="entity_rates", replacement="mask", base_rate=0.3)


def test_terms_weigh_what_mslm_says(parts):
    """Weights sit where the terms of the same text are; the released trainer had them on other texts' places."""
    model, _, examples = parts
    plain = objective(parts, MSLM)
    made = dataclasses.replace(
        plain, config=MaskedLanguageConfig(dropout=0.0, weighting="terms"), weights=TermWeights(1.7, 1.2)
    )
    rows = batch(examples)
    scored = plain.score(model.params, rows, KEY, STEP)
    weight = np.where(scored.in_term, 1.7, 1.2)[np.asarray(scored.hidden)]
    loss = np.asarray(scored.loss)[np.asarray(scored.hidden)]
    assert 0 < scored.in_term[scored.hidden].mean() < 1
    np.testing.assert_allclose(made(model.params, rows, KEY, STEP)[0], np.average(loss, weights=weight), rtol=1e-5)


def test_the_released_loss_of_mslm(parts):
    """Each text: the mean over its tokens of weight * loss, visible ones counting 1, times 1 + its hidden tokens."""
    model, _, examples = parts
    made = dataclasses.replace(objective(parts, MSLM, weighting="mslm"), weights=TermWeights(1.7, 1.2))
    rows = batch(examples)
    mask, shown = made.hide(rows, KEY, STEP)
    places = jnp.broadcast_to(jnp.arange(40), (8, 40))
    logits = made.model.apply({"params": model.params}, shown, rows.valid, places, method="masked_logits")
    loss = np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, rows.tokens))
    expected = []
    for i, example in enumerate(examples):
        n, hidden = len(example.tokens), np.asarray(mask.hidden)[i]
        weight = np.where(hidden, np.where(rows.entity[i] > 0, 1.7, 1.2), 1.0)
        expected.append((weight * loss[i])[:n].mean() * (1 + hidden.sum()))
    np.testing.assert_allclose(made(model.params, rows, KEY, STEP)[0], np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize(("inside", "outside"), [(900, 100), (500, 500), (100, 900)])
def test_weights_of_terms(inside, outside):
    """mslm/utils.py: the softmax of max(.5, c) and min(.5, c), c = 1 - n_b / (n_e + n_b)."""
    c = inside / (inside + outside)
    shares = np.exp([max(0.5, c), min(0.5, c)])
    np.testing.assert_allclose(term_weights(inside, outside), 1 + shares / shares.sum())


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"weighting": "loud"}, "known: equal, terms, mslm"), ({"dropout": 1.0}, "dropout=1.0"), ({"importance_texts": 0}, "more than 0")],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        MaskedLanguageConfig(**changed).validate()
