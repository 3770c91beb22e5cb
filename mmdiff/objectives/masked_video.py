"""A batch of clips and a key in, the loss of predicting hidden frame features out: continued pretraining.

Patch features of some 16x16 patches are overwritten, features are pooled 2x2, and the joint encoder must tell, at
each pooled place that lost a patch, which of all hidden features of the batch was there: once helped by the audio,
once by the subtitles (arXiv 2305.14577, section 4.2; the official `retrain` code).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8, UInt32

from mmdiff.data.video_examples import VideoBatch
from mmdiff.masking.hiding import constant_vector, hide, random_values
from mmdiff.masking.strategies import MaskingConfig, Patches, PatchMask, mask_patches
from mmdiff.models.reserve import MerlotReserve, patchify
from mmdiff.models.reserve_encoders import to_windows
from mmdiff.objectives.contrastive import Contrast, contrast, one_hot_pool, scaled

IMAGES_TO_AUDIO, TEXT_TO_AUDIO = 0, 1  # the temperatures that the original reuses


@dataclasses.dataclass
class MaskedVideoConfig:
    """How the loss is computed. The defaults are what the paper says; `official_code` changes the marked ones (*)."""

    pooled_when: str = "any"  # a 2x2 pool counts as hidden if `any` or `all` of its patches are
    predictor: str = "none"  # what maps the joint encoder's output to a prediction: none, or the pretraining `head`
    stop_gradient_targets: bool = False  # the paper's targets pass gradients, as the original's do
    empty_rows_count: bool = False  # (*) visible places enter the loss as zero vectors
    round_numerator: bool = False  # (*) the matching logit is computed in bfloat16
    first_frame_segment: int = 1  # frames carry the segment numbers of their subtitles (*0: one less)
    attend_to_padding: bool = False  # (*) the joint encoder sees padded frames

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing."""
        if self.pooled_when not in ("any", "all"):
            raise ValueError(f"objective.pooled_when={self.pooled_when!r} is unknown; known: any, all")
        if self.predictor not in ("none", "head"):
            raise ValueError(f"objective.predictor={self.predictor!r} is unknown; known: none, head")


class Clips(NamedTuple):
    """The same clips as the model reads them."""

    patches: Float[Array, "b s p c"]
    mels: Float[Array, "b a t f"]
    text_tokens: Int[Array, "b l"]
    text_segments: Int[Array, "b l"]
    audio_tokens: Int[Array, "b l"]
    audio_segments: Int[Array, "b l"]
    audio_pointers: Int[Array, "b l"]
    attended: Bool[Array, "b s"]  # frames that the joint encoder sees


class Prediction(NamedTuple):
    """Rows to contrast, hidden places first and then zeros; and the frame tokens they came from."""

    from_audio: Float[Array, "b m d"]
    from_text: Float[Array, "b m d"]
    target: Float[Array, "b m d"]
    rows: Bool[Array, "b m"]
    pooled: Float[Array, "b m d"]  # what the joint encoder was given
    pooled_target: Float[Array, "b m d"]


def model_mels(mels: UInt8[Array, "*b t 64"], scale: Float[Array, "*#b 1 1"]) -> Float[Array, "*b t 65"]:
    """Stored spectrograms as the model reads them; the 65th bin is the playback speed, always 1."""
    mels = mels.astype(jnp.float32) / scale
    return jnp.concatenate([mels, jnp.ones((*mels.shape[:-1], 1))], axis=-1)


def to_clips(batch: VideoBatch, patch_size: int, attend_to_padding: bool) -> Clips:
    """Pixels in [0, 1] as patches, log-mel values, and which frames may be attended to."""
    frames = batch.frames.astype(jnp.float32) / 255 * batch.frame_valid[..., None, None, None]
    mels = model_mels(batch.mels, batch.mel_scale[:, None, None, None, None])
    return Clips(
        patches=patchify(frames, patch_size),
        mels=mels.reshape(mels.shape[0], -1, *mels.shape[3:]),
        text_tokens=batch.text_tokens,
        text_segments=batch.text_segments,
        audio_tokens=batch.audio_tokens,
        audio_segments=batch.audio_segments,
        audio_pointers=batch.audio_pointers,
        attended=jnp.ones_like(batch.frame_valid) if attend_to_padding else batch.frame_valid,
    )


def pooled_places(mask: Bool[Array, "b s p"], grid: tuple[int, int], side: int, when: str) -> Bool[Array, "b m"]:
    """Which pooled tokens count as hidden, frame after frame."""
    batch, frames, patches = mask.shape
    windows = to_windows(mask.reshape(batch * frames, patches, 1), grid, side)[..., 0]
    reduced = windows.any(axis=-1) if when == "any" else windows.all(axis=-1)
    return reduced.reshape(batch, -1)


