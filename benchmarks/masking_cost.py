"""What choosing and hiding cost beside a base-size training step, and what a loop over hidden patches does to compiling.

    python benchmarks/masking_cost.py                     # compiles only: a few minutes, 4 GB
    python benchmarks/masking_cost.py --time              # also runs steps: 12 GB

The step is one clip of seven 12 x 24 frames, forward and backward, in float32, without the optimizer. Beside every
strategy stands the same step with a mask and values that are given: the difference is choosing and drawing. The time is
that of choosing, drawing and hiding alone, with the row of attention that `attn` and `mst` read.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff.data.video_examples import VideoBatch
from mmdiff.masking.hiding import hide, random_values
from mmdiff.masking.selection import example_keys
from mmdiff.masking.strategies import STRATEGIES, MaskingConfig, with_strategy
from mmdiff.models.reserve import MerlotReserve, ReserveConfig, init_params
from mmdiff.models.transformer import HEAD_SIZE, first_attention
from mmdiff.objectives.masked_video import (
    MaskedVideo,
    MaskedVideoConfig,
    compare,
    hide_frames,
    predict,
    see,
    to_clips,
)
from mmdiff.training.config import PretrainConfig, apply_preset
from mmdiff.training.presets import PRETRAIN_PRESETS

SEGMENTS, TOKENS = 7, 256


def clips(sizes: ReserveConfig, count: int) -> VideoBatch:
    """Noise, and a person who fills the middle third of every frame."""
    rng = np.random.default_rng(0)
    rows, columns = sizes.image_grid
    track = np.zeros((count, SEGMENTS, rows, columns), np.int32)
    track[:, :, :, columns // 3 : 2 * columns // 3] = 1
    track = track.reshape(count, SEGMENTS, -1)
    tokens = np.full((count, TOKENS), 10, np.int32)
    return VideoBatch(
        id=np.arange(count, dtype=np.uint32),
        frames=rng.integers(0, 255, (count, SEGMENTS, 16 * rows, 16 * columns, 3)).astype(np.uint8),
        frame_valid=np.ones((count, SEGMENTS), bool),
        mels=rng.integers(0, 255, (count, SEGMENTS, 3, 60, 64)).astype(np.uint8),
        mel_scale=np.full(count, 30, np.float32),
        text_tokens=tokens,
        text_segments=np.ones_like(tokens),
        audio_tokens=tokens,
        audio_segments=np.ones_like(tokens),
        audio_pointers=np.zeros_like(tokens),
        track=track,
        weight=(track > 0).astype(np.float32),
        person=track > 0,
        similarity=rng.random(track.shape).astype(np.float32),
        patch_valid=np.ones(track.shape, bool),
    )


def given_mask_step(objective: MaskedVideo):
    """The step without choosing: what is hidden, and what stands there instead, come as arguments."""

    def loss(params, batch, hidden, values, write=hide):
        clip = to_clips(batch, 16, False)
        images = see(objective.model, params, clip)
        if write is hide:
            pooled = hide_frames(objective.model, params, clip, images, hidden, values)
        else:
            features = images.sequence.reshape(hidden.shape[0], hidden.shape[1], -1)
            left = write(features, hidden, values).reshape(images.sequence.shape)
            pooled = objective.model.apply({"params": params}, left, method="pool_images")
            pooled = pooled.reshape(hidden.shape[0], -1, pooled.shape[-1])
        target = images.pooled.reshape(pooled.shape)
        prediction = predict(objective.model, params, clip, pooled, target, hidden, objective.config)
        return sum(x.loss for x in compare(prediction, params["contrastive_scales"], objective.config))

    return loss


def in_a_loop(places: np.ndarray):
    """Writes one place after another, unrolled while it is traced, as the original does."""

    def write(features, hidden, values):
        for place in places:
            features = features.at[0, place].set(values[0, place])
        return features

    return write


def compiled(function, *arguments):
    """The executable, and the seconds that lowering and compiling took."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    middle = time.perf_counter()
    executable = lowered.compile()
    return executable, middle - start, time.perf_counter() - middle


