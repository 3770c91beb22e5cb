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
    model = read_text_model(tiny_texts.write_model(tmp_path_factory.mktemp("model"), layers=1))
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


def compiled(method):
    """A method of an objective as one program for all keys and steps: run one by one, each of its operations is compiled."""
    return jax.jit(lambda *given: method(*given))


def batch(examples: list[TextBatch], length: int = 40) -> TextBatch:
    return stack([padded(example, length) for example in examples])


def everywhere(made: MaskedLanguage, params: dict, rows: TextBatch) -> list[np.ndarray]:
    """Of each token whether it is hidden, what the model reads, the cross entropy and the likeliest word."""

    @jax.jit
    def look(params, rows):
        mask, shown = made.hide(rows, KEY, STEP)
        places = jnp.broadcast_to(jnp.arange(rows.tokens.shape[1]), rows.tokens.shape)
        logits = made.model.apply({"params": params}, shown, rows.valid, places, method="masked_logits")
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, rows.tokens)
        return mask.hidden, shown, loss, logits.argmax(-1)

    return [np.asarray(x) for x in look(params, rows)]


@pytest.mark.parametrize("strategy", ["difference", "span", "entity_rates"])
def test_the_loss_is_the_mean_cross_entropy_of_the_hidden_tokens(parts, strategy):
    model, _, examples = parts
    masking = WordMaskingConfig(strategy=strategy, classifier="folder", replacement="mask")
    made = objective(parts, masking)
    rows = batch(examples)
    hidden, shown, loss, likeliest = everywhere(made, model.params, rows)
    np.testing.assert_array_equal(np.where(hidden, made.mask_token, rows.tokens), shown)
    found, metrics = compiled(made)(model.params, rows, KEY, STEP)
    np.testing.assert_allclose(found, loss[hidden].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (likeliest == rows.tokens)[hidden].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["hidden_share"], hidden.sum() / (rows.word > 0).sum(), rtol=1e-6)


WEIGHED = [
    (WordMaskingConfig(strategy="random_word"), "equal"),
    (WordMaskingConfig(strategy="salient_span"), "equal"),
    (WordMaskingConfig(strategy="entity_rates", base_rate=0.3), "terms"),
    (WordMaskingConfig(strategy="entity_rates", base_rate=0.3), "mslm"),
]


@pytest.mark.parametrize(("masking", "weighting"), WEIGHED)
def test_neither_padding_nor_the_size_of_batches_changes_the_loss(parts, masking, weighting):
    model, _, examples = parts
    made = dataclasses.replace(objective(parts, masking, weighting=weighting), weights=TermWeights(1.7, 1.2))
    measure = jax.jit(lambda *given: (made(*given)[0], made.examples(*given[1:])))
    empty = jax.tree.map(np.zeros_like, examples[0])
    tight = max(len(example.tokens) for example in examples)
    whole, weight = measure(model.params, batch([*examples, empty, empty]), KEY, STEP)
    alone, weights = np.transpose([measure(model.params, batch([x], tight), KEY, STEP) for x in examples])
    np.testing.assert_allclose(np.average(alone, weights=weights), whole, rtol=1e-5)
    assert float(weight) == pytest.approx(weights.sum(), rel=1e-6)


def test_accumulation_changes_neither_loss_nor_gradient(parts):
    model, _, examples = parts
    masking, weighting = WEIGHED[2]  # microbatches weigh neither alike nor by their hidden tokens
    made = dataclasses.replace(objective(parts, masking, weighting=weighting), weights=TermWeights(1.7, 1.2))
    given = {name: model.params[name] for name in ("encoder", "mlm_head")}, batch(examples), KEY, STEP
    grads, metrics = jax.jit(jax.grad(lambda *given: made(*given), has_aux=True))(*given)
    in_parts, averages = jax.jit(averaged(made, 4))(*given)
    np.testing.assert_allclose(averages["loss"], metrics["loss"], rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), in_parts, grads)


def test_masks_are_a_texts_own(parts):
    _, _, examples = parts
    static, fresh = (
        objective(parts, WordMaskingConfig(strategy="random_token", static=flag)) for flag in (True, False)
    )
    static, fresh = compiled(static.hide), compiled(fresh.hide)
    rows, other = batch(examples), batch(examples[::-1])
    later = jnp.ones((), jnp.int32)
    (first, shown), (second, shown_later) = (static(rows, KEY, step) for step in (STEP, later))
    np.testing.assert_array_equal(first.hidden, second.hidden)
    np.testing.assert_array_equal(first.hidden, static(other, KEY, later)[0].hidden[::-1])
    assert (fresh(rows, KEY, STEP)[0].hidden != fresh(rows, KEY, later)[0].hidden).any()
    assert (shown != shown_later).any()  # what stands in place of them is drawn anew


