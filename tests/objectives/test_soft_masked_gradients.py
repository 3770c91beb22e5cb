"""DGA: which heads matter, whose gradients are softened, and what is contrasted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmdiff.data.text_examples import TextBatch
from mmdiff.masking.word_strategies import WordMaskingConfig
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel, init_text_params
from mmdiff.objectives import soft_masked_gradients
from mmdiff.objectives.masked_language import MaskedLanguage, MaskedLanguageConfig
from mmdiff.objectives.soft_masked_gradients import (
    SoftMaskedGradients,
    contrast,
    head_importance,
    normalised,
    soften_parameters,
)
from mmdiff.training.train_step import Coupling, make_gradient

CONFIG = TextEncoderConfig(
    vocab_size=40, hidden_size=16, layers=2, heads=4, intermediate_size=16, positions=12, token_types=2, dropout=0.1
)
IMPORTANCE = ((0.0, 0.25, 0.5, 1.0), (1.0, 0.0, 0.0, 0.5))
ONE_LAYER = CONFIG._replace(layers=1)  # of the objective, whose three passes take long to compile


@pytest.fixture(scope="module")
def params():
    """Large enough that heads differ."""
    drawn = jax.jit(init_text_params, static_argnums=0)(CONFIG, jax.random.key(0))
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + 0.3 * np.random.default_rng(x.size).normal(size=x.shape).astype("f4")),
        drawn,
    )


@pytest.fixture(scope="module")
def one_layer(params):
    """The same without the last layer."""
    return params | {"encoder": {name: x for name, x in params["encoder"].items() if name != "layer_01"}}


@pytest.fixture(scope="module")
def importance(params):
    """Of one batch."""
    return head_importance(TextModel(CONFIG), params, [batch_of(0)], jax.random.key(3))


def batch_of(seed, size=4, length=8):
    rng = np.random.default_rng(seed)
    valid = np.arange(length) < rng.integers(4, length + 1, (size, 1))
    inside = (valid & (np.arange(length) > 0)).astype(np.int32)
    none = np.zeros((size, length), np.float32)
    return TextBatch(
        id=rng.integers(0, 99, size).astype(np.uint32),
        tokens=(rng.integers(5, 40, (size, length)) * valid).astype(np.int32),
        valid=valid,
        word=np.cumsum(inside, axis=1, dtype=np.int32) * inside,
        weight=none,
        entity=none.astype(np.int32),
        ngram=none.astype(np.int32),
        attention=none,
        importance=none,
        label=np.zeros(size, np.int32),
    )


def objective(**changed):
    language = MaskedLanguage(
        TextModel(ONE_LAYER), WordMaskingConfig(strategy="random_word"), MaskedLanguageConfig(), 4, (0, 1, 2, 3, 4)
    )
    return SoftMaskedGradients(**({"language": language, "importance": IMPORTANCE[:1]} | changed))


def test_importance_is_standardised_in_each_layer_without_sign():
    gradients = np.array([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    apart = np.array([-2.0, -1.0, 0.0, 3.0]) / np.sqrt(14 / 3)
    np.testing.assert_allclose(normalised(gradients), [np.abs(np.tanh(apart)), np.zeros(4)])
    np.testing.assert_allclose(normalised(1e-9 * gradients), normalised(gradients))
    np.testing.assert_array_equal(normalised(np.ones((2, 1))), 0)


def test_importance_is_the_gradient_of_the_divergence_of_two_passes(params, importance):
    model, key, step = TextModel(CONFIG), jax.random.key(3), 1e-3
    batch = batch_of(0)

    @jax.jit
    def divergence(gates):
        found = [
            model.apply(
                {"params": params}, jnp.asarray(batch.tokens), jnp.asarray(batch.valid), gates=gates,
                deterministic=False, rngs={"dropout": pass_key}, method="encode",
            )
            for pass_key in jax.random.split(jax.random.fold_in(key, 0))
        ]  # fmt: skip
        p, q = (jax.nn.softmax(x)[batch.valid] for x in found)
        return (p * jnp.log(p / q)).sum()

    slopes = np.zeros((2, 4))
    for place in np.ndindex(2, 4):
        change = np.zeros((2, 4), np.float32)
        change[place] = step
        slopes[place] = (divergence(1 + change) - divergence(1 - change)) / (2 * step)
    assert np.abs(slopes).max() > 0.1
    np.testing.assert_allclose(importance, normalised(slopes), atol=0.02)  # single precision of the differences


def test_importance_is_summed_over_batches_and_padding_texts_add_nothing(params, importance):
    model, key = TextModel(CONFIG), jax.random.key(3)
    batch = batch_of(0)
    nothing = jax.tree.map(np.zeros_like, batch)
    np.testing.assert_array_equal(importance, head_importance(model, params, [batch, nothing], key))
    assert np.abs(importance - head_importance(model, params, [batch, batch_of(1)], key)).max() > 1e-3
    assert ((importance >= 0) & (importance <= 1)).all()


def test_the_contrast_is_a_cross_entropy_over_second_and_gated_passes():
    rng = np.random.default_rng(0)
    full, again, gated = rng.normal(size=(3, 3, 5)).astype("f4")
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (full, again, gated)]
    positive, negative = np.exp(unit[0] @ unit[1].T / 0.05), np.exp(unit[0] @ unit[2].T / 0.05)
    expected = -np.log(np.diag(positive) / (positive.sum(1) + negative.sum(1))).mean()
    everything = jnp.ones(3, bool)
    np.testing.assert_allclose(contrast(*map(jnp.asarray, (full, again, gated)), everything), expected, rtol=1e-5)
    padded = [jnp.asarray(np.concatenate([x, np.zeros((2, 5), "f4")])) for x in (full, again, gated)]
    np.testing.assert_allclose(contrast(*padded, jnp.arange(5) < 3), expected, rtol=1e-5)
    assert contrast(*padded, jnp.zeros(5, bool)) == 0


def test_softened_parameters_are_the_same_and_each_head_gets_its_share_of_the_gradient(params):
    batch = batch_of(0)
    scale = 1 - jnp.array(IMPORTANCE)

    @jax.jit
    @jax.value_and_grad
    def loss(params, scale):
        hidden = TextModel(CONFIG).apply(
            {"params": soften_parameters(params, scale)}, jnp.asarray(batch.tokens), jnp.asarray(batch.valid),
            method="encode",
        )  # fmt: skip
        return (hidden[..., 0] * batch.valid).sum()

    (value, full), (same, soft) = (loss(params, x) for x in (jnp.ones((2, 4)), scale))
    assert value == same
    for number in range(2):
        name = f"layer_{number:02d}"
        expected, found = full["encoder"][name], soft["encoder"][name]
        of_features = np.repeat(scale[number], 4)
        for part in ("query", "key", "value"):
            for leaf in ("kernel", "bias"):
                np.testing.assert_allclose(found[part][leaf], expected[part][leaf] * of_features, atol=1e-6)
        expected["attention_out"]["kernel"] *= of_features[:, None]
        for part in ("attention_out", "attention_norm", "intermediate", "out", "out_norm"):
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found[part], expected[part])
    jax.tree.map(np.testing.assert_array_equal, soft["encoder"]["embeddings"], full["encoder"]["embeddings"])
    assert np.abs(full["encoder"]["layer_00"]["value"]["kernel"]).min() > 0


@pytest.mark.parametrize("soften", ["parameters", "flow"])
def test_a_head_that_matters_most_learns_nothing_and_the_loss_is_the_same(soften, one_layer):
    batch = batch_of(0)
    arguments = one_layer, batch, jax.random.key(1), jnp.array(2)
    gradient, metrics = jax.jit(jax.grad(objective(soften=soften), has_aux=True))(*arguments)
    value = np.asarray(gradient["encoder"]["layer_00"]["value"]["kernel"])
    np.testing.assert_array_equal(value[:, 12:], 0)
    assert np.abs(value[:, :12]).min() > 0
    language = objective().language
    _, plain = jax.jit(lambda *given: language(*given))(*arguments)
    np.testing.assert_allclose(metrics["masked_loss"], plain["masked_loss"], rtol=1e-6)
    assert metrics["loss"] == pytest.approx(float(metrics["masked_loss"] + metrics["contrast_loss"]))


def test_a_gated_pass_is_without_heads_that_matter_nothing(one_layer, monkeypatch):
    gates = []
    encode = soft_masked_gradients._encode

    def seen(*arguments, **more):
        gates.append(more.get("gates"))
        return encode(*arguments, **more)

    monkeypatch.setattr(soft_masked_gradients, "_encode", seen)
    made = objective()
    found, gated_by = jax.jit(lambda *given: (made.represent(*given), gates[1]))(
        one_layer, batch_of(0), jax.random.key(1), jnp.array(0)
    )
    assert gates[0] is None
    np.testing.assert_array_equal(gated_by, np.array(IMPORTANCE[:1], np.float32))
    assert np.abs(found.full - found.again).max() > 0.01
    assert np.abs(found.full - found.gated).max() > 0.01


def test_training_lowers_the_contrast(one_layer):
    made = objective()
    assert isinstance(made, Coupling)
    gradient, optimizer = make_gradient(made, 2), optax.adam(1e-2)

    @jax.jit
    def train(params, state, step):
        grads, metrics = gradient(params, batch_of(0, size=8), jax.random.key(0), step)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics

    params, state, losses = one_layer, jax.jit(optimizer.init)(one_layer), []
    for step in range(25):
        params, state, metrics = train(params, state, jnp.array(step))
        losses.append(float(metrics["contrast_loss"]))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_validation_measures_masked_language_alone():
    made = objective()
    measured = made.without_dropout()
    assert measured == made.language.without_dropout()
    drawn = batch_of(0), jax.random.key(1), jnp.array(0)
    found, expected = (jax.jit(lambda *given, of=of: of.examples(*given))(*drawn) for of in (made, made.language))
    assert found == expected > 0
    assert made.without_remat() == made


def test_what_makes_no_two_passes_or_is_of_another_model_is_refused(params):
    still = TextModel(CONFIG._replace(dropout=0.0))
    with pytest.raises(ValueError, match="need dropout: two passes"):
        head_importance(still, params, [], jax.random.key(0))
    with pytest.raises(ValueError, match="need dropout"):
        objective(language=MaskedLanguage(still, WordMaskingConfig(), MaskedLanguageConfig(), 4, ()))
    with pytest.raises(ValueError, match=r"of \(2, 4\) layers and heads, and the model has \(1, 4\)"):
        objective(importance=IMPORTANCE)
    with pytest.raises(ValueError, match="soften='all' is unknown; known: parameters, flow"):
        objective(soften="all")
