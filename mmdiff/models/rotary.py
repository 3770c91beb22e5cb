"""Positions in, the factor that queries and keys are multiplied with out.

MERLOT-Reserve meant to rotate pairs of features (rotary position embedding, arXiv 2104.09864). Its code stacked the
sinusoids as (cos, sin) and read them back as (sin, cos), and turned pairs in place, so what the released weights
were trained with is an elementwise factor. It stays as it is.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ROTARY_SIZE = 32  # of the 64 features of a head
MAX_FREQUENCY = 10.0


def coordinates(length: int, center: bool = True) -> Float[np.ndarray, " length"]:
    """Positions -length//2 .. -1, 1 .. (no zero), or 1 .. length."""
    if not center:
        return np.arange(1, length + 1, dtype=np.float32)
    below = np.arange(-(length // 2), 0)
    return np.concatenate([below, np.arange(1, length - length // 2 + 1)]).astype(np.float32)


def grid_coordinates(height: int, width: int) -> Float[np.ndarray, "n 2"]:
    """Centred (row, column) of every cell in raster order, as a share of the longer side."""
    rows, columns = np.meshgrid(coordinates(height), coordinates(width), indexing="ij")
    return np.stack([rows, columns], axis=-1).reshape(-1, 2) / (max(height, width) + 1)


def sinusoids(position: Float[Array, "*batch l n"]) -> tuple[Float[Array, "*batch l 32"], Float[Array, "*batch l 32"]]:
    """(cos, sin) of the angles of `n` coordinates, each repeated for a pair of features, in float32."""
    frequencies = 2.0 ** jnp.linspace(0.0, np.log2(MAX_FREQUENCY / 2), ROTARY_SIZE // (2 * position.shape[-1]))
    angle = position.astype(jnp.float32)[..., None] * frequencies * jnp.pi
    angle = jnp.repeat(angle.reshape(*angle.shape[:-2], -1), 2, axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def apply_rotary(
    x: Float[Array, "*batch l h 64"], position: Float[Array, "*#batch l n"]
) -> Float[Array, "*batch l h 64"]:
    """Queries or keys with their first 32 features scaled by sin - cos (even) and sin + cos (odd)."""
    cos, sin = sinusoids(position)
    sign = jnp.where(jnp.arange(ROTARY_SIZE) % 2, 1.0, -1.0)
    factor = (sin + sign * cos)[..., None, :].astype(x.dtype)
    return jnp.concatenate([x[..., :ROTARY_SIZE] * factor, x[..., ROTARY_SIZE:]], axis=-1)
