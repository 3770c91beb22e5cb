"""A batch of clips and a key in, the loss of predicting hidden frame features out: continued pretraining.

Some 16x16 patches, or the features of them, are overwritten, features are pooled 2x2, and the joint encoder must tell,
at each pooled place that lost a patch, which of all hidden features of the batch was there: once helped by the audio,
once by the subtitles (arXiv 2305.14577, section 4.2; the official `retrain` code). What was there is told by a pass of
the vision encoder over clips of which nothing is hidden.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from mmdiff.data.video_examples import VideoBatch
from mmdiff.masking.hiding import constant_vector, hide, random_values
from mmdiff.masking.selection import example_keys
from mmdiff.masking.strategies import MaskingConfig, Patches, PatchMask, find, mask_patches, patch_units
from mmdiff.models.reserve import MerlotReserve, patchify
from mmdiff.models.reserve_encoders import to_windows
from mmdiff.models.transformer import Encoded
from mmdiff.objectives.contrastive import Contrast, contrast, logit_scale, one_hot_pool, scaled

IMAGES_TO_AUDIO, TEXT_TO_AUDIO = 0, 1  # the temperatures that the original reuses
TARGET_ENCODER = "target_encoder"  # among a run's parameters: the vision encoder's copy that makes the targets


@dataclasses.dataclass
class MaskedVideoConfig:
    """How the loss is computed. The defaults are what the paper says; `official_code` changes the marked ones (*)."""

    pooled_when: str = "any"  # a 2x2 pool counts as hidden if `any` or `all` of its patches are
    predictor: str = "none"  # what maps the joint encoder's output to a prediction: none, or the pretraining `head`
    negatives: str = "batch"  # other answers to a hidden place: those of all clips of an update, or of its "microbatch"
    stop_gradient_targets: bool = False  # the paper's targets pass gradients, as the original's do
    target_momentum: float = 0.0  # above 0, targets come from a copy of the vision encoder that follows it by
    # 1 - target_momentum of the way each step, and stays as it began at 1
    empty_rows_count: bool = False  # (*) visible places enter the loss as zero vectors
    round_numerator: bool = False  # (*) the matching logit is computed in bfloat16
    first_frame_segment: int = 1  # frames carry the segment numbers of their subtitles (*0: one less)
    attend_to_padding: bool = False  # (*) the joint encoder sees padded frames

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing."""
        if self.pooled_when not in ("any", "all"):
            raise ValueError(f"objective.pooled_when={self.pooled_when!r} is unknown; known: any, all")
        if self.negatives not in ("batch", "microbatch"):
            raise ValueError(f"objective.negatives={self.negatives!r} is unknown; known: batch, microbatch")
        if self.predictor not in ("none", "head"):
            raise ValueError(f"objective.predictor={self.predictor!r} is unknown; known: none, head")
        if not 0 <= self.target_momentum <= 1:
            raise ValueError(f"objective.target_momentum={self.target_momentum} must lie from 0 to 1")


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


def telling(params: dict) -> dict:
    """The parameters whose vision encoder makes the targets; those of a copy are not trained."""
    if TARGET_ENCODER not in params:
        return params
    return params | {"vision_encoder": jax.lax.stop_gradient(params[TARGET_ENCODER])}


def see(model: MerlotReserve, params: dict, clips: Clips) -> Encoded:
    """What the vision encoder makes of the clips' frames, [b s, ...], with nothing hidden."""
    return model.apply({"params": params}, clips.patches.reshape(-1, *clips.patches.shape[2:]), method="encode_images")


def hide_frames(
    model: MerlotReserve,
    params: dict,
    clips: Clips,
    images: Encoded | None,
    hidden: Bool[Array, "b n"],
    values: Float[Array, "*#b c"],
) -> Float[Array, "b m d"]:
    """The joint encoder's frame tokens of clips of which what is `hidden` was overwritten with `values`.

    With `images`, what the vision encoder made of the frames, features of them are overwritten; without, pixels are,
    and the encoder runs.
    """
    batch, segments, patches, _ = clips.patches.shape
    shown, method = (clips.patches, "encode_images") if images is None else (images.sequence, "pool_images")
    left = hide(shown.reshape(batch, segments * patches, -1), hidden, values)
    pooled = model.apply({"params": params}, left.reshape(batch * segments, patches, -1), method=method)
    pooled = pooled.pooled if images is None else pooled
    return pooled.reshape(batch, -1, pooled.shape[-1])


