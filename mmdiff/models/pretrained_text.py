"""The folder of a BERT or RoBERTa of Hugging Face's format in, sizes, parameters and tokenizer out; and back.

A folder holds config.json, model.safetensors or pytorch_model.bin, and tokenizer.json or the files of a vocabulary. Nothing
else of it is read. No pickle is run: `torch_file` reads a pytorch_model.bin without.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
import tokenizers
from flax.traverse_util import flatten_dict, unflatten_dict

from mmdiff.data.text_tokens import MASK_TOKENS
from mmdiff.models.pretrained import CheckpointError, mismatches
from mmdiff.models.text_encoder import ACTIVATIONS, FAMILIES, HEADS, TextEncoderConfig, init_text_params
from mmdiff.models.torch_file import read_torch_file
from mmdiff.whole_files import write_whole

CONFIG, WEIGHTS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, BYTE_VOCABULARY, MERGES = "vocab.txt", "vocab.json", "merges.txt"
# What our parts of a layer are called there.
LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "out": "output.dense",
    "out_norm": "output.LayerNorm",
}
# And of a head, by family.
HEAD_NAMES = {
    "bert": {
        "pooler": "pooler.dense",
        "mlm_head": "cls.predictions",
        "mlm_head.dense": "cls.predictions.transform.dense",
        "mlm_head.LayerNorm": "cls.predictions.transform.LayerNorm",
        "classifier.out_proj": "classifier",
    },
    "roberta": {
        "pooler": "pooler.dense",
        "mlm_head": "lm_head",
        "mlm_head.dense": "lm_head.dense",
        "mlm_head.LayerNorm": "lm_head.layer_norm",
        "classifier.dense": "classifier.dense",
        "classifier.out_proj": "classifier.out_proj",
    },
}
# How the names of a part begin in a file that has it.
BEGINNINGS = {"pooler": ("pooler.",), "mlm_head": ("cls.predictions.", "lm_head."), "classifier": ("classifier.",)}
# What a model of each head is called there, after the family.
ARCHITECTURES = {"sequence": "ForSequenceClassification", "token": "ForTokenClassification"}
# Heads that are not known here, and buffers that older files hold.
IGNORED = ("cls.seq_relationship.", "qa_outputs.", "embeddings.position_ids")


def their_name(ours: str, family: str = "bert", head: str | None = None) -> str:
    """The name in a Hugging Face file of a parameter of TextModel, "encoder.layer_00.query.kernel", without its prefix."""
    module, leaf = ours.rsplit(".", 1)
    module = module.removeprefix("encoder.")
    if match := re.fullmatch(r"layer_(\d+)\.(\w+)", module):
        module = f"encoder.layer.{int(match[1])}.{LAYER_NAMES[match[2]]}"
    elif module == "classifier.out_proj" and head == "token":
        module = "classifier"
    else:
        module = HEAD_NAMES[family].get(module, module)
    return f"{module}.{leaf if leaf == 'bias' else 'weight'}"


def text_params(found: dict[str, np.ndarray], config: TextEncoderConfig, head: str | None, *, source: str) -> dict:
    """The parameters of a file's arrays, in float32: each name and shape the model's, none left over but IGNORED.

    Args:
      found: arrays by Hugging Face's names.
      config: the sizes that the folder states.
      head: what the file's classifier is for; with None it is left out.
      source: the file, for messages.

    Returns:
      TextModel's parts that the file has. Raises CheckpointError.
    """
    arrays = {}
    for full_name, array in found.items():
        name = full_name.removeprefix(f"{config.family}.")
        # Files converted from TensorFlow, such as the first BERT's, have its names for a norm's two vectors.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name in arrays:
            raise CheckpointError(f"{source} has {name} twice, with and without {config.family!r} before it")
        if not name.startswith(IGNORED) and (head or not name.startswith(BEGINNINGS["classifier"])):
            arrays[name] = full_name, array
    _untie(arrays, config, source)
    parts = ("encoder", *(part for part, begun in BEGINNINGS.items() if any(name.startswith(begun) for name in arrays)))
    shapes = _shapes(config, parts, head, _labels_of(arrays))
    wanted = {their_name(ours, config.family, head): ours for ours in shapes}
    params, unknown, wrong = {}, [], []
    for name, (full_name, array) in arrays.items():
        if name not in wanted:
            unknown.append(full_name)
            continue
        ours = wanted.pop(name)
        if ours.endswith(".kernel"):
            array = array.T
        if array.shape != shapes[ours]:
            turned = slice(None, None, -1 if ours.endswith(".kernel") else 1)
            wrong.append(f"{full_name} is {array.shape[turned]}, the model needs {shapes[ours][turned]}")
        params[ours] = array
    if problems := mismatches(wrong, sorted(wanted), sorted(unknown)):
        raise CheckpointError(f"{source} does not match its {CONFIG}: {'; '.join(problems)}")
    return unflatten_dict({name: np.asarray(array, np.float32) for name, array in params.items()}, sep=".")


def _shapes(
    config: TextEncoderConfig, parts: tuple[str, ...], head: str | None, labels: int
) -> dict[str, tuple[int, ...]]:
    tree = jax.eval_shape(lambda: init_text_params(config, jax.random.key(0), parts, labels, head))
    return {name: leaf.shape for name, leaf in flatten_dict(tree, sep=".").items()}


def _labels_of(arrays: dict[str, tuple[str, np.ndarray]]) -> int:
    """How many labels a file's classifier tells apart."""
    biases = [arrays[name][1] for name in ("classifier.bias", "classifier.out_proj.bias") if name in arrays]
    return max(1, biases[0].size) if biases else 1