def predict(
    model: MerlotReserve,
    params: dict,
    clips: Clips,
    mask: PatchMask,
    values: Float[Array, "*#b d"],
    config: MaskedVideoConfig,
) -> Prediction:
    """One forward pass over clips whose patch features are overwritten with `values` where `mask.hidden`."""

    def call(method, *arguments, **options):
        return model.apply({"params": params}, *arguments, **options, method=method)

    c = model.config
    batch, segments, patches, _ = clips.patches.shape
    images = call("encode_images", clips.patches.reshape(batch * segments, patches, -1))
    width = images.sequence.shape[-1]
    features = images.sequence.reshape(batch, segments * patches, width)
    hidden = hide(features, mask.hidden, values).reshape(batch * segments, patches, width)
    pooled = call("pool_images", hidden).reshape(batch, -1, width)
    target = images.pooled.reshape(batch, -1, width)
    if config.stop_gradient_targets:
        target = jax.lax.stop_gradient(target)
    audio = call("encode_audio", clips.mels.reshape(-1, *clips.mels.shape[2:])).pooled
    audio = audio.reshape(batch, -1, *audio.shape[1:])

    def both(from_audio, from_text):
        return jnp.concatenate([from_audio, from_text])

    inputs = call(
        "joint_inputs",
        both(clips.audio_tokens, clips.text_tokens),
        token_segments=both(clips.audio_segments, clips.text_segments),
        vision=both(pooled, pooled),
        vision_valid=jnp.repeat(both(clips.attended, clips.attended), c.pooled_patches, axis=1),
        audio_spans=both(audio, audio),
        audio_pointers=both(clips.audio_pointers, jnp.zeros_like(clips.audio_pointers)),
        first_frame=config.first_frame_segment,
    )
    joint = call("encode_joint", inputs)
    if config.predictor == "head":
        joint = call("project", joint)
    joint = joint[:, clips.text_tokens.shape[1] :]
    scored = pooled_places(mask.scored.reshape(batch, segments, patches), c.image_grid, c.pooling, config.pooled_when)
    slot = jnp.cumsum(scored, axis=1) - 1
    from_audio, from_text, target_rows = (
        one_hot_pool(scored, slot, x, slots=scored.shape[1]) for x in (joint[:batch], joint[batch:], target)
    )
    rows = jnp.arange(scored.shape[1]) < scored.sum(axis=1, keepdims=True)
    return Prediction(from_audio, from_text, target_rows, rows, pooled, target)


def compare(prediction: Prediction, scales: Float[Array, " 3"], config: MaskedVideoConfig) -> tuple[Contrast, Contrast]:
    """The contrast of all hidden places of the batch, predicted from audio and from text."""

    def against_target(x, temperature):
        x, y = (scaled(rows.reshape(-1, rows.shape[-1]), scales[temperature]) for rows in (x, prediction.target))
        return contrast(x, y, prediction.rows.reshape(-1), config.empty_rows_count, config.round_numerator)

    return (
        against_target(prediction.from_audio, IMAGES_TO_AUDIO),
        against_target(prediction.from_text, TEXT_TO_AUDIO),
    )


def mask_batch(batch: VideoBatch, key: Key[Array, ""], step: Int[Array, ""], masking: MaskingConfig) -> PatchMask:
    """The mask of every clip, [b, n]: a function of the run's key, the clip's id and, unless static, the step."""
    flat = Patches(*(x.reshape(x.shape[0], -1) for x in (batch.track, batch.weight, batch.patch_valid)))
    keys = example_keys(batch.id, key if masking.static else jax.random.fold_in(key, step))
    return jax.vmap(lambda key, patches: mask_patches(key, patches, masking))(keys, flat)


def example_keys(ids: UInt32[Array, " b"], key: Key[Array, ""]) -> Key[Array, " b"]:
    """One key per clip, whatever its place in the batch."""
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(ids)


@dataclasses.dataclass(frozen=True)
class MaskedVideo:
    """The objective of continued pretraining: what the training loop asks for a loss."""

    model: MerlotReserve
    masking: MaskingConfig
    config: MaskedVideoConfig

    def __call__(
        self, params: dict, batch: VideoBatch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss, and scalar metrics that are averages over the clips of the batch."""
        c = self.model.config
        mask = self.masks(batch, key, step)
        if self.masking.hidden_values == "constant":
            values = jnp.asarray(constant_vector(self.masking.hidden_seed, c.hidden_size))
        else:
            # The values are drawn anew each step even where the masks stay: nothing can be learned from them.
            keys = example_keys(batch.id, jax.random.fold_in(jax.random.split(key)[1], step))
            values = random_values(keys, (mask.hidden.shape[1], c.hidden_size), jnp.dtype(c.dtype))
        clips = to_clips(batch, c.patch_size, self.config.attend_to_padding)
        prediction = predict(self.model, params, clips, mask, values, self.config)
        audio, text = compare(prediction, params["contrastive_scales"], self.config)
        hidden = mask.hidden.sum()
        clip_count = jnp.maximum(self.examples(batch), 1)
        metrics = {
            "loss": audio.loss + text.loss,
            "masked_loss": audio.masked_loss + text.masked_loss,
            "audio_to_vision": audio.masked_loss,
            "text_to_vision": text.masked_loss,
            "accuracy": (audio.accuracy + text.accuracy) / 2,
            "hidden_patches": hidden / clip_count,
            "hidden_pools": prediction.rows.sum() / clip_count,
            "hidden_inside_person": (mask.hidden & batch.person.reshape(mask.hidden.shape)).sum()
            / jnp.maximum(hidden, 1),
        }
        return metrics["loss"], metrics

    def masks(self, batch: VideoBatch, key: Key[Array, ""], step: Int[Array, ""]) -> PatchMask:
        """What a step with these arguments hides."""
        return mask_batch(batch, jax.random.split(key)[0], step, self.masking)

    def pools(self, mask: Bool[Array, "b n"]) -> Bool[Array, "b m"]:
        """The pooled tokens that count as hidden."""
        c = self.model.config
        frames = mask.reshape(mask.shape[0], -1, c.patches)
        return pooled_places(frames, c.image_grid, c.pooling, self.config.pooled_when)

    def examples(self, batch: VideoBatch) -> Int[Array, ""]:
        """How many clips of a batch are real: the last one of an evaluation is filled up with empty ones."""
        return batch.frame_valid.any(axis=1).sum()