def test_a_random_token_is_never_a_special_one(parts):
    _, tokenizer, examples = parts
    hide = compiled(objective(parts, WordMaskingConfig(strategy="random_token", ratio=0.9)).hide)
    for step in range(20):
        mask, shown = hide(batch(examples), KEY, jnp.asarray(step, jnp.int32))
        assert not np.isin(np.asarray(shown)[np.asarray(mask.hidden)], tokenizer.special_ids).any()


def test_dropout_is_for_training_alone(parts):
    model, _, examples = parts
    made, rows = objective(parts, dropout=0.3), batch(examples)
    trained, measured, plain = (compiled(x) for x in (made, made.without_dropout(), objective(parts)))
    loss = [float(trained(model.params, rows, KEY, jnp.asarray(step, jnp.int32))[0]) for step in (0, 0)]
    expected = float(plain(model.params, rows, KEY, STEP)[0])
    assert loss[0] == loss[1] != expected
    assert float(measured(model.params, rows, KEY, STEP)[0]) == pytest.approx(expected, rel=1e-6)


def test_remat_changes_nothing_but_memory(parts):
    model, _, examples = parts
    made, rows = objective(parts), batch(examples)
    again = dataclasses.replace(made, model=TextModel(made.model.config._replace(remat=True)))
    assert again.without_remat() == made != again
    given = model.params, rows, KEY, STEP
    np.testing.assert_allclose(compiled(again)(*given)[0], compiled(made)(*given)[0], rtol=1e-6)


MSLM = WordMaskingConfig(strategy="entity_rates", replacement="mask", base_rate=0.3)


def test_terms_weigh_what_mslm_says(parts):
    """Weights sit where the terms of the same text are; the released trainer had them on other texts' places."""
    model, _, examples = parts
    plain = objective(parts, MSLM)
    made = dataclasses.replace(
        plain, config=MaskedLanguageConfig(dropout=0.0, weighting="terms"), weights=TermWeights(1.7, 1.2)
    )
    rows = batch(examples)
    drawn, _ = compiled(plain.draw)(rows, KEY, STEP)
    scored = compiled(plain.score)(model.params, drawn, KEY, STEP)
    drawn, scored = jax.tree.map(np.asarray, (drawn, scored))
    weight = np.where(drawn.in_term, 1.7, 1.2)[drawn.hidden]
    assert 0 < drawn.in_term[drawn.hidden].mean() < 1
    found, _ = compiled(made)(model.params, rows, KEY, STEP)
    np.testing.assert_allclose(found, np.average(scored.loss[drawn.hidden], weights=weight), rtol=1e-5)


def test_the_released_loss_of_mslm(parts):
    """Each text: the mean over its tokens of weight * loss, visible ones counting 1, times 1 + its hidden tokens."""
    model, _, examples = parts
    made = dataclasses.replace(objective(parts, MSLM, weighting="mslm"), weights=TermWeights(1.7, 1.2))
    rows = batch(examples)
    masked, _, loss, _ = everywhere(made, model.params, rows)
    expected = []
    for i, example in enumerate(examples):
        n, hidden = len(example.tokens), masked[i]
        weight = np.where(hidden, np.where(rows.entity[i] > 0, 1.7, 1.2), 1.0)
        expected.append((weight * loss[i])[:n].mean() * (1 + hidden.sum()))
    found, _ = compiled(made)(model.params, rows, KEY, STEP)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize(("inside", "outside"), [(900, 100), (500, 500), (100, 900)])
def test_weights_of_terms(inside, outside):
    """mslm/utils.py: the softmax of max(.5, c) and min(.5, c), c = 1 - n_b / (n_e + n_b)."""
    c = inside / (inside + outside)
    shares = np.exp([max(0.5, c), min(0.5, c)])
    np.testing.assert_allclose(term_weights(inside, outside), 1 + shares / shares.sum())


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"weighting": "loud"}, "known: equal, terms, mslm"), ({"dropout": 1.0}, "dropout=1.0"), ({"importance_texts": 0}, "at least 1")],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        MaskedLanguageConfig(**changed).validate()


def test_strategies_and_weights_of_terms_share_the_program_of_the_loss(parts):
    model, _, examples = parts
    rows = batch(examples)
    weighed = dataclasses.replace(
        objective(parts, WordMaskingConfig(strategy="salient_filled"), weighting="terms"), weights=TermWeights(1.7, 1.2)
    )
    plain = [objective(parts, WordMaskingConfig(strategy=name)) for name in ("random_word", "difference")]
    programs = set()
    for made in (*plain, weighed):
        drawn, about_masks = compiled(made.draw)(rows, KEY, STEP)
        programs.add(compiled(made).lower(model.params, drawn, KEY, STEP).as_text())
        of_drawn, metrics = compiled(made)(model.params, drawn, KEY, STEP)
        whole, expected = compiled(made)(model.params, rows, KEY, STEP)
        assert float(of_drawn) == float(whole) and metrics | about_masks == expected
    assert len(programs) == 1
