"""A tiny random text encoder on disk, as a Hugging Face folder holds one."""

import json
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
import tokenizers
from flax.traverse_util import flatten_dict

from mmdiff.models.pretrained_text import their_name
from mmdiff.models.text_encoder import TextEncoderConfig, init_params

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "person", "penny", "laptop", "dog", "a", "big", "man", "##s"]
SIZES = TextEncoderConfig(
    vocab_size=len(VOCABULARY), hidden_size=8, layers=2, heads=2, intermediate_size=16, positions=12, token_types=2
)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters by Hugging Face's names, the embeddings of words so large that texts differ."""
    rng = np.random.default_rng(seed)
    flat = flatten_dict(init_params(SIZES, jax.random.key(0)), sep=".")
    stored = {}
    for name, x in flat.items():
        shape = x.shape[::-1] if name.endswith(".kernel") else x.shape
        drawn = rng.normal(size=shape) * (1.0 if "word_embeddings" in name else 0.1) + name.endswith("scale")
        stored[their_name(name)] = drawn.astype(np.float32)
    words = stored["embeddings.word_embeddings.weight"]
    words[3] = -words[2]  # What [CLS] and [SEP] give to every text cancels out.
    return stored


def config(**changed) -> dict:
    """The config.json of `arrays`."""
    return {
        "model_type": "bert",
        "vocab_size": SIZES.vocab_size,
        "hidden_size": SIZES.hidden_size,
        "num_hidden_layers": SIZES.layers,
        "num_attention_heads": SIZES.heads,
        "intermediate_size": SIZES.intermediate_size,
        "max_position_embeddings": SIZES.positions,
        "type_vocab_size": SIZES.token_types,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    } | changed


def write_text_encoder(folder: Path, seed: int = 0) -> Path:
    """The three files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays(seed), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True).save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()
    return folder
