"""Texts in, vectors whose cosines compare them out."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float, Int

from mmdiff.models.pretrained_text import PretrainedText, read_text_model
from mmdiff.models.text_encoder import BertEncoder, TextEncoderConfig

MOST_TEXTS = 64  # in one batch
FEWEST_TOKENS = 8  # texts are padded to this, or to a power of two: few shapes, few compilations


def load_text_encoder(folder: str | Path) -> "TextEncoder":
    """The encoder of a Hugging Face folder. Raises CheckpointError as `read_text_model` does."""
    return TextEncoder(read_text_model(folder))


class TextEncoder:
    """A loaded encoder with its vocabulary. Threads may share it."""

    def __init__(self, model: PretrainedText):
        self.config, self.name, self.digest = model.config, model.name, model.digest
        self._tokenizer = model.tokenizer
        # Weights of labels must be the same on every host, and the accelerators have a model to train.
        self._mesh = jax.make_mesh((1,), ("cpu",), devices=[_cpu()], axis_types=(AxisType.Auto,))
        self._params = jax.device_put(model.params, _cpu())
        self._pooled = jax.jit(functools.partial(_mean_of_tokens, model.config))

    def embed(self, texts: list[str]) -> Float[np.ndarray, "n d"]:
        """The mean over each text's tokens, special ones too, of the last hidden states; of length 1.

        That is how sentence-transformers embeds. What a text has beyond the model's positions is cut off.
        """
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        out = np.zeros((len(texts), self.config.hidden_size), np.float32)
        # Texts of like length go together: little padding.
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        for first in range(0, len(order), MOST_TEXTS):
            batch = order[first : first + MOST_TEXTS]
            length = _power_of_two(max(FEWEST_TOKENS, *(len(encoded[i]) for i in batch)))
            tokens = np.zeros((_power_of_two(len(batch)), length), np.int32)
            valid = np.zeros(tokens.shape, bool)
            for row, i in enumerate(batch):
                tokens[row, : len(encoded[i])], valid[row, : len(encoded[i])] = encoded[i], True
            with jax.set_mesh(self._mesh):  # Whoever asks may be amidst the accelerators' mesh.
                out[batch] = np.asarray(self._pooled(self._params, tokens, valid))[: len(batch)]
        return out


def _mean_of_tokens(
    config: TextEncoderConfig, params: dict, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"]
) -> Float[Array, "b d"]:
    hidden = BertEncoder(config).apply({"params": params}, tokens, valid).astype(jnp.float32)
    mean = jnp.where(valid[..., None], hidden, 0).sum(axis=1)  # The length is made 1: no need to divide.
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _cpu() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out.
        return jax.local_devices()[0]