def predict(
    model: MerlotReserve,
    params: dict,
    clips: Clips,
    pooled: Float[Array, "b m d"],
    target: Float[Array, "b m d"],
    scored: Bool[Array, "b n"],
    config: MaskedVideoConfig,
) -> Prediction:
    """What the joint encoder says of clips whose frame tokens are `pooled` and would be `target` with nothing hidden."""

    def call(method, *arguments, **options):
        return model.apply({"params": params}, *arguments, **options, method=method)

    c = model.config
    batch, segments, patches, _ = clips.patches.shape
    if config.stop_gradient_targets:
        target = jax.lax.stop_gradient(target)
    audio = call("encode_audio", clips.mels.reshape(-1, *clips.mels.shape[2:])).pooled
    audio = audio.reshape(batch, -1, *audio.shape[1:])

    def both(from_audio, from_text):
        # A clip's two sequences are neighbours: both stay on the device that holds the clip.
        return jnp.stack([from_audio, from_text], axis=1).reshape(2 * batch, *from_audio.shape[1:])

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
    joint = joint[:, clips.text_tokens.shape[1] :].reshape(batch, 2, *target.shape[1:])
    places = pooled_places(scored.reshape(batch, segments, patches), c.image_grid, c.pooling, config.pooled_when)
    slot = jnp.cumsum(places, axis=1) - 1
    from_audio, from_text, target_rows = (
        one_hot_pool(places, slot, x, slots=places.shape[1]) for x in (joint[:, 0], joint[:, 1], target)
    )
    rows = jnp.arange(places.shape[1]) < places.sum(axis=1, keepdims=True)
    return Prediction(from_audio, from_text, target_rows, rows, pooled, target)


class DrawnClips(NamedTuple):
    """A batch whose masks are drawn."""

    clips: VideoBatch
    mask: PatchMask  # [b, n]


class Represented(NamedTuple):
    """What the loss needs of each clip: rows to contrast, as in `Prediction`, and what was hidden."""

    from_audio: Float[Array, "b m d"]
    from_text: Float[Array, "b m d"]
    target: Float[Array, "b m d"]
    rows: Bool[Array, "b m"]
    hidden: Int[Array, " b"]
    hidden_inside: Int[Array, " b"]  # of them, inside a person's box
    real: Bool[Array, " b"]  # not filling up a batch


def compare(
    prediction: Prediction | Represented, scales: Float[Array, " 3"], config: MaskedVideoConfig
) -> tuple[Contrast, Contrast]:
    """The contrast of all hidden places of the batch, predicted from audio and from text."""

    def against_target(x, temperature):
        x, y = (scaled(rows.reshape(-1, rows.shape[-1]), scales[temperature]) for rows in (x, prediction.target))
        return contrast(x, y, prediction.rows.reshape(-1), config.empty_rows_count, config.round_numerator)

    return (
        against_target(prediction.from_audio, IMAGES_TO_AUDIO),
        against_target(prediction.from_text, TEXT_TO_AUDIO),
    )


