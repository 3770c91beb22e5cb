"""A model and tokenised texts in, how much attention each token gets out."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from mmdiff.data.text_tokens import TokenizedText
from mmdiff.masking.batched_texts import run_in_batches
from mmdiff.models.text_encoder import BertEncoder, TextEncoderConfig


def token_attention(
    config: TextEncoderConfig, params: dict, texts: Sequence[TokenizedText], progress_bar: bool = True
) -> list[Float[np.ndarray, " t"]]:
    """Of each text, how its first token attends to each in the last layer, mean over heads.

    Args:
      config: sizes of the encoder.
      params: of a BertEncoder.
      texts: tokenised by its vocabulary.
      progress_bar: whether there is one.
    """
    encoder = BertEncoder(config)
    look = jax.jit(
        lambda params, tokens, valid: encoder.apply({"params": params}, tokens, valid, method="cls_attention")
    )
    params = jax.device_put(params, jax.local_devices()[0])
    found: list = [None] * len(texts)
    rows = [text.tokens for text in texts]
    doing = "attention of tokens" if progress_bar else ""
    for place, attention in run_in_batches(lambda *batch: look(params, *batch), rows, doing=doing):
        found[place] = attention[: len(rows[place])].astype(np.float32)
    return found
