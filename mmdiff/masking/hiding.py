"""Features and a mask in, features with the masked ones overwritten out."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key


def random_values(keys: Key[Array, " b"], shape: tuple[int, int], dtype) -> Float[Array, "b n d"]:
    """Independent standard normal values for every patch of every clip."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def constant_vector(seed: int, size: int) -> Float[np.ndarray, " d"]:
    """The one vector that the original writes over every hidden patch, whatever the run's seed.

    JAX drew other numbers from the same seed before its random bits could be partitioned; these are the old ones.
    """
    # A constant even while a step is traced.
    with jax.ensure_compile_time_eval(), jax.threefry_partitionable(False):
        return np.asarray(jax.random.normal(jax.random.PRNGKey(seed), (size,)))


def hide(
    features: Float[Array, "b n d"], hidden: Bool[Array, "b n"], values: Float[Array, "*#b d"]
) -> Float[Array, "b n d"]:
    """The features with `values` in place of the hidden ones."""
    return jnp.where(hidden[..., None], values.astype(features.dtype), features)
