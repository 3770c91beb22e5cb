"""Texts in, vectors whose cosines compare them out; what was embedded once is kept on disk."""

import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float, Int

from mmdiff.models.pretrained import CheckpointError
from mmdiff.models.pretrained_text import PretrainedText, read_text_model
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel
from mmdiff.user_cache import cache_folder
from mmdiff.whole_files import write_whole

MOST_TOKENS = 4096  # in one batch, padding too: few enough for a processor's cache
MOST_TEXTS = 1024
FEWEST_TOKENS = 4  # texts are padded to this, or to a power of two: few shapes, few compilations
FEWEST_KEPT = 64  # new texts that are worth a file on disk
VERSION = 2  # of what `embed` computes: others' vectors are not read

log_line = logging.getLogger(__name__)


def _mean_of_tokens(
    model: TextModel, params: dict, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"]
) -> Float[Array, "b d"]:
    """Of the last hidden states, special tokens' too: that is how sentence-transformers embeds."""
    hidden = model.apply({"params": params}, tokens, valid, method="encode").astype(jnp.float32)
    return jnp.where(valid[..., None], hidden, 0).sum(axis=1)  # The length is made 1: no need to divide.


def _pooler(
    model: TextModel, params: dict, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"]
) -> Float[Array, "b d"]:
    """What BERT's pooler makes of the first token: that is what the official code of Difference-Masking compares."""
    return model.apply({"params": params}, tokens, valid, method="pooled").astype(jnp.float32)


# A vector of each text, by what is made of its hidden states.
POOLS: dict[str, Callable] = {"mean": _mean_of_tokens, "pooler": _pooler}


def load_text_encoder(folder: str | Path, pool: str = "mean") -> "TextEncoder":
    """The encoder of a Hugging Face folder. Raises CheckpointError as `read_text_model` does, or without a pooler."""
    return TextEncoder(read_text_model(folder), pool)


class TextEncoder:
    """A loaded encoder with its vocabulary. Threads may share it."""

    def __init__(self, model: PretrainedText, pool: str = "mean"):
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r} is unknown; known: {', '.join(POOLS)}")
        if pool == "pooler" and "pooler" not in model.params:
            raise CheckpointError(f"the text encoder {model.name} has no pooler: compare texts with pool='mean'")
        self.config, self.name, self.digest, self.pool = model.config, model.name, model.digest, pool
        self._tokenizer = model.tokenizer
        # Weights of labels must be the same on every host, and the accelerators have a model to train.
        self._mesh = jax.make_mesh((1,), ("cpu",), devices=[_cpu()], axis_types=(AxisType.Auto,))
        parts = ("encoder", "pooler") if pool == "pooler" else ("encoder",)
        self._params = jax.device_put({part: model.params[part] for part in parts}, _cpu())
        self._pooled = jax.jit(functools.partial(_unit_vectors, model.config, pool))
        self._made: dict[tuple[int, ...], np.ndarray] = {}  # by their tokens
        self._kept = KeptVectors(f"{model.digest}-{pool}-{VERSION}")

    def embed(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """A vector of length 1 of each text; what a text has beyond the model's positions is cut off.

        Each different text is embedded once, and not again by later runs if there were many.
        """
        different = list(dict.fromkeys(texts))
        known = self._kept.known(different)
        new = [text for text in different if text not in known]
        vectors = self._embedded(new)
        self._kept.keep(new, vectors)
        known |= zip(new, vectors, strict=True)
        return np.array([known[text] for text in texts], np.float32).reshape(-1, self.config.hidden_size)

    def ids(self, texts: list[str]) -> list[tuple[int, ...]]:
        """The tokens of each text, special ones left out."""
        return [tuple(encoding.ids) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _embedded(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """A vector of each text; those of the same tokens, as "The" and "the" in many vocabularies, are embedded once."""
        ids = [tuple(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]
        new = [tokens for tokens in dict.fromkeys(ids) if tokens not in self._made]
        self._made.update(zip(new, self._run(new), strict=True))
        return np.array([self._made[tokens] for tokens in ids], np.float32).reshape(-1, self.config.hidden_size)

    def _run(self, encoded: list[tuple[int, ...]]) -> Float[np.ndarray, "n d"]:
        out = np.zeros((len(encoded), self.config.hidden_size), np.float32)
        # Texts of like length go together: little padding.
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        first = 0
        while first < len(order):
            length = _power_of_two(max(FEWEST_TOKENS, len(encoded[order[first]])))
            batch = order[first : first + min(MOST_TEXTS, max(1, MOST_TOKENS // length))]
            first += len(batch)
            tokens = np.zeros((_power_of_two(len(batch)), length), np.int32)
            valid = np.zeros(tokens.shape, bool)
            for row, i in enumerate(batch):
                tokens[row, : len(encoded[i])], valid[row, : len(encoded[i])] = encoded[i], True
            with jax.set_mesh(self._mesh):  # Whoever asks may be amidst the accelerators' mesh.
                out[batch] = np.asarray(self._pooled(self._params, tokens, valid))[: len(batch)]
        return out


class KeptVectors:
    """The vectors that an encoder has made, in files of the user's cache. Threads and processes may share them.

    Each call of `keep` writes one file, whose name is the digest of what it holds: a damaged one is seen, and made again.
    """

    def __init__(self, encoder: str):
        self._folder = cache_folder("text_vectors") / encoder
        self._lock = threading.Lock()
        self._found: dict[str, np.ndarray] | None = None  # until they are read

    def known(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """The vectors of those texts that have one."""
        with self._lock:
            if self._found is None:
                self._found = {}
                for path in sorted(self._folder.glob("*.safetensors")):
                    self._found |= self._read(path)
            return {text: self._found[text] for text in texts if text in self._found}

    def keep(self, texts: list[str], vectors: Float[np.ndarray, "n d"]) -> None:
        """Writes them down, if they are many; a run goes on where that cannot be done."""
        if len(texts) < FEWEST_KEPT:
            return
        listed = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        content = safetensors.numpy.save({"vectors": vectors, "texts": listed})
        try:
            write_whole(self._folder / f"{hashlib.sha256(content).hexdigest()}.safetensors", content)
        except OSError as error:
            log_line.warning("the vectors of %d texts are not kept in %s: %s", len(texts), self._folder, error)
        with self._lock:
            self._found = (self._found or {}) | dict(zip(texts, vectors, strict=True))

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != path.stem:
                raise ValueError("it does not hold what its name says")
            arrays = safetensors.numpy.load(content)
            return dict(zip(json.loads(arrays["texts"].tobytes()), arrays["vectors"], strict=True))
        except (OSError, ValueError) as error:
            log_line.warning("%s is damaged (%s): its vectors are made anew", path, error)
            path.unlink(missing_ok=True)
            return {}


def _unit_vectors(
    config: TextEncoderConfig, pool: str, params: dict, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"]
) -> Float[Array, "b d"]:
    vectors = POOLS[pool](TextModel(config), params, tokens, valid)
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _cpu() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out.
        return jax.local_devices()[0]
