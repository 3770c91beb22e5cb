"""Tokens and a mask in, the tokens that the model reads out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

MASKED, RANDOM = 0.8, 0.9  # of 80-10-10: below the first masked, below the second random, above left as it is


def replace(
    key: Key[Array, ""],
    tokens: Int[Array, " t"],
    hidden: Bool[Array, " t"],
    group: Int[Array, " t"],
    replacement: str,
    mask_token: int,
    ordinary: Int[Array, " v"],
    together: bool,
) -> Int[Array, " t"]:
    """The tokens of one text with the hidden ones replaced.

    Args:
      key: drawn from for each token.
      tokens: as they are.
      hidden: which to replace.
      group: tokens that fell together have the same number.
      replacement: `random` tokens, each drawn from the ordinary ones; the `mask` token; or `80-10-10`: of the hidden tokens
        80% become the mask token, 10% random ones and 10% stay as they are (BERT, arXiv 1810.04805, section 3.1).
      mask_token: its id.
      ordinary: ids of the vocabulary but for special ones.
      together: whether 80-10-10 is drawn once for a group, as SpanBERT and PMI-masking do.
    """
    fate_key, random_key = jax.random.split(key)
    drawn = ordinary[jax.random.randint(random_key, tokens.shape, 0, ordinary.shape[0])].astype(tokens.dtype)
    fate = jax.random.uniform(fate_key, tokens.shape)
    if together:
        fate = fate[jnp.argmax(group[:, None] == group[None, :], axis=1)]
    replaced = {
        "random": drawn,
        "mask": jnp.full_like(tokens, mask_token),
        "80-10-10": jnp.where(fate < MASKED, mask_token, jnp.where(fate < RANDOM, drawn, tokens)),
    }[replacement]
    return jnp.where(hidden, replaced, tokens)
