"""A window and candidate answers in, one score per candidate out: how a model is asked multiple-choice questions.

Each (question, candidate, video) is read apart, once with the audio and once with the subtitles; the joint
representation at the MASK behind the candidate is projected to one number, and the numbers of a question's
candidates go through a softmax (the official `finetune/tvqa` code; arXiv 2305.14577, section 4.1).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mmdiff.data.question_examples import AnswerTokens, QuestionBatch
from mmdiff.data.tokenizer import MASK
from mmdiff.models.reserve import MerlotReserve, patchify
from mmdiff.objectives.masked_video import model_mels

PREDICTIONS = ("audio", "text", "joint")  # from the audio view, from the subtitle view, and of both together
PROJECTION_SCALE, OFFICIAL_SEED = 0.01, 123456
UNUSED = ("head", "span_encoder")  # modules that no answer depends on


@dataclasses.dataclass
class QuestionConfig:
    """How a model is asked. `official_code` changes the marked fields (*)."""

    attend_to_padding: bool = False  # (*) the joint encoder sees padded frames
    fixed_projection: bool = False  # (*) every seed starts from the official code's projection


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


def first_projection(width: int, seed: int, config: QuestionConfig) -> np.ndarray:
    """Where a seed's projection starts: float32 [d, 1]."""
    # The legacy generator: the official code's numbers, whatever NumPy's newer ones become.
    draw = np.random.RandomState(OFFICIAL_SEED if config.fixed_projection else seed)
    return (draw.randn(width, 1) * PROJECTION_SCALE).astype(np.float32)


def answer_scores(kernel: Float[Array, "d 1"], features: Float[Array, "q a 2 d"]) -> Float[Array, "q 2 a"]:
    """One linear projection without bias, the same for audio and text, in float32."""
    return jnp.moveaxis(project(kernel, features), 1, 2)


def project(kernel: Float[Array, "d 1"], features: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Features as numbers, in float32 wherever it runs: an accelerator would round to bfloat16 unasked."""
    return jnp.einsum("...d,do->...", features.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)


def answer_loss(
    scores: Float[Array, "q 2 a"], label: Int[Array, " q"], offered: Bool[Array, "q a"]
) -> Float[Array, "q 2"]:
    """Cross-entropy among the answers offered, from audio and from text; their sum is what is trained."""
    log_probability = jax.nn.log_softmax(jnp.where(offered[:, None], scores, -jnp.inf))
    return -jnp.take_along_axis(log_probability, label[:, None, None], axis=2)[..., 0]


def answer_correct(
    scores: Float[Array, "q 2 a"], label: Int[Array, " q"], offered: Bool[Array, "q a"]
) -> Bool[Array, "q 3"]:
    """Whether the prediction from audio, from text, and from the sum of both probabilities is right.

    Who cannot tell the right answer from another (their scores are equal) is wrong: choosing the first of them would be
    right wherever the right answer is written first.
    """
    probability = jax.nn.softmax(jnp.where(offered[:, None], scores, -jnp.inf))
    both = jnp.concatenate([probability, probability.sum(axis=1, keepdims=True)], axis=1)
    best = both == both.max(axis=2, keepdims=True)
    chosen = jnp.take_along_axis(best, label[:, None, None], axis=2)[..., 0]
    return chosen & (best.sum(axis=2) == 1)


def question_loss(
    scores: Float[Array, "q 2 a"], label: Int[Array, " q"], offered: Bool[Array, "q a"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean loss, and it with the shares right, of the questions that offer anything."""
    asked = offered.any(axis=1)
    # An empty example has an answer too: a softmax among none would be no number.
    offered = offered | ~asked[:, None]
    share = asked / jnp.maximum(asked.sum(), 1)
    loss = (answer_loss(scores, label, offered).sum(axis=1) * share).sum()
    right = (answer_correct(scores, label, offered) * share[:, None]).sum(axis=0)
    return loss, {"loss": loss} | dict(zip(PREDICTIONS, right, strict=True))


@dataclasses.dataclass(frozen=True)
class QuestionAnswering:
    """The objective of finetuning: what the training loop asks for a loss. `params` has the projection as `proj`."""

    model: MerlotReserve
    config: QuestionConfig

    couples = False  # no question enters another's loss

    def __call__(
        self, params: dict, batch: QuestionBatch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss, and scalar metrics that are averages over the questions of the batch. Nothing is drawn."""
        return question_loss(self.scores(params, batch), batch.label, batch.offered)

    def scores(self, params: dict, batch: QuestionBatch) -> Float[Array, "b 2 a"]:
        """One number for each candidate, from audio and from text."""
        frames = batch.frames.astype(jnp.float32) / 255 * batch.frame_valid[..., None, None, None]
        mels = model_mels(batch.mels, batch.mel_scale[:, None, None, None, None])
        attended = jnp.ones_like(batch.frame_valid) if self.config.attend_to_padding else batch.frame_valid
        patches = patchify(frames, self.model.config.patch_size)
        return self.scores_of_clips(
            params, patches, mels.reshape(mels.shape[0], -1, *mels.shape[3:]), attended, batch.answers
        )

    def scores_of_clips(
        self,
        params: dict,
        patches: Float[Array, "b s p c"],
        mels: Float[Array, "b n t f"],
        attended: Bool[Array, "b s"],
        answers: AnswerTokens,
    ) -> Float[Array, "b 2 a"]:
        """The same, of windows as the model reads them."""
        questions, slots = answers.text_tokens.shape[:2]
        windows = encode_windows(self.model, params, patches, mels, attended)
        rows = AnswerTokens(*(x.reshape(questions * slots, -1) for x in answers))
        candidates = Candidates(jnp.repeat(jnp.arange(questions), slots), *rows)
        features = candidate_features(self.model, params, windows, candidates)
        return answer_scores(params["proj"]["kernel"], features.reshape(questions, slots, 2, -1))

    def correct(self, params: dict, batch: QuestionBatch) -> Bool[Array, "b 3"]:
        """Whether each question is answered right, from audio, from text and from both."""
        return answer_correct(self.scores(params, batch), batch.label, batch.offered)

    def examples(self, batch: QuestionBatch, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, ""]:
        """How many questions of a batch are real: the last one of an evaluation is filled up with empty ones."""
        return batch.offered.any(axis=1).sum()

    def without_remat(self) -> "QuestionAnswering":
        """The same objective, with no activation computed twice to save memory."""
        return dataclasses.replace(self, model=MerlotReserve(dataclasses.replace(self.model.config, remat=())))
