"""The model equals the original implementation, array by array."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import close

from mmdiff.models import rotary
from mmdiff.models.reserve import (
    MerlotReserve,
    ReserveConfig,
    init_params,
    multimodal_position,
    patchify,
    unit_normalize,
)
from mmdiff.models.transformer import gelu


@functools.partial(jax.jit, static_argnums=(0, 2))
def outputs(model: MerlotReserve, params: dict, methods: tuple, *inputs) -> list:
    """What several methods make of the same inputs, as one program: run one by one, each operation is compiled."""
    return [model.apply({"params": params}, *inputs, method=method) for method in methods]


def test_primitives_equal_the_original(golden):
    close(rotary.coordinates(7), golden["prim/rotary_1d_center"])
    close(rotary.coordinates(7, center=False), golden["prim/rotary_1d_nocenter"])
    close(rotary.grid_coordinates(4, 6), golden["prim/rotary_2d"])
    close(rotary.grid_coordinates(2, 3), golden["prim/rotary_2d_pooled"])

    @jax.jit
    def made(given):
        position = multimodal_position(given["mm_in_h"], 0.0, given["mm_in_seg"], given["mm_in_tok"])
        return {
            "sinusoids_2d": jnp.stack(rotary.sinusoids(given["rotary_2d"])),
            "mm_coords": position,
            "mm_sinusoids": jnp.stack(rotary.sinusoids(position), axis=1),
            "rotary_out": rotary.apply_rotary(given["rotary_in"], position),
            "gelu_out": gelu(given["gelu_in"]),
            "unitnorm_out": unit_normalize(given["unitnorm_in"]),
        }

    given = ("mm_in_h", "mm_in_seg", "mm_in_tok", "rotary_2d", "rotary_in", "gelu_in", "unitnorm_in")
    for name, found in made({name: jnp.asarray(golden[f"prim/{name}"]) for name in given}).items():
        close(found, golden[f"prim/{name}"])


def test_vision_encoder_equals_the_original(golden, golden_model):
    model, params = golden_model
    (images,) = outputs(model, params, ("encode_images",), golden["in/images"])
    close(images.cls, golden["vision/cls"])
    close(images.sequence, golden["vision/seq"])
    close(images.pooled, golden["vision/seq_attnpool"])


def test_audio_encoder_equals_the_original(golden, golden_model):
    model, params = golden_model
    audio, unit = outputs(model, params, ("encode_audio", "embed_audio"), golden["in/audio_clips"])
    close(audio.cls, golden["audio/cls"])
    close(audio.sequence, golden["audio/seq"])
    close(audio.pooled, golden["audio/seq_attnpool"])
    close(unit, golden["audio/embed_audio_only"])


def test_span_encoder_equals_the_original(golden, golden_model):
    model, params = golden_model
    methods = (lambda model, tokens: model.token_encoder(tokens), "encode_spans", "embed_spans")
    embedded, raw, unit = outputs(model, params, methods, golden["in/text_spans"])
    close(embedded, golden["span/token_embs"])
    close(raw, golden["span/cls_raw"])
    close(unit, golden["span/embed_text_spans_only"])


def test_a_span_of_sixteen_tokens_is_refused(golden_model):
    model, params = golden_model
    with pytest.raises(ValueError, match="at most 15 tokens"):
        outputs(model, params, ("encode_spans",), jnp.ones((1, 16), jnp.int32))


JOINT_CASES = {
    "text": {"token_segments": "text_segment_idx"},
    "noseg_pad": {"length": 35},
    "vision": {"token_segments": "text_segment_idx", "vision": "vision_input"},
    "audio": {
        "token_segments": "audio_segment_idx",
        "audio_spans": "audio_spans",
        "audio_pointers": "audio_pointers",
    },
    "all_pad_src": {
        "token_segments": "audio_segment_idx",
        "vision": "vision_input",
        "audio_spans": "audio_spans",
        "audio_pointers": "audio_pointers",
        "video_source": "video_src_idx",
        "length": 61,
    },
}


@pytest.mark.parametrize("case", JOINT_CASES)
def test_joint_encoder_equals_the_original(golden, golden_model, case):
    model, params = golden_model
    options = JOINT_CASES[case] | {"tokens": "audio_tokens" if "audio_spans" in JOINT_CASES[case] else "text_tokens"}
    arrays = {name: golden[f"pmi/in/{value}"] for name, value in options.items() if name != "length"}

    @jax.jit
    def encode(params, arrays):
        given = arrays | {"length": options.get("length")}
        inputs = model.apply({"params": params}, **given, method="joint_inputs")
        return inputs, model.apply({"params": params}, inputs, method="encode_joint")

    inputs, sequence = encode(params, arrays)
    close(inputs.x, golden[f"pmi/{case}/x"])
    close(inputs.position, golden[f"pmi/{case}/rotary_coords"])
    np.testing.assert_array_equal(inputs.mask, golden[f"pmi/{case}/attention_mask"])
    close(sequence, golden[f"joint/{case}/seq"])


def test_embed_video_equals_the_original(golden, golden_model):
    model, params = golden_model
    names = ("in/images", "in/audio_clips", "embed_video/in/tokens", "embed_video/in/subseg_idxs")
    (video,) = outputs(model, params, ("embed_video",), *(golden[name] for name in names))
    close(video, golden["embed_video/out"])


def test_base_model_has_the_released_number_of_parameters():
    shapes = jax.eval_shape(lambda: init_params(ReserveConfig(), jax.random.key(0)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 316_412_163
    assert len(jax.tree.leaves(shapes)) == 449


def test_large_model_has_the_released_number_of_parameters():
    config = ReserveConfig(hidden_size=1024, vision_layers=24, joint_layers=24)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 853_117_955


def test_remat_changes_no_gradient(golden, golden_model):
    model, params = golden_model
    config = ReserveConfig(**{**model.config.__dict__, "remat": ("vision",)})

    def gradient(model):
        def loss(params):
            return (model.apply({"params": params}, golden["in/images"], method="encode_images").pooled ** 2).mean()

        return jax.jit(jax.grad(loss))(params)["vision_encoder"]

    jax.tree.map(close, gradient(MerlotReserve(config)), gradient(model))


def test_bfloat16_model_stays_close_to_float32(golden, golden_model):
    model, params = golden_model
    config = ReserveConfig(**{**model.config.__dict__, "dtype": "bfloat16"})
    (images,) = outputs(MerlotReserve(config), params, ("encode_images",), golden["in/images"])
    half = images.sequence
    assert half.dtype == jnp.bfloat16
    error = np.abs(np.asarray(half, np.float32) - golden["vision/seq"])
    # Eight bits of mantissa through two layers of width 128, on values of order one.
    assert error.mean() < 0.02


def test_patches_are_rows_of_pixels_with_colour_innermost():
    frames = jnp.arange(32 * 48 * 3, dtype=jnp.float32).reshape(32, 48, 3)
    patches = patchify(frames, 16)
    assert patches.shape == (6, 768)
    np.testing.assert_array_equal(patches[4].reshape(16, 16, 3), frames[16:32, 16:32])


def test_attention_is_that_of_the_summary_in_the_last_layer_averaged_over_heads():
    config = ReserveConfig(
        hidden_size=128,
        vision_layers=2,
        audio_layers=1,
        joint_layers=1,
        span_layers=1,
        vocab_size=64,
        image_grid=(2, 4),
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    # Larger than they start: attention that is almost even would look like any other.
    params["vision_encoder"] = jax.tree.map(lambda x: 4 * np.asarray(x), params["vision_encoder"])
    patches = jax.random.uniform(jax.random.key(1), (3, 8, 768))
    images, seen = jax.jit(
        lambda params: MerlotReserve(config).apply(
            {"params": params},
            patches,
            method="encode_images",
            capture_intermediates=lambda module, _: module.name == "pre_attn_ln",
            mutable=["intermediates"],
        )
    )(params)
    (entering,) = seen["intermediates"]["vision_encoder"]["transformer"]["layer_01"]["pre_attn_ln"]["__call__"]
    weights = params["vision_encoder"]["transformer"]["layer_01"]["attention_layer"]["qkv"]
    qkv = np.einsum("bnd,dhk->bnhk", entering, weights["kernel"]) + weights["bias"]
    place = np.concatenate([np.zeros((1, 2)), rotary.grid_coordinates(2, 4)]).astype(np.float32)
    turn = jax.jit(rotary.apply_rotary)
    query, key = (turn(jnp.asarray(x), jnp.asarray(place)[None]) for x in (qkv[:, :, :2], qkv[:, :, 2:4]))
    logits = np.einsum("bqhk,bnhk->bhqn", query, key) / 8
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    close(images.attention, softmax[:, :, 0].mean(axis=1)[:, 1:])
    assert np.ptp(images.attention, axis=1).min() > 0.01
