"""The folder of a BERT or RoBERTa of Hugging Face's format in, sizes, parameters and tokenizer out.

A folder holds config.json, model.safetensors and tokenizer.json (or vocab.txt). Nothing else of it is read, and nothing
is unpickled.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
import tokenizers
from flax.traverse_util import flatten_dict, unflatten_dict

from mmdiff.models.pretrained import CheckpointError, mismatches
from mmdiff.models.text_encoder import ACTIVATIONS, TextEncoderConfig, init_params

CONFIG, WEIGHTS, TOKENIZER, VOCABULARY = "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"
MODEL_TYPES = ("bert", "roberta")
# What our parts of a layer are called there.
THEIR_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "out": "output.dense",
    "out_norm": "output.LayerNorm",
}
# Not of the encoder: heads, and buffers that older files hold.
IGNORED = ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.", "embeddings.position_ids")


def their_name(ours: str) -> str:
    """The name in a Hugging Face file of a parameter of BertEncoder, "layer_00.query.kernel"."""
    module, leaf = ours.rsplit(".", 1)
    if match := re.fullmatch(r"layer_(\d+)\.(\w+)", module):
        module = f"encoder.layer.{int(match[1])}.{THEIR_NAMES[match[2]]}"
    return f"{module}.{leaf if leaf == 'bias' else 'weight'}"


def encoder_params(found: dict[str, np.ndarray], config: TextEncoderConfig, *, prefix: str, source: str) -> dict:
    """The parameters of a file's arrays, in float32: each name and shape the model's, none left over but IGNORED.

    Args:
      found: arrays by Hugging Face's names.
      config: the sizes that the folder states.
      prefix: what the encoder's names begin with in the file of a model with a head, "bert" or "roberta".
      source: the file, for messages.

    Raises CheckpointError.
    """
    shapes = flatten_dict(jax.eval_shape(lambda: init_params(config, jax.random.key(0))), sep=".")
    wanted = {their_name(ours): ours for ours in shapes}
    arrays, unknown, wrong = {}, [], []
    for full_name, array in found.items():
        name = full_name.removeprefix(f"{prefix}.")
        # Files converted from TensorFlow, such as the first BERT's, have its names for a norm's two vectors.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(IGNORED):
            continue
        if name not in wanted:
            unknown.append(full_name)
            continue
        ours = wanted.pop(name)
        expected = shapes[ours].shape
        if ours.endswith(".kernel"):
            array, expected = array.T, expected[::-1]
        if array.shape != shapes[ours].shape:
            stored = array.shape[::-1] if ours.endswith(".kernel") else array.shape
            wrong.append(f"{full_name} is {stored}, the model needs {expected}")
        arrays[ours] = np.asarray(array, np.float32)
    if parts := mismatches(wrong, sorted(wanted), sorted(unknown)):
        raise CheckpointError(f"{source} does not match its {CONFIG}: {'; '.join(parts)}")
    return unflatten_dict(arrays, sep=".")


class PretrainedText(NamedTuple):
    """A model and its vocabulary."""

    config: TextEncoderConfig
    params: dict
    tokenizer: tokenizers.Tokenizer  # cuts texts to the model's positions
    name: str  # of its folder
    digest: str  # of what was read


def read_text_model(folder: str | Path) -> PretrainedText:
    """Reads a BERT or RoBERTa of Hugging Face's format.

    Raises CheckpointError where the folder, a file of it or an array is missing, damaged or of another kind of model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"no folder of a text encoder at {folder}; give one with {CONFIG}, {WEIGHTS} and {TOKENIZER}"
        )
    found = _read_config(folder)
    config = _sizes(found, folder / CONFIG)
    tokenizer, tokenizer_file = _read_tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(config.longest)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= config.vocab_size:
        raise CheckpointError(
            f"{tokenizer_file} has token {highest} and the model of {folder / CONFIG} knows {config.vocab_size}: "
            "the two are not of the same model"
        )
    params = encoder_params(_read_weights(folder), config, prefix=found["model_type"], source=str(folder / WEIGHTS))
    digest = hashlib.sha256()
    for path in (folder / CONFIG, folder / WEIGHTS, tokenizer_file):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return PretrainedText(config, params, tokenizer, folder.resolve().name, digest.hexdigest()[:16])


def _read_config(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; is it the folder of a Hugging Face model?")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy it again") from None
    if not isinstance(found, dict) or found.get("model_type") not in MODEL_TYPES:
        what = found.get("model_type") if isinstance(found, dict) else None
        raise CheckpointError(
            f"{path} is of model_type {what!r}, and a text encoder must be one of {', '.join(MODEL_TYPES)}"
            + ("" if what else '; older files do not say: add "model_type" to it')
        )
    return found


def _sizes(found: dict, path: Path) -> TextEncoderConfig:
    """The sizes that a config.json states; what it leaves out is as in transformers."""
    is_roberta = found["model_type"] == "roberta"
    if found.get("position_embedding_type", "absolute") != "absolute" or found.get("is_decoder"):
        raise CheckpointError(f"{path} is of a decoder, or of relative positions: only plain encoders are known")
    if found.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise CheckpointError(f"{path}: hidden_act={found['hidden_act']!r} is unknown; known: {', '.join(ACTIVATIONS)}")
    padding = found.get("pad_token_id", 1)
    try:
        config = TextEncoderConfig(
            vocab_size=found["vocab_size"],
            hidden_size=found["hidden_size"],
            layers=found["num_hidden_layers"],
            heads=found["num_attention_heads"],
            intermediate_size=found["intermediate_size"],
            positions=found["max_position_embeddings"],
            token_types=found.get("type_vocab_size", 2),
            first_position=padding + 1 if is_roberta else 0,
            activation=found.get("hidden_act", "gelu"),
            layer_norm_epsilon=found.get("layer_norm_eps", 1e-12),
        )
    except KeyError as error:
        raise CheckpointError(f"{path} states no {error.args[0]}; is it the {CONFIG} of a text encoder?") from None
    except TypeError:
        raise CheckpointError(f"{path}: pad_token_id={padding!r} must be a number") from None
    sizes = config[:7]
    if not all(isinstance(size, int) and size > 0 for size in (*sizes, config.longest)) or sizes[1] % sizes[3]:
        raise CheckpointError(f"{path} states sizes that make no model: {config._asdict()}")
    return config


def _read_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, Path]:
    """The folder's tokenizer, and the file that it is made of."""
    path, vocabulary = folder / TOKENIZER, folder / VOCABULARY
    try:
        if path.is_file():
            return tokenizers.Tokenizer.from_file(str(path)), path
        if vocabulary.is_file():
            options = folder / "tokenizer_config.json"
            lowercase = json.loads(options.read_text()).get("do_lower_case", True) if options.is_file() else True
            made = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=lowercase)
            return tokenizers.Tokenizer.from_str(made.to_str()), vocabulary
    except Exception as error:  # noqa: BLE001  the library raises nothing narrower for a bad file
        raise CheckpointError(f"{folder} holds no tokenizer that can be read: {error}") from None
    raise CheckpointError(f"{folder} has neither {TOKENIZER} nor {VOCABULARY}: save its tokenizer there as a fast one")


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    path = folder / WEIGHTS
    if not path.is_file():
        others = sorted(p.name for p in folder.iterdir() if p.name.startswith(("pytorch_model", "model.safetensors")))
        raise CheckpointError(
            f"{folder} has no {WEIGHTS}"
            + (
                f", only {others[0]}: save the model again with transformers, whole and as safetensors"
                if others
                else ""
            )
        )
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}; copy it again") from None