def _untie(arrays: dict[str, tuple[str, np.ndarray]], config: TextEncoderConfig, source: str) -> None:
    """Takes out the copies that a file holds of what its masked-language head shares."""
    begun = HEAD_NAMES[config.family]["mlm_head"]
    for copy, name in (
        (f"{begun}.decoder.weight", "embeddings.word_embeddings.weight"),
        (f"{begun}.decoder.bias", f"{begun}.bias"),
    ):
        if copy not in arrays:
            continue
        full_name, array = arrays.pop(copy)
        if not np.array_equal(arrays.setdefault(name, (full_name, array))[1], array):
            raise CheckpointError(
                f"{source}: {full_name} differs from {arrays[name][0]}, and only models that share the two are known"
            )


class PretrainedText(NamedTuple):
    """A model and its vocabulary."""

    config: TextEncoderConfig
    params: dict  # of TextModel, those parts that the file has
    tokenizer: tokenizers.Tokenizer  # cuts texts to the model's positions
    name: str  # of its folder
    digest: str  # of what was read
    labels: tuple[str, ...] = ()  # of the classifier, if it has one
    head: str | None = None  # what the classifier is for


def read_text_model(folder: str | Path) -> PretrainedText:
    """Reads a BERT or RoBERTa of Hugging Face's format, with those heads that the file has.

    A classifier is read where it is of whole texts or of tokens; those of other tasks are left out. The dropout is that of
    the folder's hidden states.

    Raises CheckpointError where the folder, a file of it or an array is missing, damaged or of another kind of model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"no folder of a text encoder at {folder}; give one with {CONFIG}, {WEIGHTS} and {TOKENIZER}"
        )
    stated = _read_config(folder)
    config = _sizes(stated, folder / CONFIG)
    tokenizer, tokenizer_files = _read_tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(config.longest)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= config.vocab_size:
        raise CheckpointError(
            f"{tokenizer_files[0]} has token {highest} and the model of {folder / CONFIG} knows {config.vocab_size}: "
            "the two are not of the same model"
        )
    found, weights = _read_weights(folder)
    head = _head(stated, found)
    params = text_params(found, config, head, source=str(weights))
    labels = _labels(stated, len(params["classifier"]["out_proj"]["bias"]), folder / CONFIG) if head else ()
    digest = hashlib.sha256()
    for path in (folder / CONFIG, weights, *tokenizer_files):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return PretrainedText(config, params, tokenizer, folder.resolve().name, digest.hexdigest()[:16], labels, head)


def write_text_model(
    folder: str | Path,
    config: TextEncoderConfig,
    params: dict,
    tokenizer_json: str,
    labels: Sequence[str] = (),
    head: str | None = None,
) -> None:
    """Writes a folder that `read_text_model` reads, and transformers.

    Args:
      folder: made if need be.
      config: of the model.
      params: of TextModel; any of its parts, the encoder among them.
      tokenizer_json: what its tokenizer.json holds.
      labels: of the classifier, if `params` has one.
      head: what it is for.
    """
    if ("classifier" in params) != bool(head) or (head and head not in HEADS):
        raise ValueError(
            f"a classifier goes with a head of {', '.join(HEADS)}: found {sorted(params)} and head={head!r}"
        )
    folder, flat = Path(folder), flatten_dict(params, sep=".")
    rows = len(params["classifier"]["out_proj"]["bias"]) if head else 0
    if len(labels) != rows:
        raise ValueError(f"the classifier tells {rows} labels apart, and {len(labels)} are named")
    has_head = head or "mlm_head" in params
    stored = {}
    for ours, array in flat.items():
        name = their_name(ours, config.family, head)
        if has_head and ours.split(".")[0] in ("encoder", "pooler"):
            name = f"{config.family}.{name}"
        array = np.asarray(array, np.float32)
        stored[name] = np.ascontiguousarray(array.T if ours.endswith(".kernel") else array)
    write_whole(folder / WEIGHTS, safetensors.numpy.save(stored, metadata={"format": "pt"}))
    write_whole(folder / TOKENIZER, tokenizer_json.encode())
    special = _special_tokens(tokenizer_json)
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.longest} | {
        f"{role}_token": token for role, (token, _) in special.items()
    }
    write_whole(folder / TOKENIZER_CONFIG, json.dumps(options, indent=2).encode())
    # Last: a folder with a config.json is whole.
    stated = _stated(config, special) | {"architectures": [_architecture(config.family, head, "mlm_head" in params)]}
    if head:
        stated |= {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    write_whole(folder / CONFIG, (json.dumps(stated, indent=2, ensure_ascii=False) + "\n").encode())


def _architecture(family: str, head: str | None, masked: bool) -> str:
    kind = ARCHITECTURES[head] if head else "ForMaskedLM" if masked else "Model"
    return family.capitalize() + kind


def _special_tokens(tokenizer_json: str) -> dict[str, tuple[str, int]]:
    """What plays each role in a vocabulary, and its id."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    roles = {
        "unk": ("[UNK]", "<unk>"),
        "pad": ("[PAD]", "<pad>"),
        "cls": ("[CLS]", "<s>"),
        "sep": ("[SEP]", "</s>"),
        "mask": MASK_TOKENS,
    }
    found = {
        role: (token, tokenizer.token_to_id(token))
        for role, tokens in roles.items()
        for token in tokens
        if tokenizer.token_to_id(token) is not None
    }
    return found


