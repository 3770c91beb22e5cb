"""Token ids in, the hidden states of BERT and RoBERTa (arXiv 1810.04805, 1907.11692) out."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}


class TextEncoderConfig(NamedTuple):
    """Sizes of an encoder."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    positions: int  # rows of the table of positions
    token_types: int
    first_position: int = 0  # row of a text's first token: RoBERTa leaves out those up to its padding id
    activation: str = "gelu"  # a row of ACTIVATIONS
    layer_norm_epsilon: float = 1e-12
    dtype: str = "float32"  # of matrix products

    @property
    def longest(self) -> int:
        """How many tokens a text may have."""
        return self.positions - self.first_position


def _layer_norm(config: TextEncoderConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_epsilon, dtype=config.dtype, use_fast_variance=False, name=name)


def _dense(config: TextEncoderConfig, width: int, name: str) -> nn.Dense:
    return nn.Dense(width, dtype=config.dtype, kernel_init=nn.initializers.normal(0.02), name=name)


class Embeddings(nn.Module):
    """Words, positions and token types, added and normalised."""

    config: TextEncoderConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"], types: Int[Array, "b t"]):
        def table(rows: int, name: str) -> nn.Embed:
            size = self.config.hidden_size
            return nn.Embed(rows, size, dtype=self.config.dtype, embedding_init=nn.initializers.normal(0.02), name=name)

        # Padding takes the row before the first, as in RoBERTa; nobody reads it.
        position = jnp.maximum(jnp.cumsum(valid, axis=1) * valid - 1 + self.config.first_position, 0)
        x = table(self.config.vocab_size, "word_embeddings")(tokens)
        x += table(self.config.positions, "position_embeddings")(position)
        x += table(self.config.token_types, "token_type_embeddings")(types)
        return _layer_norm(self.config, "LayerNorm")(x)


class Layer(nn.Module):
    """Attention and feed-forward, each added to its input and then normalised (post-norm)."""

    config: TextEncoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], valid: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        config, (batch, length, width) = self.config, x.shape

        def heads(name: str) -> Float[Array, "b t h c"]:
            return _dense(config, width, name)(x).reshape(batch, length, config.heads, width // config.heads)

        mixed = jax.nn.dot_product_attention(
            heads("query"), heads("key"), heads("value"), mask=valid[:, None, None, :]
        ).reshape(x.shape)
        x = _layer_norm(config, "attention_norm")(x + _dense(config, width, "attention_out")(mixed))
        inside = ACTIVATIONS[config.activation](_dense(config, config.intermediate_size, "intermediate")(x))
        return _layer_norm(config, "out_norm")(x + _dense(config, width, "out")(inside))


class BertEncoder(nn.Module):
    """Token ids in, the last hidden states out."""

    config: TextEncoderConfig

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"], types: Int[Array, "b t"] | None = None
    ) -> Float[Array, "b t d"]:
        types = jnp.zeros_like(tokens) if types is None else types
        x = Embeddings(self.config, name="embeddings")(tokens, valid, types)
        for layer in range(self.config.layers):
            x = Layer(self.config, name=f"layer_{layer:02d}")(x, valid)
        return x


def init_params(config: TextEncoderConfig, key: jax.Array) -> dict:
    """Random parameters."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return BertEncoder(config).init(key, tokens, tokens == 0)["params"]