def flat_patches(batch: VideoBatch, grid: tuple[int, int], images: Encoded | None) -> Patches:
    """What a strategy sees of every clip: [b, n]. Without `images` there is neither attention nor a feature."""
    count, segments = batch.frame_valid.shape
    rows, columns = np.indices(grid)

    def of_clip(x: np.ndarray) -> Array:
        return jnp.broadcast_to(jnp.asarray(x), (count, x.size))

    places = count, segments * rows.size
    return Patches(
        track=batch.track.reshape(places),
        weight=batch.weight.reshape(places),
        valid=batch.patch_valid.reshape(places),
        attention=jnp.zeros(places) if images is None else images.attention.reshape(places),
        similarity=batch.similarity.reshape(places),
        frame=of_clip(np.repeat(np.arange(segments), rows.size)),
        y=of_clip(np.tile((rows.reshape(-1) + 0.5) / grid[0], segments)),
        x=of_clip(np.tile((columns.reshape(-1) + 0.5) / grid[1], segments)),
        features=jnp.zeros((*places, 0)) if images is None else images.sequence.reshape(*places, -1),
    )


@dataclasses.dataclass(frozen=True)
class MaskedVideo:
    """The objective of continued pretraining: what the training loop asks for a loss.

    Its parameters are the model's and, where `config.target_momentum` asks for it, those of TARGET_ENCODER.
    """

    model: MerlotReserve
    masking: MaskingConfig
    config: MaskedVideoConfig

    def __call__(
        self, params: dict, batch: VideoBatch | DrawnClips, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss, and scalar metrics that are averages over the clips of the batch."""
        return self.compare(params, self.represent(params, batch, key, step))

    @property
    def couples(self) -> bool:
        """Whether hidden places are told from those of all clips of an update, not only of their microbatch."""
        return self.config.negatives == "batch"

    @property
    def draws_apart(self) -> bool:
        """Whether the strategy asks nothing of the model, so that `draw` can say what is hidden."""
        return "features" not in find(self.masking.strategy).looks_at

    def draw(self, batch: VideoBatch, key: Key[Array, ""], step: Int[Array, ""]) -> tuple[DrawnClips, dict]:
        """What a step with these arguments hides of a batch, and no metrics.

        It needs no parameters: compiled by itself, all strategies that `draws_apart` is true of share the program of the loss.
        """
        return DrawnClips(batch, self.masks(batch, key, step)), {}

    def represent(
        self, params: dict, batch: VideoBatch | DrawnClips, key: Key[Array, ""], step: Int[Array, ""]
    ) -> Represented:
        """What the loss needs of each clip."""
        mask, prediction = self.predict(params, batch, key, step)
        batch = _clips_of(batch)
        return Represented(
            prediction.from_audio,
            prediction.from_text,
            prediction.target,
            prediction.rows,
            hidden=mask.hidden.sum(axis=1),
            hidden_inside=(mask.hidden & batch.person.reshape(mask.hidden.shape)).sum(axis=1),
            real=batch.frame_valid.any(axis=1),
        )

    def compare(self, params: dict, represented: Represented) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss of all these clips and scalar metrics."""
        scales = params["contrastive_scales"]
        audio, text = compare(represented, scales, self.config)
        hidden = represented.hidden.sum()
        clip_count = jnp.maximum(represented.real.sum(), 1)
        metrics = {
            "loss": audio.loss + text.loss,
            "masked_loss": audio.masked_loss + text.masked_loss,
            "audio_to_vision": audio.masked_loss,
            "text_to_vision": text.masked_loss,
            "accuracy": (audio.accuracy + text.accuracy) / 2,
            "hidden_patches": hidden / clip_count,
            "hidden_pools": represented.rows.sum() / clip_count,
            "hidden_inside_person": represented.hidden_inside.sum() / jnp.maximum(hidden, 1),
            "scale_audio": logit_scale(scales[IMAGES_TO_AUDIO]),
            "scale_text": logit_scale(scales[TEXT_TO_AUDIO]),
        }
        return metrics["loss"], metrics

    def without_remat(self) -> "MaskedVideo":
        """The same objective, with no activation computed twice to save memory."""
        return dataclasses.replace(self, model=MerlotReserve(dataclasses.replace(self.model.config, remat=())))

    def predict(
        self, params: dict, batch: VideoBatch | DrawnClips, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[PatchMask, Prediction]:
        """What a step with these arguments hides, and what the model makes of it."""
        c, at_input = self.model.config, self.masking.hide_at == "input"
        drawn = batch.mask if isinstance(batch, DrawnClips) else None
        batch = _clips_of(batch)
        clips = to_clips(batch, c.patch_size, self.config.attend_to_padding)
        told = see(self.model, telling(params), clips)
        mask = self.masks_of(batch, key, step, told) if drawn is None else drawn
        images = None if at_input else see(self.model, params, clips) if TARGET_ENCODER in params else told
        size, dtype = (clips.patches.shape[-1], jnp.float32) if at_input else (c.hidden_size, jnp.dtype(c.dtype))
        if self.masking.hidden_values == "constant":
            values = jnp.asarray(constant_vector(self.masking.hidden_seed, size))
        else:
            # The values are drawn anew each step even where the masks stay: nothing can be learned from them.
            keys = example_keys(batch.id, jax.random.fold_in(jax.random.split(key)[1], step))
            values = random_values(keys, (mask.hidden.shape[1], size), dtype)
        if at_input:
            values = 0.5 + values / 4  # about as bright as pictures are
        pooled = hide_frames(self.model, params, clips, images, mask.hidden, values)
        target = told.pooled.reshape(pooled.shape)
        return mask, predict(self.model, params, clips, pooled, target, mask.scored, self.config)

    def masks(
        self, batch: VideoBatch, key: Key[Array, ""], step: Int[Array, ""], params: dict | None = None
    ) -> PatchMask:
        """What a step with these arguments hides; only strategies that look at features need parameters."""
        told = None
        if not self.draws_apart:
            clips = to_clips(batch, self.model.config.patch_size, self.config.attend_to_padding)
            told = see(self.model, telling(params), clips)
        return self.masks_of(batch, key, step, told)

    def masks_of(self, batch: VideoBatch, key: Key[Array, ""], step: Int[Array, ""], told: Encoded | None) -> PatchMask:
        """A function of the run's key, the clip's id, unless static the step, and what was made of the clip."""
        c = self.model.config
        key = jax.random.split(key)[0]
        keys = example_keys(batch.id, key if self.masking.static else jax.random.fold_in(key, step))
        units = patch_units(self.masking.unit, batch.frames.shape[1], c.image_grid, c.pooling)
        patches = flat_patches(batch, c.image_grid, jax.lax.stop_gradient(told))
        return jax.vmap(lambda key, patches: mask_patches(key, patches, self.masking, units))(keys, patches)

    def count(
        self, batch: VideoBatch, key: Key[Array, ""], step: Int[Array, ""], params: dict | None = None
    ) -> dict[str, Float[Array, " b"] | Int[Array, " b"]]:
        """How much of every clip a step with these arguments hides, and how many targets that makes."""
        mask = self.masks(batch, key, step, params)
        valid, person = (x.reshape(mask.hidden.shape) for x in (batch.patch_valid, batch.person))
        valid |= self.masking.mask_padding
        patches, hidden = valid.sum(axis=1), mask.hidden.sum(axis=1)
        return {
            "patches": patches,
            "hidden": hidden,
            "pools": self.pools(valid).sum(axis=1),
            "targets": self.pools(mask.scored).sum(axis=1),
            "hidden_inside": (mask.hidden & person).sum(axis=1) / jnp.maximum(hidden, 1),
            "boxes_cover": person.sum(axis=1) / jnp.maximum(patches, 1),
        }

    def pools(self, mask: Bool[Array, "b n"]) -> Bool[Array, "b m"]:
        """The pooled tokens that count as hidden."""
        c = self.model.config
        frames = mask.reshape(mask.shape[0], -1, c.patches)
        return pooled_places(frames, c.image_grid, c.pooling, self.config.pooled_when)

    def examples(self, batch: VideoBatch | DrawnClips, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, ""]:
        """How many clips of a batch are real: the last one of an evaluation is filled up with empty ones."""
        return _clips_of(batch).frame_valid.any(axis=1).sum()


def _clips_of(batch: VideoBatch | DrawnClips) -> VideoBatch:
    return batch.clips if isinstance(batch, DrawnClips) else batch
