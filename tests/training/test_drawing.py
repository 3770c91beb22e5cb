"""Masks drawn apart from the step: the same masks, and one program of the loss for all strategies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_texts

from mmdiff.data.loader import stack
from mmdiff.data.text_batches import padded
from mmdiff.data.text_corpora import Text
from mmdiff.data.text_examples import Annotations, text_examples
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.masking.word_strategies import WordMaskingConfig
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.models.text_encoder import TextModel
from mmdiff.objectives.masked_language import MaskedLanguage, MaskedLanguageConfig
from mmdiff.training.drawing import drawing, drawing_texts
from mmdiff.training.sharding import make_mesh, put_batch

KEY, STEP = jax.random.key(3), jnp.zeros((), jnp.int32)


def test_video_strategies_share_the_program_of_the_loss(parts):
    _, params, objective, batch = parts
    batch, programs = jax.tree.map(jnp.asarray, batch), set()
    for strategy in ("random", "difference", "clip"):
        masking = dataclasses.replace(objective.masking, strategy=strategy)
        made = dataclasses.replace(objective, masking=masking)
        drawn, metrics = drawing(make_mesh(1), made.draw)(batch, KEY, STEP)
        np.testing.assert_array_equal(drawn.mask.hidden, masks(made, batch))
        programs.add(jax.jit(lambda *given, made=made: made(*given)).lower(params, drawn, KEY, STEP).as_text())
        assert metrics == {}
        assert made.draws_apart
    assert len(programs) == 1
    attn = dataclasses.replace(objective, masking=dataclasses.replace(objective.masking, strategy="attn"))
    assert not attn.draws_apart


def masks(made, batch) -> jax.Array:
    """What is hidden inside a step that draws by itself."""
    return jax.jit(lambda batch: made.masks(batch, KEY, STEP).hidden)(batch)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A model and the examples of eight texts."""
    model = read_text_model(tiny_texts.write_model(tmp_path_factory.mktemp("model"), layers=1))
    tokenizer = TextTokenizer(model.tokenizer, 40)
    texts = [Text(f"train.txt:{i}", text, None, None, None) for i, (text, _) in enumerate(tiny_texts.texts(8))]
    made = text_examples(texts, tokenizer.encode([text.text for text in texts]), Annotations())
    return TextModel(model.config), tokenizer, made


@pytest.mark.parametrize("masking", [
    WordMaskingConfig(strategy="span", static=False),
    WordMaskingConfig(strategy="entity_rates", base_rate=0.3, replacement="80-10-10"),
])  # fmt: skip
def test_texts_of_all_lengths_are_drawn_for_by_one_program(texts, masking, monkeypatch):
    model, tokenizer, examples = texts
    config = MaskedLanguageConfig(dropout=0.0)
    made = MaskedLanguage(model, masking, config, tokenizer.mask_id, tokenizer.special_ids, added=tokenizer.added)
    mesh, lengths = make_mesh(1), []
    monkeypatch.setattr(MaskedLanguage, "about_masks", noting(lengths))
    together, alone = drawing_texts(mesh, made, 40), drawing(mesh, made.draw)
    longest = max(len(x.tokens) for x in examples)
    for length in (longest, longest + 4, 40):
        batch = put_batch(mesh, stack([padded(x, length) for x in examples]))
        jax.tree.map(np.testing.assert_array_equal, together(batch, KEY, STEP), alone(batch, KEY, STEP))
    assert lengths == [40, longest, longest + 4]  # one program of `together`, which is that of `alone` for the longest


def noting(lengths: list[int]):
    """`about_masks`, noting the lengths that a program is made for."""
    original = MaskedLanguage.about_masks

    def about_masks(self, drawn):
        lengths.append(drawn.tokens.shape[1])
        return original(self, drawn)

    return about_masks
