"""Patches, mel spectrograms or tokens in, one representation per unit and a summary out."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from mmdiff.models.rotary import coordinates, grid_coordinates
from mmdiff.models.transformer import HEAD_SIZE, Encoded, Transformer, kernel_init

SPAN_LIMIT = 16  # a text span is shorter than this; its positions are shares of it


class AttentionPool(nn.MultiHeadDotProductAttention):
    """Windows of units, each attended to by its own mean."""

    def __call__(self, window: Float[Array, "*b w d"]) -> Float[Array, "*b d"]:
        return super().__call__(window.mean(axis=-2, keepdims=True), window, window).squeeze(axis=-2)


def _attention_pool(hidden_size: int, dtype) -> AttentionPool:
    return AttentionPool(num_heads=hidden_size // HEAD_SIZE, dtype=dtype)


def to_windows(x: Shaped[Array, "b p d"], grid: tuple[int, int], side: int) -> Shaped[Array, "b w n d"]:
    """A raster of patches as windows of `side` x `side` patches, windows and their patches in raster order."""
    (height, width), (batch, _, size) = grid, x.shape
    x = x.reshape(batch, height // side, side, width // side, side, size)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side, size)


class VisionEncoder(nn.Module):
    """A ViT over 16x16 patches whose output is pooled 2x2 for the joint encoder."""

    hidden_size: int
    layers: int
    grid: tuple[int, int]
    pooling: int
    dtype: jnp.dtype
    remat: bool

    def setup(self):
        self.embedding = nn.Dense(self.hidden_size, dtype=self.dtype, kernel_init=kernel_init)
        self.transformer = Transformer(self.layers, self.dtype, summarise=True, remat=self.remat)
        self.seq_attnpool = _attention_pool(self.hidden_size, self.dtype)

    def __call__(self, patches: Float[Array, "b p c"]) -> Encoded:
        position = jnp.asarray(grid_coordinates(*self.grid))[None]
        encoded = self.transformer(self.embedding(patches), position)
        return encoded._replace(pooled=self.pool(encoded.sequence))

    def pool(self, sequence: Float[Array, "b p d"]) -> Float[Array, "b m d"]:
        """Each window of patch features as one feature; apart, so that features can be hidden before it."""
        return self.seq_attnpool(to_windows(sequence, self.grid, self.pooling))


class AudioEncoder(nn.Module):
    """60 mel windows of 1.56 s as 30 tokens, pooled to 6 for the joint encoder."""

    hidden_size: int
    layers: int
    patch_size: int
    pooled_length: int
    dtype: jnp.dtype
    remat: bool

    def setup(self):
        self.embedding = nn.Conv(
            self.hidden_size,
            (self.patch_size,),
            strides=(self.patch_size,),
            padding="SAME",
            dtype=self.dtype,
            kernel_init=kernel_init,
        )
        self.transformer = Transformer(self.layers, self.dtype, summarise=True, remat=self.remat)
        self.seq_attnpool = _attention_pool(self.hidden_size, self.dtype)

    def __call__(self, mels: Float[Array, "b t f"]) -> Encoded:
        x = self.embedding(mels)
        length = x.shape[1]
        encoded = self.transformer(x, jnp.asarray(coordinates(length))[None, :, None] / length)
        windows = encoded.sequence.reshape(x.shape[0], self.pooled_length, -1, self.hidden_size)
        return encoded._replace(pooled=self.seq_attnpool(windows))


class SpanEncoder(nn.Module):
    """A short piece of text as one vector."""

    layers: int
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, embedded: Float[Array, "b l d"], valid: Bool[Array, "b l"]) -> Encoded:
        length = embedded.shape[1]
        if length >= SPAN_LIMIT:
            raise ValueError(f"a text span has at most {SPAN_LIMIT - 1} tokens, this one has {length}")
        position = jnp.asarray(coordinates(length, center=False))[None, :, None] / SPAN_LIMIT
        transformer = Transformer(self.layers, self.dtype, summarise=True, remat=self.remat, name="transformer")
        return transformer(embedded, position, valid)


class TokenEncoder(nn.Module):
    """Token ids as vectors."""

    vocab_size: int
    hidden_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        # Wider models start from xavier, as the original's large one did.
        init = nn.initializers.xavier_uniform() if self.hidden_size > 768 else nn.initializers.normal(0.02)
        return nn.Embed(self.vocab_size, self.hidden_size, dtype=self.dtype, embedding_init=init, name="Embed_0")(
            tokens
        )
