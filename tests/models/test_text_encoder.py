"""Text encoders against transformers, whole and damaged."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import text_encoders
from text_encoders import SIZES, VOCABULARY, applied, drawn_params, write_text_encoder

from mmdiff.masking.text_vectors import load_text_encoder
from mmdiff.models.pretrained import CheckpointError
from mmdiff.models.text_encoder import BertEncoder, Dropout, TextEncoderConfig, TextModel, init_text_params


@pytest.fixture
def folder(tmp_path):
    return write_text_encoder(tmp_path / "tiny")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_text_encoder(write_text_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


def rewrite(folder, arrays):
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


def test_a_text_is_embedded_alike_alone_and_among_longer_ones(encoder):
    texts = ["person", "a big dog", "laptops", "", *["a big person penny man"] * 70]
    together = encoder.embed(texts)
    assert together.shape == (74, SIZES.hidden_size)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for i in range(5):
        np.testing.assert_allclose(encoder.embed([texts[i]])[0], together[i], atol=1e-5)
    assert np.abs(together[0] - together[2]).max() > 0.1
    assert encoder.embed([]).shape == (0, SIZES.hidden_size)


def test_an_embedding_is_the_mean_over_all_tokens_of_a_text(encoder):
    ids = [VOCABULARY.index(word) for word in ("[CLS]", "a", "big", "laptop", "##s", "[SEP]")]
    tokens = jnp.array([ids], jnp.int32)
    hidden = applied(BertEncoder(SIZES), encoder._params["encoder"], "__call__", tokens, tokens >= 0)
    mean = np.asarray(hidden)[0].mean(axis=0)
    np.testing.assert_allclose(encoder.embed(["A big LAPTOPS"])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_texts_are_embedded_amidst_a_mesh_of_other_devices(encoder):
    alone = encoder.embed(["dog"])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(encoder.embed(["dog"]), alone)


def test_a_text_beyond_the_positions_is_cut_off(encoder):
    room = SIZES.positions - 2  # [CLS] and [SEP]
    np.testing.assert_array_equal(encoder.embed(["dog " * room])[0], encoder.embed(["dog " * (room + 5)])[0])


def test_a_vocabulary_without_tokenizer_json_is_enough(folder, encoder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    np.testing.assert_array_equal(load_text_encoder(folder).embed(["Penny"]), encoder.embed(["Penny"]))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    np.testing.assert_array_equal(load_text_encoder(folder).embed(["Penny"]), encoder.embed(["[UNK]"]))


def test_names_from_tensorflow_and_of_other_heads_and_buffers_are_known(folder, encoder):
    renamed = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in text_encoders.arrays().items()
    }
    extra = ("bert.embeddings.position_ids", "cls.seq_relationship.weight", "qa_outputs.bias")
    rewrite(folder, renamed | {name: np.ones(3, np.float32) for name in extra})
    np.testing.assert_array_equal(load_text_encoder(folder).embed(["dog"]), encoder.embed(["dog"]))


def test_the_digest_is_of_the_content(folder, encoder):
    same = load_text_encoder(folder)
    assert (same.name, same.digest) == ("tiny", encoder.digest)
    write_text_encoder(folder, seed=1)
    assert load_text_encoder(folder).digest != encoder.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: found.pop("encoder.layer.1.output.dense.bias"),
            "1 missing, such as encoder.layer.1.output.dense",
        ),
        (
            lambda found: found.update({"encoder.layer.2.output.dense.bias": np.ones(8)}),
            "1 unknown, such as encoder.la",
        ),
        (
            lambda found: found.update({"encoder.layer.0.intermediate.dense.weight": np.ones((4, 8))}),
            r"intermediate.dense.weight is \(4, 8\), the model needs \(16, 8\)",
        ),
    ],
)
def test_a_file_with_other_arrays_is_refused(folder, change, message):
    arrays = text_encoders.arrays()
    change(arrays)
    rewrite(folder, arrays)
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'.* one of bert, roberta"),
        ({"model_type": None}, "older files do not say"),
        ({"hidden_act": "swish"}, "hidden_act='swish' is unknown; known: gelu, gelu_new, relu"),
        ({"is_decoder": True}, "only plain encoders"),
        ({"position_embedding_type": "relative_key"}, "only plain encoders"),
        ({"num_attention_heads": 3}, "sizes that make no model"),
        ({"hidden_size": "8"}, "sizes that make no model"),
        ({"model_type": "roberta", "pad_token_id": None}, "pad_token_id=None"),
        ({"vocab_size": 5}, "has token 11 and the model .* knows 5"),
    ],
)
def test_a_config_of_another_model_is_refused(folder, changed, message):
    (folder / "config.json").write_text(json.dumps(text_encoders.config(**changed)))
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(folder)


def test_a_size_that_is_not_stated_is_named(folder):
    stated = text_encoders.config()
    del stated["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match="states no num_hidden_layers"):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "{", "is not JSON"),
        ("config.json", "[]", "model_type None"),
        ("model.safetensors", None, "has no model.safetensors$"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1", "not a whole safetensors file"),
        ("tokenizer.json", None, "neither tokenizer.json nor vocab.txt"),
        ("tokenizer.json", "{}", "no tokenizer that can be read"),
    ],
)
def test_a_missing_or_damaged_file_is_named(folder, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no folder of a text encoder at .*nowhere"):
        load_text_encoder(tmp_path / "nowhere")


TINY = TextEncoderConfig(
    vocab_size=30, hidden_size=8, layers=2, heads=2, intermediate_size=16, positions=12, token_types=2
)


@pytest.fixture(scope="module")
def tiny():
    """Parameters of TINY, large enough for every part to matter, and a batch with padding."""
    drawn = drawn_params(TINY, jax.random.key(0), ("encoder", "pooler", "mlm_head"))
    drawn = jax.tree.map(np.asarray, drawn)
    params = jax.tree.map(lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape).astype("f4"), drawn)
    params = jax.tree.map(jnp.asarray, params)
    tokens = jax.random.randint(jax.random.key(1), (3, 7), 0, 30)
    valid = jnp.arange(7) < jnp.array([7, 4, 2])[:, None]
    return params, tokens, valid


def test_remat_changes_neither_loss_nor_gradient(tiny):
    params, tokens, valid = tiny

    def loss(params, config):
        model = TextModel(config)
        logits = model.apply({"params": params}, tokens, valid, tokens[:, :2] % 2, method="masked_logits")
        return jax.nn.log_softmax(logits)[..., 3].mean()

    value = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    plain, again = (value(params, TINY._replace(remat=remat)) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, again)


def test_dropout_is_drawn_anew_for_each_key_and_only_where_asked(tiny):
    params, tokens, valid = tiny
    model = TextModel(TINY._replace(dropout=0.2))

    @functools.partial(jax.jit, static_argnames="deterministic")
    def program(params, seed, deterministic):
        keys = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, valid, deterministic=deterministic, rngs=keys, method="encode")

    def encode(seed, deterministic=False):
        return program(params, seed, deterministic)

    plain = jax.jit(lambda params: TextModel(TINY).apply({"params": params}, tokens, valid, method="encode"))(params)
    np.testing.assert_array_equal(encode(0, deterministic=True), plain)
    np.testing.assert_array_equal(encode(0), encode(0))
    assert np.abs(encode(0) - encode(1)).max() > 0.1


def test_a_gate_at_zero_takes_a_head_out(tiny):
    params, tokens, valid = tiny
    model = TextModel(TINY)
    gates = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    # The same by the weights: the first head's rows of the second layer's output.
    kernel = params["encoder"]["layer_01"]["attention_out"]["kernel"].at[:4].set(0.0)
    layer = params["encoder"]["layer_01"]
    cut = {
        "encoder": params["encoder"]
        | {"layer_01": layer | {"attention_out": layer["attention_out"] | {"kernel": kernel}}}
    }
    expected, plain = (applied(model, x, "encode", tokens, valid) for x in (cut, {"encoder": params["encoder"]}))
    actual = jax.jit(lambda gates: model.apply({"params": params}, tokens, valid, gates=gates, method="encode"))(gates)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert np.abs(actual - plain).max() > 0.1


def test_a_gradient_scale_changes_no_output_and_stops_what_flows_back_through_a_head(tiny):
    params, tokens, valid = tiny
    model = TextModel(TINY)

    @jax.jit
    def hidden(params, scale):
        return model.apply({"params": params}, tokens, valid, gradient_scale=scale, method="encode")

    @jax.jit
    def gradient(scale):
        return jax.grad(lambda params: (hidden(params, scale)[..., 0] * valid).sum())(params)["encoder"]["layer_01"]

    ones, scale = jnp.ones((2, 2)), jnp.array([[1.0, 1.0], [0.0, 0.5]])
    np.testing.assert_array_equal(hidden(params, scale), hidden(params, ones))
    full, scaled = gradient(ones), gradient(scale)
    value = full["value"]["kernel"]
    assert np.abs(value).min() > 0
    np.testing.assert_array_equal(scaled["value"]["kernel"][:, :4], 0)
    np.testing.assert_allclose(scaled["value"]["kernel"][:, 4:], value[:, 4:] / 2, rtol=1e-5)
    np.testing.assert_allclose(scaled["attention_out"]["kernel"], full["attention_out"]["kernel"], rtol=1e-6)


def test_the_last_layer_at_some_places_is_that_of_all_places(tiny):
    params, tokens, valid = tiny
    model, at = TextModel(TINY), jnp.array([[0, 2], [1, 0], [3, 3]])

    @jax.jit
    def hidden(params, at=None):
        return model.apply({"params": params}, tokens, valid, at=at, method="encode")

    expected = jnp.take_along_axis(hidden(params), at[..., None], axis=1)
    np.testing.assert_allclose(hidden(params, at), expected, atol=1e-6)


def test_dropout_leaves_out_the_share_it_is_asked_to_and_keeps_the_mean():
    x = jnp.ones((50, 7, 301))  # an odd width: two numbers share 32 bits
    drop = jax.jit(lambda key: Dropout(0.1, False).apply({}, x, rngs={"dropout": key}))
    kept, other = drop(jax.random.key(0)), drop(jax.random.key(1))
    dropped = np.asarray(kept == 0)
    # Four standard errors of a share of 105,350 draws.
    assert dropped.mean() == pytest.approx(0.1, abs=0.004) and dropped[..., ::2].mean() == pytest.approx(0.1, abs=0.006)
    np.testing.assert_allclose(kept[kept != 0], 1 / 0.9, rtol=1e-6)
    assert (np.asarray(other == 0) != dropped).mean() == pytest.approx(0.18, abs=0.01)
    np.testing.assert_array_equal(Dropout(0.1, True).apply({}, x), x)


def test_what_padding_holds_and_how_much_there_is_does_not_matter(tiny):
    params, tokens, valid = tiny
    model = TextModel(TINY)

    def logits(tokens, valid):
        return applied(model, params, "masked_logits", tokens, valid, jnp.ones((3, 1), jnp.int32))

    plain = logits(tokens, valid)
    np.testing.assert_array_equal(logits(jnp.where(valid, tokens, 5), valid), plain)
    longer = (jnp.pad(x, ((0, 0), (0, 3))) for x in (tokens, valid))
    np.testing.assert_allclose(logits(*longer), plain, atol=1e-5)


def test_logits_are_float32_in_bfloat16_too(tiny):
    params, tokens, valid = tiny
    model = TextModel(TINY._replace(dtype="bfloat16"))
    hidden = jax.eval_shape(lambda: model.apply({"params": params}, tokens, valid, method="encode"))
    assert hidden.dtype == jnp.bfloat16
    given = "masked_logits", tokens, valid, jnp.ones((3, 1), jnp.int32)
    logits, plain = (applied(x, params, *given) for x in (model, TextModel(TINY)))
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - plain).max() < 0.2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"parts": ("encoder", "head")}, "no part of a text model is called head; known: encoder, pooler"),
        ({"parts": ("classifier",), "labels": 3}, "needs labels and a head of sequence, token: found 3 and None"),
        ({"parts": ("classifier",), "head": "token"}, "found 0 and 'token'"),
    ],
)
def test_parts_that_make_no_model_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        init_text_params(TINY, jax.random.key(0), **asked)
