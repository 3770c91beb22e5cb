"""Text encoders against transformers, whole and damaged."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import text_encoders
from text_encoders import SIZES, VOCABULARY, write_text_encoder

from mmdiff.masking.text_vectors import load_text_encoder
from mmdiff.models.pretrained import CheckpointError
from mmdiff.models.pretrained_text import _sizes, encoder_params
from mmdiff.models.text_encoder import BertEncoder


@pytest.fixture
def folder(tmp_path):
    return write_text_encoder(tmp_path / "tiny")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_text_encoder(write_text_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


def rewrite(folder, arrays):
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


def transformers_model(kind: str, with_head: bool):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 12,
        "type_vocab_size": 1 if kind == "Roberta" else 2,
        "pad_token_id": 1 if kind == "Roberta" else 0,
        "initializer_range": 0.5,
    }
    config = getattr(transformers, f"{kind}Config")(**sizes)
    torch.manual_seed(0)
    return torch, getattr(transformers, kind + ("ForMaskedLM" if with_head else "Model"))(config).eval()


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_hidden_states_are_those_of_transformers_with_padding_too(kind, with_head, tmp_path):
    torch, model = transformers_model(kind, with_head)
    with torch.no_grad():  # norms and biases start at 1 and 0, where a mistake would not show
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    config = _sizes(stated, tmp_path / "config.json")
    found = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    params = encoder_params(found, config, prefix=kind.lower(), source="the file")

    padding = stated["pad_token_id"]
    lengths = np.array([9, 4, 1])
    valid = np.arange(9) < lengths[:, None]
    tokens = np.where(valid, np.random.default_rng(0).integers(2, 20, (3, 9)), padding).astype(np.int32)
    types = (np.arange(9) > 2) * valid * (config.token_types - 1)
    with torch.no_grad():
        base = getattr(model, kind.lower()) if with_head else model
        expected = base(
            torch.tensor(tokens), attention_mask=torch.tensor(valid), token_type_ids=torch.tensor(types)
        ).last_hidden_state.numpy()
    actual = BertEncoder(config).apply({"params": params}, *map(jnp.asarray, (tokens, valid, types)))
    np.testing.assert_allclose(np.asarray(actual)[valid], expected[valid], atol=1e-5)
    assert np.abs(expected[valid]).max() > 0.5


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
    hidden = BertEncoder(SIZES).apply({"params": encoder._params}, tokens, tokens >= 0)
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


def test_names_from_tensorflow_and_of_heads_and_buffers_are_known(folder, encoder):
    renamed = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in text_encoders.arrays().items()
    }
    extra = ("bert.pooler.dense.weight", "cls.predictions.bias", "bert.embeddings.position_ids", "classifier.weight")
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


def test_pickled_weights_are_not_read(folder):
    os.rename(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only pytorch_model.bin: save the model again"):
        load_text_encoder(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no folder of a text encoder at .*nowhere"):
        load_text_encoder(tmp_path / "nowhere")
