"""Tiny random text models on disk, as Hugging Face folders hold them, and tiny vocabularies."""

import functools
import json
import re
from collections import Counter
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import safetensors.numpy
import tokenizers
from flax.traverse_util import flatten_dict

from mmdiff.models.pretrained_text import their_name, write_text_model
from mmdiff.models.text_encoder import TextEncoderConfig, init_params, init_text_params

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "person", "penny", "laptop", "dog", "a", "big", "man", "##s"]
SIZES = TextEncoderConfig(
    vocab_size=len(VOCABULARY), hidden_size=8, layers=2, heads=2, intermediate_size=16, positions=12, token_types=2
)

# One program: run one by one, each of its operations would be compiled.
drawn_params = jax.jit(init_text_params, static_argnums=(0, 2, 3, 4))


@functools.partial(jax.jit, static_argnums=(0, 2))
def applied(model: nn.Module, params: dict, method: str, *arrays: jax.Array):
    """What a method of a model makes of these, as one program."""
    return model.apply({"params": params}, *arrays, method=method)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters by Hugging Face's names, the embeddings of words so large that texts differ."""
    rng = np.random.default_rng(seed + 7)  # some words are alike and some opposite
    shapes = jax.eval_shape(lambda: init_params(SIZES, jax.random.key(0)))
    stored = {}
    for name, x in flatten_dict(shapes, sep=".").items():
        shape = x.shape[::-1] if name.endswith(".kernel") else x.shape
        drawn = rng.normal(size=shape) * (1.0 if "word_embeddings" in name else 0.1) + name.endswith("scale")
        stored[their_name(f"encoder.{name}")] = drawn.astype(np.float32)
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


SPECIAL = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),  # as in the release: padding is 1
}


def train_vocabulary(texts: list[str], family: str = "bert", size: int = 400) -> tokenizers.Tokenizer:
    """A tokenizer of a family that knows the texts: WordPiece in lower case, or byte pairs with their spaces."""
    if family == "bert":
        # Made by hand: the library's training breaks ties as it likes, and a test's model would differ each time.
        counts = Counter(re.findall(r"\w+|[^\w\s]", " ".join(texts).lower()))
        letters = sorted({letter for word in counts for letter in word})
        pieces = [*SPECIAL["bert"], *letters, *(f"##{letter}" for letter in letters)]
        words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*pieces, *words][: max(size, len(pieces))]))}
        tokenizer = tokenizers.BertWordPieceTokenizer(vocabulary, lowercase=True)
    else:
        tokenizer = tokenizers.ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(
            texts, vocab_size=size, min_frequency=1, special_tokens=list(SPECIAL["roberta"]), show_progress=False
        )
        ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
        tokenizer._tokenizer.post_processor = tokenizers.processors.RobertaProcessing(*ends, add_prefix_space=False)
    return tokenizers.Tokenizer.from_str(tokenizer.to_str())


def write_masked_model(
    folder: Path,
    texts: list[str],
    family: str = "bert",
    *,
    parts: tuple[str, ...] = ("encoder", "pooler", "mlm_head"),
    labels: tuple[str, ...] = (),
    head: str | None = None,
    seed: int = 0,
    **sizes,
) -> Path:
    """The folder of a tiny random BERT or RoBERTa whose vocabulary is learnt from the texts; by default no classifier."""
    tokenizer = train_vocabulary(texts, family)
    roberta = family == "roberta"
    config = TextEncoderConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        layers=2,
        heads=2,
        intermediate_size=32,
        positions=66 if roberta else 64,
        token_types=1 if roberta else 2,
        first_position=2 if roberta else 0,
        layer_norm_epsilon=1e-5 if roberta else 1e-12,
        family=family,
    )._replace(**sizes)
    params = drawn_params(config, jax.random.key(seed), parts, len(labels), head)
    write_text_model(folder, config, params, tokenizer.to_str(), labels, head)
    return folder
