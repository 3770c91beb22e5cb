"""CLIP's patches beside anchor words, by MaskCLIP's way through a random model."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from mmdiff.data.records import SIMILARITY_GRID
from preprocessing.anchor_similarity import PROMPT, AnchorSimilarity, find_model
from preprocessing.problems import PreprocessError
from preprocessing.saved_models import digest_of_model

# Two orders of the same float32 sums, of at most 128 terms a layer and three layers deep: some hundred roundings.
ROUNDING = 200 * np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def person_or_face(random_clip):
    return AnchorSimilarity(random_clip, ("person", "face"))


@pytest.fixture(scope="module")
def frame():
    return np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)


def test_anchors_are_embedded_as_the_text_model_with_its_projection_does(random_clip, person_or_face):
    model = transformers.CLIPTextModelWithProjection.from_pretrained(random_clip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(random_clip)
    with torch.inference_mode():  # one by one: without padding
        texts = [
            model(**tokenizer(f"a photo of a {word}", return_tensors="pt")).text_embeds for word in ("person", "face")
        ]
    np.testing.assert_allclose(person_or_face.texts, torch.cat(texts), rtol=ROUNDING, atol=ROUNDING)


def test_the_value_path_is_the_last_layer_in_which_every_patch_looks_at_itself_alone(person_or_face, frame):
    """Transformers' own layers, the last with an attention mask that leaves the diagonal."""
    vision, pixels = person_or_face.model.vision_model, person_or_face.pixels([frame])
    with torch.inference_mode():
        hidden = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=True))
        *layers, last = vision.encoder.layers
        for layer in layers:
            hidden = layer(hidden, attention_mask=None)
        itself = torch.where(torch.eye(hidden.shape[1], dtype=bool), 0.0, -torch.inf)[None, None]
        hidden = last(hidden, attention_mask=itself)
        expected = person_or_face.model.visual_projection(vision.post_layernorm(hidden[:, 1:]))
        found = person_or_face.patch_features(pixels)
    assert found.shape == (1, 18 * 32, 32)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING * scale)


def test_the_value_path_is_not_the_plain_one(person_or_face, frame):
    pixels = person_or_face.pixels([frame])
    with torch.inference_mode():
        model = person_or_face.model
        plain = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        plain = model.visual_projection(model.vision_model.post_layernorm(plain))
        assert (plain - person_or_face.patch_features(pixels)).abs().max() > 0.1


def test_pixels_have_the_models_mean_and_deviation_and_the_whole_frame(person_or_face, frame):
    pixels = person_or_face.pixels([np.full((90, 160, 3), 255, np.uint8), frame])
    assert pixels.shape == (2, 3, 18 * 16, 32 * 16)
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    np.testing.assert_allclose(pixels[0].amax((1, 2)), (1 - mean) / deviation, rtol=1e-5)
    # The frame grew by the same in both directions, so its corners are still the corners.
    corners = frame[[0, 0, -1, -1], [0, -1, 0, -1]] / 255
    found = pixels[1][:, [0, 0, -1, -1], [0, -1, 0, -1]].T.numpy() * deviation + mean
    assert np.abs(found - corners).max() < 0.15  # bicubic, among neighbours that are noise


def test_similarity_is_the_higher_cosine_of_the_anchors_and_a_cosine(random_clip, person_or_face, frame):
    both = person_or_face([frame])
    person, face = (AnchorSimilarity(random_clip, (word,))([frame]) for word in ("person", "face"))
    assert both.shape == (1, *SIMILARITY_GRID) and both.dtype == np.float32
    assert np.abs(both).max() <= 1
    assert np.abs(person - face).max() > 0.01
    np.testing.assert_allclose(both, np.maximum(person, face), atol=ROUNDING)


def test_a_place_says_what_is_in_that_place(person_or_face):
    """A bright square changes its own patches most: rows are rows, and columns are columns."""
    dark = np.full((180, 320, 3), 40, np.uint8)
    marked = dark.copy()
    marked[30:40, 250:260] = 250
    change = np.abs(person_or_face([marked])[0] - person_or_face([dark])[0])
    assert np.unravel_index(change.argmax(), change.shape) == (3, 25)


def test_frames_of_several_sizes_are_scored_as_each_alone(person_or_face, frame):
    tall = np.random.default_rng(1).integers(0, 255, (120, 60, 3), np.uint8)
    together = person_or_face([frame, tall])
    alone = np.concatenate([person_or_face([frame]), person_or_face([tall])])
    np.testing.assert_allclose(together, alone, atol=ROUNDING)


def test_an_anchor_longer_than_clip_reads_is_refused(random_clip):
    with pytest.raises(PreprocessError, match="anchor 'xxx.* has more than the 77 tokens"):
        AnchorSimilarity(random_clip, ("person", "x" * 100))
    assert PROMPT.format("person") == "a photo of a person"


def _without(name):
    return lambda folder: (folder / name).unlink()


def _other_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))


def _pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _text_half(folder):
    transformers.CLIPTextModelWithProjection.from_pretrained(folder).save_pretrained(folder / "half")
    shutil.copy(folder / "half" / "model.safetensors", folder)


@pytest.mark.parametrize(
    "damage, says",
    [
        (_without("config.json"), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no config.json of a model"),
        (_other_type, "of type 'siglip' and must be one of type 'clip'"),
        (_without("tokenizer.json"), "holds no tokenizer"),
        (_pickled, "holds no model.safetensors"),
        (_cut, "model.safetensors of .* cannot be read"),
        (_text_half, "lack visual_projection.weight: half a CLIP"),
    ],
)
def test_what_is_no_clip_is_one_clear_sentence(random_clip, tmp_path, damage, says):
    folder = shutil.copytree(random_clip, tmp_path / "model")
    assert find_model(str(folder)) == folder
    damage(folder)
    with pytest.raises(PreprocessError, match=says):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "no", "a/b/c", "~/none"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(PreprocessError, match="is no folder; give one that holds a CLIP model, or a hub id"):
        find_model(name)


def test_an_id_that_the_hub_does_not_give_is_one_clear_sentence(tmp_path):
    code = (
        "from preprocessing.anchor_similarity import find_model\nfrom preprocessing.problems import PreprocessError\n"
        "try: find_model('nobody/no-model')\nexcept PreprocessError as error: print(error)"
    )
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    assert "clip: nobody/no-model is no folder, and the hub does not give it: " in found.stdout
    assert len(found.stdout.splitlines()) == 1


def test_weights_that_do_not_fill_the_model_are_refused(random_clip, tmp_path):
    folder = shutil.copytree(random_clip, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PreprocessError, match="the weights of model lack vision_model.encoder.layers.2"):
        AnchorSimilarity(folder, ("person",))


def test_a_models_digest_is_of_all_it_says_and_not_of_where_it_lies(random_clip, tmp_path):
    folder = shutil.copytree(random_clip, tmp_path / "model")
    assert digest_of_model(folder) == digest_of_model(random_clip)
    (folder / "preprocessor_config.json").write_text("{}")
    assert digest_of_model(folder) != digest_of_model(random_clip)