def _stated(config: TextEncoderConfig, special: dict[str, tuple[str, int]]) -> dict:
    """The config.json of these sizes; `_sizes` is the way back."""
    padding = special["pad"][1] if "pad" in special else 0
    return {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "hidden_act": config.activation,
        "layer_norm_eps": config.layer_norm_epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        # RoBERTa counts its positions from it.
        "pad_token_id": config.first_position - 1 if config.family == "roberta" else padding,
        "tie_word_embeddings": True,
    }


def _read_config(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; is it the folder of a Hugging Face model?")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy it again") from None
    if not isinstance(found, dict) or found.get("model_type") not in FAMILIES:
        what = found.get("model_type") if isinstance(found, dict) else None
        raise CheckpointError(
            f"{path} is of model_type {what!r}, and a text encoder must be one of {', '.join(FAMILIES)}"
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
            family=found["model_type"],
            dropout=float(found.get("hidden_dropout_prob", 0.1)),
        )
    except KeyError as error:
        raise CheckpointError(f"{path} states no {error.args[0]}; is it the {CONFIG} of a text encoder?") from None
    except (TypeError, ValueError):
        dropout = found.get("hidden_dropout_prob")
        raise CheckpointError(
            f"{path}: pad_token_id={padding!r} and hidden_dropout_prob={dropout!r} must be numbers"
        ) from None
    sizes = config[:7]
    if not all(isinstance(size, int) and size > 0 for size in (*sizes, config.longest)) or sizes[1] % sizes[3]:
        raise CheckpointError(f"{path} states sizes that make no model: {config._asdict()}")
    if not 0 <= config.dropout < 1:
        raise CheckpointError(f"{path}: hidden_dropout_prob={config.dropout} must be at least 0 and less than 1")
    return config


