"""Embedded units and their positions in, contextual representations out: the block all four encoders share.

Parameter names and numerics are those of the released MERLOT-Reserve weights (arXiv 2201.02639).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmdiff.models.rotary import apply_rotary

HEAD_SIZE = 64
MASKED = -1e10  # a logit of what may not be attended to


class Encoded(NamedTuple):
    """What an encoder returns: its summary (not normalised), every unit, and units pooled by attention."""

    cls: Float[Array, "b d"]
    sequence: Float[Array, "b n d"]
    pooled: Float[Array, "b m d"] | None = None
    attention: Float[Array, "b n"] | None = None  # of the summary to every unit, in the last layer, mean over heads


def kernel_init(key, shape, dtype=jnp.float32):
    """Truncated normal with the original's width, min(18 / fan_in, 0.02) / sqrt(2)."""
    scale = min(18.0 / np.prod(shape[:-1]), 0.02) / np.sqrt(2.0)
    return jax.random.truncated_normal(key, -2, 2, shape, dtype) * scale


def layer_norm(dtype, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class Attention(nn.Module):
    """Self-attention with one fused kernel whose heads are ordered queries, keys, values."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], position: Float[Array, "#b n c"], mask: Bool[Array, "b n n"] | None):
        width = x.shape[-1]
        heads = width // HEAD_SIZE
        qkv = nn.DenseGeneral((3 * heads, HEAD_SIZE), dtype=self.dtype, kernel_init=kernel_init, name="qkv")(x)
        query, key, value = jnp.split(qkv, 3, axis=-2)
        query, key = apply_rotary(query, position), apply_rotary(key, position)
        mixed = attend(query, key, value, mask)
        out = nn.DenseGeneral(
            width, axis=(-2, -1), use_bias=False, dtype=self.dtype, kernel_init=kernel_init, name="attn_proj"
        )(mixed)
        return out, first_attention(query, key, mask)


def attend(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b n h d"],
    value: Float[Array, "b n h d"],
    mask: Bool[Array, "b n n"] | None,
) -> Float[Array, "b n h d"]:
    """Softmax attention, whose softmax is computed in float32 whatever it is given.

    Heads go before units, and logits are kept in the inputs' type: against `jax.nn.dot_product_attention` a third to a half
    of the time on a CPU, and half of the memory traffic in bfloat16 (docs/performance.md).
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    logits = jnp.einsum("bhqd,bhkd->bhqk", query * np.asarray(query.shape[-1] ** -0.5, query.dtype), key)
    if mask is not None:
        # A padded row has every key masked: it attends to all alike, and nobody reads it.
        logits = jnp.where(mask[:, None], logits, jnp.asarray(MASKED, logits.dtype))
    weights = jax.nn.softmax(logits.astype(jnp.float32)).astype(value.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value).swapaxes(1, 2)


def first_attention(
    query: Float[Array, "b m h d"], key: Float[Array, "b n h d"], mask: Bool[Array, "b m n"] | None
) -> Float[Array, "b n"]:
    """How the first unit attends to all, mean over heads; passes no gradient.

    One row of the softmax that attention makes of all rows: its own products are 1 / n of those of one layer, and
    nothing where nobody reads it.
    """
    query, key = jax.lax.stop_gradient((query[:, 0], key))
    logits = jnp.einsum("bhd,bnhd->bhn", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask[:, :1], logits, -jnp.inf)
    return jax.nn.softmax(logits / np.sqrt(query.shape[-1])).mean(axis=1)


class Mlp(nn.Module):
    """Four times as wide inside, with the sigmoid approximation of GELU."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        width = x.shape[-1]
        x = nn.Dense(4 * width, dtype=self.dtype, kernel_init=kernel_init, name="intermediate")(x)
        x = gelu(x)
        return nn.Dense(width, use_bias=False, dtype=self.dtype, kernel_init=kernel_init, name="out")(x)


def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The sigmoid approximation of GELU: x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], position: Float[Array, "#b n c"], mask: Bool[Array, "b n n"] | None):
        mixed, attention = Attention(self.dtype, name="attention_layer")(
            layer_norm(self.dtype, "pre_attn_ln")(x), position, mask
        )
        x = x + mixed
        return x + Mlp(self.dtype, name="mlp_layer")(layer_norm(self.dtype, "pre_mlp_ln")(x)), attention


class Transformer(nn.Module):
    """Layers between two norms; with `summarise`, a learned CLS unit goes first and comes out projected."""

    layers: int
    dtype: jnp.dtype
    summarise: bool
    remat: bool  # recompute activations in the backward pass: less memory, about a third more time

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        position: Float[Array, "#b n c"],
        valid: Bool[Array, "b n"] | None = None,
        mask: Bool[Array, "b n n"] | None = None,
    ) -> Encoded:
        batch, _, width = x.shape
        if self.summarise:
            cls = self.param("cls", nn.initializers.normal(0.02), (width,))
            x = jnp.concatenate([jnp.broadcast_to(cls.astype(x.dtype), (batch, 1, width)), x], axis=1)
            position = jnp.pad(position, [(0, 0), (1, 0), (0, 0)])
            valid = None if valid is None else jnp.pad(valid, [(0, 0), (1, 0)], constant_values=True)
        if valid is not None:
            mask = valid[:, :, None] & valid[:, None, :]
        x = layer_norm(self.dtype, "pre_ln")(x)
        block = nn.remat(Layer) if self.remat else Layer
        for layer in range(self.layers):
            x, attention = block(self.dtype, name=f"layer_{layer:02d}")(x, position, mask)
        x = layer_norm(self.dtype, "final_ln")(x)
        if not self.summarise:
            return Encoded(x[:, 0], x)
        cls = nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, name="cls_proj")(x[:, 0])
        return Encoded(cls, x[:, 1:], attention=attention[:, 1:])
