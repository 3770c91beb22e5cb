"""Vectors of texts: what is made of hidden states, and what is kept on disk of it."""

import jax.numpy as jnp
import numpy as np
import pytest
from text_encoders import VOCABULARY, applied, write_masked_model, write_text_encoder

from mmdiff.masking import text_vectors
from mmdiff.masking.text_vectors import FEWEST_KEPT, TextEncoder, load_text_encoder
from mmdiff.models.pretrained import CheckpointError
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.models.text_encoder import TextModel

WORDS = [f"{word} {number * 'dog '}" for word in VOCABULARY[4:11] for number in range(11)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return read_text_model(write_text_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch):
    """How many texts each encoder was asked for, and could not look up."""
    counts = []
    embedded = TextEncoder._embedded

    def count(self, texts):
        counts.append(len(texts))
        return embedded(self, texts)

    monkeypatch.setattr(TextEncoder, "_embedded", count)
    return counts


def test_words_are_embedded_once_for_all_runs(model, cache, asked):
    first = TextEncoder(model).embed([*WORDS, *WORDS[:5]])
    again = TextEncoder(model)
    np.testing.assert_array_equal(again.embed(WORDS), first[: len(WORDS)])
    np.testing.assert_array_equal(again.embed(["person", *WORDS[:3]])[1:], first[:3])
    assert asked == [len(WORDS), 0, 1]
    np.testing.assert_array_equal(first[len(WORDS) :], first[:5])


def test_few_words_make_no_file(model, cache):
    TextEncoder(model).embed(WORDS[: FEWEST_KEPT - 1])
    assert not cache.exists()


def test_vectors_of_another_encoder_or_pool_are_not_taken(model, cache, tmp_path):
    TextEncoder(model).embed(WORDS)
    other = TextEncoder(read_text_model(write_text_encoder(tmp_path / "other", seed=1)))
    assert np.abs(other.embed(WORDS) - TextEncoder(model).embed(WORDS)).max() > 0.1
    assert len(list(cache.glob("*/*/*"))) == 2


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"x", lambda _: b""])
def test_a_damaged_cache_is_made_anew(damage, model, cache, asked, caplog):
    expected = TextEncoder(model).embed(WORDS)
    (path,) = cache.glob("*/*/*")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    np.testing.assert_array_equal(TextEncoder(model).embed(WORDS), expected)
    assert asked == [len(WORDS)] * 2
    assert "is damaged" in caplog.text
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_stops_nothing(model, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMDIFF_CACHE", str(tmp_path / "file"))
    assert TextEncoder(model).embed(WORDS).shape == (len(WORDS), model.config.hidden_size)
    assert "are not kept in" in caplog.text


def test_the_pooler_is_that_of_the_model(cache, tmp_path):
    found = read_text_model(write_masked_model(tmp_path / "model", ["the parser reads a sentence"]))
    ids = jnp.array([found.tokenizer.encode("parser sentence").ids], jnp.int32)
    pooled = np.asarray(applied(TextModel(found.config), found.params, "pooled", ids, ids >= 0))[0]
    encoder = load_text_encoder(tmp_path / "model", "pooler")
    np.testing.assert_allclose(encoder.embed(["parser sentence"])[0], pooled / np.linalg.norm(pooled), atol=1e-5)
    assert encoder.pool == "pooler"


def test_a_model_without_a_pooler_is_refused(model):
    with pytest.raises(CheckpointError, match="tiny has no pooler: compare texts with pool='mean'"):
        TextEncoder(model, "pooler")
    with pytest.raises(ValueError, match="pool='first' is unknown; known: mean, pooler"):
        TextEncoder(model, "first")
    assert set(text_vectors.POOLS) == {"mean", "pooler"}
