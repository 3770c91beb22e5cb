"""A window and candidate answers in, one score per candidate out: how a model is asked multiple-choice questions.

Each (question, candidate, video) is read apart, once with the audio and once with the subtitles; the joint
representation at the MASK behind the candidate is projected to one number, and the numbers of a question's
candidates go through a softmax (the official `finetune/tvqa` code; arXiv 2305.14577, section 4.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmdiff.data.tokenizer import MASK
from mmdiff.models.reserve import MerlotReserve


class Windows(NamedTuple):
    """`w` encoded windows, computed once however many candidates are asked about them."""

    vision: Float[Array, "w v d"]
    vision_valid: Bool[Array, "w v"]
    audio: Float[Array, "w a k d"]


class Candidates(NamedTuple):
    """`c` candidate answers, each with its question and its window."""

    window: Int[Array, " c"]
    text_tokens: Int[Array, "c l"]
    text_segments: Int[Array, "c l"]
    audio_tokens: Int[Array, "c l"]
    audio_segments: Int[Array, "c l"]
    audio_pointers: Int[Array, "c l"]


def encode_windows(
    model: MerlotReserve,
    params: dict,
    patches: Float[Array, "w s p c"],
    mels: Float[Array, "w a t f"],
    attended: Bool[Array, "w s"],
) -> Windows:
    """Frames and audio through their own encoders; `attended` says which frames the joint encoder may see."""
    windows = patches.shape[0]
    images = model.apply({"params": params}, patches.reshape(-1, *patches.shape[2:]), method="encode_images")
    audio = model.apply({"params": params}, mels.reshape(-1, *mels.shape[2:]), method="encode_audio")
    return Windows(
        images.pooled.reshape(windows, -1, images.pooled.shape[-1]),
        jnp.repeat(attended, images.pooled.shape[1], axis=1),
        audio.pooled.reshape(windows, -1, *audio.pooled.shape[1:]),
    )


def candidate_features(
    model: MerlotReserve, params: dict, windows: Windows, candidates: Candidates
) -> Float[Array, "c 2 d"]:
    """The joint representation at each candidate's MASK (its first token if it has none), from audio and from text."""

    def at_mask(tokens, segments, pointers):
        inputs = model.apply(
            {"params": params},
            tokens,
            token_segments=segments,
            vision=windows.vision[candidates.window],
            vision_valid=windows.vision_valid[candidates.window],
            audio_spans=windows.audio[candidates.window],
            audio_pointers=pointers,
            first_frame=1,  # segment 0 is the question's
            method="joint_inputs",
        )
        joint = model.apply({"params": params}, inputs, method="encode_joint")
        place = jnp.argmax(tokens == MASK, axis=1)
        return joint[jnp.arange(tokens.shape[0]), place]

    c = candidates
    from_audio = at_mask(c.audio_tokens, c.audio_segments, c.audio_pointers)
    from_text = at_mask(c.text_tokens, c.text_segments, jnp.zeros_like(c.audio_pointers))
    return jnp.stack([from_audio, from_text], axis=1)


def answer_scores(kernel: Float[Array, "d 1"], features: Float[Array, "q a 2 d"]) -> Float[Array, "q 2 a"]:
    """One linear projection without bias, the same for audio and text, in float32."""
    return jnp.einsum("qamd,do->qma", features.astype(jnp.float32), kernel)


def answer_loss(
    scores: Float[Array, "q 2 a"], label: Int[Array, " q"], offered: Bool[Array, "q a"]
) -> Float[Array, "q 2"]:
    """Cross-entropy among the answers offered, from audio and from text; their sum is what is trained."""
    log_probability = jax.nn.log_softmax(jnp.where(offered[:, None], scores, -jnp.inf))
    return -jnp.take_along_axis(log_probability, label[:, None, None], axis=2)[..., 0]


def answer_correct(
    scores: Float[Array, "q 2 a"], label: Int[Array, " q"], offered: Bool[Array, "q a"]
) -> Bool[Array, "q 3"]:
    """Whether the prediction from audio, from text, and from the sum of both probabilities is right."""
    probability = jax.nn.softmax(jnp.where(offered[:, None], scores, -jnp.inf))
    both = jnp.concatenate([probability, probability.sum(axis=1, keepdims=True)], axis=1)
    return jnp.argmax(both, axis=2) == label[:, None]