def milliseconds(executable, *arguments, repeats: int) -> float:
    """The fastest of some runs."""
    jax.block_until_ready(executable(*arguments))
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(executable(*arguments))
        taken.append(time.perf_counter() - start)
    return 1e3 * min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--columns", type=int, default=24)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--size", type=int, default=768)
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is what is timed
    sizes = ReserveConfig(
        hidden_size=options.size,
        vision_layers=options.layers,
        audio_layers=options.layers,
        joint_layers=options.layers,
        image_grid=(options.rows, options.columns),
    )
    shapes = jax.eval_shape(functools.partial(init_params, sizes), jax.random.key(0))
    params = jax.jit(init_params, static_argnums=0)(sizes, jax.random.key(0)) if options.time else shapes
    batch = jax.tree.map(jnp.asarray, clips(sizes, 1))
    key, step = jax.random.key(0), jnp.zeros((), jnp.int32)
    patches = SEGMENTS * sizes.patches
    model = MerlotReserve(sizes)

    def objective(name: str) -> MaskedVideo:
        return MaskedVideo(model, with_strategy(MaskingConfig(), name), MaskedVideoConfig())

    hidden = jnp.asarray(np.random.default_rng(1).permutation(patches) < patches // 4)[None]
    values = jnp.ones((1, patches, options.size))
    given = given_mask_step(objective("random"))
    ours, traced, seconds = compiled(jax.value_and_grad(given), params, batch, hidden, values)
    base = ours.cost_analysis()["flops"]
    print(f"step with a given mask: {base:.4g} FLOPs, traced in {traced:.1f} s, compiled in {seconds:.1f} s")
    places = np.flatnonzero(np.asarray(hidden[0]))
    looped, traced_loop, seconds_loop = compiled(
        jax.value_and_grad(lambda p, b, h, v: given(p, b, h, v, in_a_loop(places))), params, batch, hidden, values
    )
    print(
        f"the same with a loop over {len(places)} patches: traced in {traced_loop:.1f} s, compiled in {seconds_loop:.1f} s: "
        f"{(traced_loop + seconds_loop) / (traced + seconds):.2f} times ours"
    )
    step_ms = milliseconds(ours, params, batch, hidden, values, repeats=2) if options.time else None
    if options.time:
        print(f"step with a given mask: {step_ms:.0f} ms")
    del ours, looped

    print("\n| strategy | FLOPs of choosing and drawing | % of the step | ms for a clip, with hiding | % of the step |")
    print("| --- | --- | --- | --- | --- |")
    for name in STRATEGIES:
        masked = objective(name)
        whole, _, _ = compiled(jax.value_and_grad(functools.partial(first, masked, key, step)), params, batch)
        extra = whole.cost_analysis()["flops"] - base
        del whole
        told = see_shape(model, batch)
        features = jnp.ones((1, patches, options.size))
        alone, _, _ = compiled(functools.partial(choose_and_hide, masked, key, step), batch, told, features)
        ms = milliseconds(alone, batch, told, features, repeats=20)
        share = f"{100 * ms / step_ms:.3f}" if step_ms else "not run"
        print(f"| {name} | {extra:.3g} | {100 * extra / base:.4f} | {ms:.1f} | {share} |", flush=True)
    by_preset(model, shapes, batch, key, step)


def by_preset(model: MerlotReserve, params, batch, key, step) -> None:
    """FLOPs of a step of `random` with each preset, before the compiler looks at them."""
    counted = {}
    for name in PRETRAIN_PRESETS:
        config = PretrainConfig()
        apply_preset(config, name)
        masked = MaskedVideo(model, with_strategy(config.masking, "random"), config.objective)
        lowered = jax.jit(jax.value_and_grad(functools.partial(first, masked, key, step))).lower(params, batch)
        counted[name] = lowered.cost_analysis()["flops"]
    print("\n| preset | FLOPs of a step | of those of `paper` |\n| --- | --- | --- |")
    for name, flops in counted.items():
        print(f"| {name} | {flops:.4g} | {flops / counted['paper']:.3f} |")


def first(masked: MaskedVideo, key, step, params, batch):
    """The loss alone."""
    return masked(params, batch, key, step)[0]


def choose_and_hide(masked: MaskedVideo, key, step, batch, told, features):
    """All that a strategy adds to a step. Of `told`, the attention is computed here from queries and keys like those."""
    units = told.sequence.reshape(*told.sequence.shape[:2], -1, HEAD_SIZE)
    told = told._replace(attention=first_attention(units, units, None))
    mask = masked.masks_of(batch, key, step, told)
    return hide(features, mask.hidden, random_values(example_keys(batch.id, key), features.shape[1:], features.dtype))


def see_shape(model: MerlotReserve, batch: VideoBatch):
    """What `see` gives, of the right shapes."""
    sizes = model.config
    clip = jax.eval_shape(lambda batch: to_clips(batch, 16, False), batch)
    params = jax.eval_shape(functools.partial(init_params, sizes), jax.random.key(0))
    found = jax.eval_shape(lambda params, clip: see(model, params, clip), params, clip)
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: jnp.asarray(rng.random(x.shape), x.dtype), found)


if __name__ == "__main__":
    main()