def _head(stated: dict, found: dict[str, np.ndarray]) -> str | None:
    """What a file's classifier is for, if that is known here."""
    if not any(name.startswith(BEGINNINGS["classifier"]) for name in found):
        return None
    if architectures := stated.get("architectures"):
        ends = {end: head for head, end in ARCHITECTURES.items()}
        return next((head for end, head in ends.items() if str(architectures[0]).endswith(end)), None)
    of_texts = any("pooler." in name or name == "classifier.out_proj.weight" for name in found)
    return "sequence" if of_texts else "token"


def _labels(stated: dict, count: int, path: Path) -> tuple[str, ...]:
    """The names of a classifier's labels, in order."""
    named = stated.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    if not isinstance(named, dict) or set(named) != {str(i) for i in range(count)}:
        raise CheckpointError(
            f"{path}: id2label must name the labels 0 to {count - 1} of the classifier: found {named!r}"
        )
    return tuple(str(named[str(i)]) for i in range(count))


def _read_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, tuple[Path, ...]]:
    """The folder's tokenizer, and the files that it is made of."""
    path, vocabulary, byte_vocabulary, merges = (
        folder / name for name in (TOKENIZER, VOCABULARY, BYTE_VOCABULARY, MERGES)
    )
    try:
        if path.is_file():
            return tokenizers.Tokenizer.from_file(str(path)), (path,)
        if vocabulary.is_file():
            options = folder / TOKENIZER_CONFIG
            lowercase = json.loads(options.read_text()).get("do_lower_case", True) if options.is_file() else True
            made = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=lowercase)
            return tokenizers.Tokenizer.from_str(made.to_str()), (vocabulary,)
        if byte_vocabulary.is_file() and merges.is_file():
            return _byte_level(byte_vocabulary, merges), (byte_vocabulary, merges)
    except Exception as error:  # noqa: BLE001  the library raises nothing narrower for a bad file
        raise CheckpointError(f"{folder} holds no tokenizer that can be read: {error}") from None
    raise CheckpointError(
        f"{folder} has neither {TOKENIZER} nor {VOCABULARY} nor {BYTE_VOCABULARY} with {MERGES}: save its tokenizer there as a fast one"
    )


def _byte_level(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """RoBERTa's tokenizer of the files that were published before tokenizer.json was."""
    made = tokenizers.ByteLevelBPETokenizer(str(vocabulary), str(merges))
    tokenizer = tokenizers.Tokenizer.from_str(made.to_str())
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", tokenizers.AddedToken("<mask>", lstrip=True)])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    return tokenizer


def _read_weights(folder: Path) -> tuple[dict[str, np.ndarray], Path]:
    """The folder's arrays, and the file that they were in."""
    path, pickled = folder / WEIGHTS, folder / PICKLED
    if not path.is_file():
        if pickled.is_file():
            return read_torch_file(pickled), pickled
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
        return safetensors.numpy.load_file(path), path
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}; copy it again") from None
