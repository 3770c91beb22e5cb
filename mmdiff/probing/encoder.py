"""Frames, audio and candidates in, a frozen model's encodings of them out: on all devices, in batches of a fixed size."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from mmdiff.data.loader import stack
from mmdiff.data.question_examples import AnswerTokens
from mmdiff.errors import UserError
from mmdiff.models.reserve import MerlotReserve, patchify
from mmdiff.objectives.masked_video import model_mels
from mmdiff.objectives.question_answering import Candidates, Windows, candidate_features

PLACES_PER_BANK = 512  # encodings on the devices at once; a record with more gets a larger bank


class FeatureError(UserError):
    """A model gives no features that a probe could be trained on."""


class Row(NamedTuple):
    """One candidate (`c` of them in a batch): its tokens, and where what it sees lies in the banks."""

    answer: AnswerTokens
    frames: Int[Array, "*c s"]
    attended: Bool[Array, "*c s"]
    segments: Int[Array, "*c s"]


class Encoder:
    """A frozen model on some devices: frames, audio and candidates in, their encodings out.

    Each device gets `at_once` of them in every call, so that one compiled program each serves all records.
    """

    def __init__(self, model: MerlotReserve, params: dict, devices: list[jax.Device], at_once: int):
        self.model = model
        mesh = Mesh(np.array(devices), ("data",))
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._params = jax.device_put(params, self._everywhere)
        self._count = at_once * len(devices)

    def frames(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> Float[Array, "n v d"]:
        """Each frame's pooled tokens."""
        return self._bank(_encode_frames, frames)

    def segments(self, mels: list[tuple]) -> Float[Array, "n 3 k d"]:
        """Each segment's audio tokens, from (stored spectrograms, their scale)."""
        return self._bank(_encode_segments, mels)

    def candidates(self, frames, segments, rows: list["Row"]) -> Float[np.ndarray, "n 2 d"]:
        """The features of each row, whose frames and segments are places in these banks."""
        parts = [_ask(self.model, self._params, frames, segments, batch) for batch in self._batches(rows)]
        # Only now: reading a part waits for it.
        found = np.concatenate([np.asarray(part, np.float16) for part in parts])[: len(rows)]
        if not np.isfinite(found).all():
            raise FeatureError("the model's features are not finite numbers: its weights are damaged, or have diverged")
        return found

    def _bank(self, encode, examples: list):
        parts = [encode(self.model, self._params, batch) for batch in self._batches(examples)]
        encoded = np.concatenate([np.asarray(part) for part in parts])
        # A whole number of banks, so that all but the largest records share one program.
        size = -(-len(encoded) // PLACES_PER_BANK) * PLACES_PER_BANK
        filled = np.zeros((size, *encoded.shape[1:]), encoded.dtype)
        filled[: len(encoded)] = encoded
        return jax.device_put(filled, self._everywhere)

    def _batches(self, examples: list):
        for start in range(0, len(examples), self._count):
            part = examples[start : start + self._count]
            yield jax.device_put(stack(part + part[-1:] * (self._count - len(part))), self._split)


@functools.partial(jax.jit, static_argnums=0)
def _encode_frames(model: MerlotReserve, params: dict, frames: UInt8[Array, "n h w 3"]) -> Float[Array, "n v d"]:
    patches = patchify(frames.astype(jnp.float32) / 255, model.config.patch_size)
    return model.apply({"params": params}, patches, method="encode_images").pooled


@functools.partial(jax.jit, static_argnums=0)
def _encode_segments(model: MerlotReserve, params: dict, segments: tuple) -> Float[Array, "n 3 k d"]:
    mels = model_mels(segments[0], segments[1][:, None, None, None])
    pooled = model.apply({"params": params}, mels.reshape(-1, *mels.shape[2:]), method="encode_audio").pooled
    return pooled.reshape(*mels.shape[:2], *pooled.shape[1:])


@functools.partial(jax.jit, static_argnums=0)
def _ask(
    model: MerlotReserve, params: dict, frames: Float[Array, "m v d"], segments: Float[Array, "o 3 k d"], rows: Row
) -> Float[Array, "c 2 d"]:
    count, tokens = rows.frames.shape[0], frames.shape[1]
    windows = Windows(
        frames[rows.frames].reshape(count, -1, frames.shape[2]),
        jnp.repeat(rows.attended, tokens, axis=1),
        segments[rows.segments].reshape(count, -1, *segments.shape[2:]),
    )
    features = candidate_features(model, params, windows, Candidates(jnp.arange(count), *rows.answer))
    return features.astype(jnp.float32)
