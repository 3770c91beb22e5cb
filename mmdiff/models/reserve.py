"""Frames, audio and tokens of one video in, joint representations out: MERLOT-Reserve (arXiv 2201.02639) in Linen.

The parameter tree is the released checkpoint's. The model knows nothing of masking or of data: hiding patches is
asking `encode_images` for features, overwriting some, and handing them to `pool_images`.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmdiff.data.tokenizer import AUDIOSPAN, PAD
from mmdiff.models.reserve_encoders import AudioEncoder, SpanEncoder, TokenEncoder, VisionEncoder
from mmdiff.models.rotary import grid_coordinates
from mmdiff.models.transformer import Encoded, Transformer, kernel_init

SEGMENT_SCALE, TOKEN_SCALE = 16, 1024  # positions are shares of these
SUBSEGMENTS = 3  # audio spans of one segment
ENCODERS = ("vision", "audio", "joint", "span")


@dataclasses.dataclass(frozen=True)
class ReserveConfig:
    """Sizes of a model. Heads are hidden_size / 64. The released base model is `ReserveConfig()` at grid 12x20."""

    hidden_size: int = 768
    vision_layers: int = 12
    audio_layers: int = 12
    joint_layers: int = 12
    span_layers: int = 4
    vocab_size: int = 32768
    image_grid: tuple[int, int] = (12, 24)  # rows and columns of patches in a frame
    patch_size: int = 16
    pooling: int = 2
    audio_patch_size: int = 2
    audio_bins: int = 65
    audio_frames: int = 60
    audio_tokens: int = 6  # pooled tokens of one audio span
    dtype: str = "float32"  # of matrix products; parameters, norms, softmax and losses are float32
    remat: tuple[str, ...] = ()  # encoders, out of ENCODERS, that recompute their activations

    def __post_init__(self):
        if self.hidden_size % 64:
            raise ValueError(f"hidden_size must be a multiple of 64, not {self.hidden_size}")
        if self.image_grid[0] % self.pooling or self.image_grid[1] % self.pooling:
            raise ValueError(f"image_grid {self.image_grid} must divide into {self.pooling}x{self.pooling} windows")
        if set(self.remat) - set(ENCODERS):
            raise ValueError(f"remat names {self.remat}; the encoders are {', '.join(ENCODERS)}")

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        return self.image_grid[0] * self.image_grid[1]

    @property
    def pooled_patches(self) -> int:
        """Tokens that the joint encoder sees of one frame."""
        return self.patches // self.pooling**2


class JointInputs(NamedTuple):
    """What the joint encoder reads: [tokens | frames | padding]."""

    x: Float[Array, "b n d"]
    position: Float[Array, "b n 4"]
    mask: Bool[Array, "b n n"]


def unit_normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x / |x|; a row of zeros stays zero."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.sum(wide**2, axis=-1, keepdims=True) + 1e-5)).astype(x.dtype)


def multimodal_position(height, width, segment, token) -> Float[Array, "*b n 4"]:
    """Positions in the joint encoder: place in the frame, segment and index in the text."""
    segment, token = jnp.asarray(segment, jnp.float32), jnp.asarray(token, jnp.float32)
    parts = jnp.broadcast_arrays(height, width, segment / SEGMENT_SCALE, token / TOKEN_SCALE)
    return jnp.stack(parts, axis=-1).astype(jnp.float32)


class MerlotReserve(nn.Module):
    """Vision, audio, span and joint encoders over one parameter tree; call its methods through `apply`."""

    config: ReserveConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.vision_encoder = VisionEncoder(
            c.hidden_size, c.vision_layers, c.image_grid, c.pooling, dtype, "vision" in c.remat
        )
        self.audio_encoder = AudioEncoder(
            c.hidden_size, c.audio_layers, c.audio_patch_size, c.audio_tokens, dtype, "audio" in c.remat
        )
        self.token_encoder = TokenEncoder(c.vocab_size, c.hidden_size, dtype)
        self.span_encoder = SpanEncoder(c.span_layers, dtype, "span" in c.remat)
        self.joint_transformer = Transformer(c.joint_layers, dtype, summarise=False, remat="joint" in c.remat)
        self.head = nn.Dense(c.hidden_size, dtype=dtype, kernel_init=kernel_init)
        # Log temperatures: 0 frames to audio, 1 text to audio, 2 anything to text spans.
        self.contrastive_scales = self.param("contrastive_scales", nn.initializers.ones, (3,))

    def __call__(self, frames, clips, tokens, subsegments, spans):
        """Touches every parameter: only for `init`."""
        return self.embed_video(frames, clips, tokens, subsegments), self.encode_spans(spans)

    def encode_images(self, patches: Float[Array, "b p c"]) -> Encoded:
        """Frames as patches (c = 768: 16 x 16 pixels x RGB in [0, 1]); `pooled` is [b, p/4, d]."""
        return self.vision_encoder(patches)

    def pool_images(self, sequence: Float[Array, "b p d"]) -> Float[Array, "b m d"]:
        """The joint encoder's frame tokens from patch features, some of which may have been hidden."""
        return self.vision_encoder.pool(sequence)

    def encode_audio(self, mels: Float[Array, "b t f"]) -> Encoded:
        """Log-mel spectrograms [b, 60, 65]; `pooled` is [b, 6, d]."""
        return self.audio_encoder(mels)

    def encode_spans(self, tokens: Int[Array, "b l"]) -> Float[Array, "b d"]:
        """Text spans of fewer than 16 tokens, 0 = padding, as summaries (not normalised)."""
        return self.span_encoder(self.token_encoder(tokens), tokens != PAD).cls

    def embed_spans(self, tokens: Int[Array, "b l"]) -> Float[Array, "b d"]:
        """Text spans as unit vectors, comparable with `embed_video` at a MASK."""
        return unit_normalize(self.encode_spans(tokens))

    def embed_audio(self, mels: Float[Array, "b t f"]) -> Float[Array, "b d"]:
        """Audio spans as unit vectors, comparable with `embed_video` at a MASKAUDIO."""
        return unit_normalize(self.encode_audio(mels).cls)

    def embed_video(
        self,
        frames: Float[Array, "s p c"],
        clips: Float[Array, "a t f"],
        tokens: Int[Array, " l"],
        subsegments: Int[Array, " l"],
    ) -> Float[Array, "l d"]:
        """One video as unit vectors, one per token.

        Args:
          frames: patches of one frame per segment.
          clips: three log-mel spectrograms per segment, a = 3 s.
          tokens: text, with AUDIOSPAN where audio stands.
          subsegments: for each token, which of the `a` thirds of a segment it belongs to.
        """
        pooled = self.encode_images(frames).pooled
        inputs = self.joint_inputs(
            tokens[None],
            token_segments=subsegments[None] // SUBSEGMENTS,
            vision=pooled.reshape(1, -1, pooled.shape[-1]),
            audio_spans=self.encode_audio(clips).pooled[None],
            audio_pointers=subsegments[None],
        )
        return unit_normalize(self.project(self.encode_joint(inputs)[0, : tokens.shape[0]]))

    def encode_joint(self, inputs: JointInputs) -> Float[Array, "b n d"]:
        """The joint encoder over prepared inputs."""
        return self.joint_transformer(inputs.x, inputs.position, mask=inputs.mask).sequence

    def project(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """The head that pretraining put on the joint encoder's output."""
        return self.head(x)

    def joint_inputs(
        self,
        tokens: Int[Array, "b l"],
        token_segments: Int[Array, "b l"] | None = None,
        vision: Float[Array, "b v d"] | None = None,
        vision_valid: Bool[Array, "b v"] | None = None,
        audio_spans: Float[Array, "b a k d"] | None = None,
        audio_pointers: Int[Array, "b l"] | None = None,
        video_source: Int[Array, "b s"] | None = None,
        first_frame: int = 0,
        length: int | None = None,
    ) -> JointInputs:
        """Tokens, frames and audio as one sequence with positions and an attention mask.

        Args:
          tokens: ids; PAD is never attended to; an AUDIOSPAN takes the vector of its audio.
          token_segments: the segment each token belongs to; all 0 if absent.
          vision: pooled frame tokens, `pooled_patches` per frame.
          vision_valid: frame tokens that may be attended to; all if absent.
          audio_spans: k vectors per audio span.
          audio_pointers: for each token, its audio span. The i-th AUDIOSPAN of a row takes vector i % k of it, so a
            sequence may be cut at its end only.
          video_source: which of several packed videos a segment comes from; sources do not attend to each other.
            Read only together with `token_segments`.
          first_frame: the segment number of the first frame.
          length: pad the sequence to this.
        """
        x = self.token_encoder(tokens)
        if audio_spans is not None:
            is_audio = tokens == AUDIOSPAN
            nth = jnp.maximum(jnp.cumsum(is_audio, axis=-1) - 1, 0) % audio_spans.shape[2]
            row = jnp.arange(tokens.shape[0])[:, None]
            audio = audio_spans[row, jnp.maximum(audio_pointers, 0), nth]
            x = jnp.where(is_audio[..., None], audio.astype(x.dtype), x)
        batch, count = tokens.shape
        segments = jnp.zeros_like(tokens) if token_segments is None else token_segments
        position = multimodal_position(0.0, 0.0, segments, jnp.arange(1, count + 1))
        valid = tokens != PAD
        if vision is not None:
            per_frame = self.config.pooled_patches
            frames = vision.shape[1] // per_frame
            pool = self.config.pooling
            places = grid_coordinates(self.config.image_grid[0] // pool, self.config.image_grid[1] // pool)
            frame = jnp.repeat(jnp.arange(frames) + first_frame, per_frame)
            height, width = jnp.tile(jnp.asarray(places), (frames, 1)).T
            there = multimodal_position(height, width, frame, 0.0)
            position = jnp.concatenate([position, jnp.broadcast_to(there, (batch, *there.shape))], axis=1)
            x = jnp.concatenate([x, vision.astype(x.dtype)], axis=1)
            seen = jnp.ones(vision.shape[:2], bool) if vision_valid is None else vision_valid
            valid = jnp.concatenate([valid, seen], axis=1)
            segments = jnp.concatenate([segments, jnp.broadcast_to(frame, (batch, frame.shape[0]))], axis=1)
        mask = valid[:, :, None] & valid[:, None, :]
        if video_source is not None and token_segments is not None:
            source = jnp.take_along_axis(video_source, segments, axis=1)
            mask &= source[:, :, None] == source[:, None, :]
        extra = 0 if length is None else length - x.shape[1]
        return JointInputs(
            jnp.pad(x, [(0, 0), (0, extra), (0, 0)]),
            jnp.pad(position, [(0, 0), (0, extra), (0, 0)]),
            jnp.pad(mask, [(0, 0), (0, extra), (0, extra)]),
        )


def init_params(config: ReserveConfig, key: Array) -> dict:
    """Random parameters, float32, in the released tree."""
    c = config
    return MerlotReserve(c).init(
        key,
        jnp.zeros((1, c.patches, 3 * c.patch_size**2)),
        jnp.zeros((SUBSEGMENTS, c.audio_frames, c.audio_bins)),
        jnp.zeros((2,), jnp.int32),
        jnp.zeros((2,), jnp.int32),
        jnp.zeros((1, 2), jnp.int32),
    )["params"]


def patchify(frames: Float[Array, "*b h w 3"], patch_size: int) -> Float[Array, "*b p c"]:
    """Pixels in [0, 1] as patches in raster order, each patch row by row with RGB innermost."""
    *batch, height, width, channels = frames.shape
    rows, columns = height // patch_size, width // patch_size
    x = frames.reshape(*batch, rows, patch_size, columns, patch_size, channels)
    x = jnp.moveaxis(x, -4, -3)
    return x.reshape(*batch, rows * columns, -1)
