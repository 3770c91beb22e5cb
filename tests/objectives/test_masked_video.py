"""Continued pretraining equals the official code where it is asked to, losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tolerance import close

from mmdiff.data.tokenizer import AUDIOSPAN
from mmdiff.masking.hiding import constant_vector
from mmdiff.masking.strategies import PatchMask
from mmdiff.objectives.contrastive import one_hot_pool, scaled
from mmdiff.objectives.masked_video import Clips, MaskedVideoConfig, compare, hide_frames, predict, see

OFFICIAL = MaskedVideoConfig(empty_rows_count=True, first_frame_segment=0, attend_to_padding=True)
SEGMENTS, GRID = 3, (4, 6)


def official_clips(golden, batch: int) -> Clips:
    """The goldens' clip, `batch` times."""
    audio, text = golden["cpt/in/audio_seqs"][0], golden["cpt/in/textonly_seqs"][0]
    pointers = ((jnp.cumsum(audio[..., 0] == AUDIOSPAN, axis=-1) - 1) // 6) % (3 * SEGMENTS)
    one = Clips(
        patches=golden["in/images"][None],
        mels=golden["in/audio_clips"][None],
        text_tokens=text[..., 0],
        text_segments=text[..., 1],
        audio_tokens=audio[..., 0],
        audio_segments=audio[..., 1],
        audio_pointers=pointers,
        attended=jnp.ones((1, SEGMENTS), bool),
    )
    return jax.tree.map(lambda x: jnp.concatenate([x] * batch), one)


def official_mask(golden, case: str) -> PatchMask:
    """From indices in order of pools, of which -1 wraps to the last patch and is not scored, to our raster order."""
    indices = np.asarray(golden[f"cpt/{case}/in/masks_info"])[0]
    height, width = GRID

    def raster(kept):
        in_pools = np.zeros(SEGMENTS * height * width, bool)
        in_pools[kept] = True
        windows = in_pools.reshape(SEGMENTS, height // 2, width // 2, 2, 2)
        return jnp.asarray(windows.transpose(0, 1, 3, 2, 4).reshape(1, -1))

    return PatchMask(raster(indices), raster(indices[indices >= 0]), jnp.zeros((1, indices.size)))


def official_loss(golden_model, golden, config=OFFICIAL):
    model, _ = golden_model

    def loss(params, mask, clips):
        images = see(model, params, clips)
        pooled = hide_frames(model, params, clips, images, mask.hidden, golden["cpt/mask_vector"])
        prediction = predict(model, params, clips, pooled, images.pooled.reshape(pooled.shape), mask.scored, config)
        audio, text = compare(prediction, params["contrastive_scales"], config)
        return audio.loss + text.loss, (prediction, audio, text)

    return loss


@pytest.fixture(scope="module")
def gradient_of(golden, golden_model):
    """One program for both masks."""
    return jax.jit(jax.value_and_grad(official_loss(golden_model, golden), has_aux=True))


@pytest.fixture(scope="module", params=["a", "b"])
def case(request, golden, golden_model, gradient_of):
    mask = official_mask(golden, request.param)
    (value, aux), gradient = gradient_of(golden_model[1], mask, official_clips(golden, 1))
    return request.param, value, aux, gradient


def test_loss_equals_the_official_code(golden, case):
    name, value, (_, audio, text), _ = case
    close(value, golden[f"cpt/{name}/loss"])
    close(audio.loss, golden[f"cpt/{name}/loss_info/audio2vision"])
    close(text.loss, golden[f"cpt/{name}/loss_info/text2vision"])


def test_predictions_and_targets_equal_the_official_code(golden, golden_model, case):
    name, _, (prediction, *_), _ = case
    scales = golden_model[1]["contrastive_scales"]
    for direction, rows, scale in (
        ("audio2vision", prediction.from_audio, scales[0]),
        ("text2vision", prediction.from_text, scales[1]),
    ):
        close(scaled(rows, jnp.asarray(scale))[0], golden[f"cpt/{name}/{direction}/x"])
        close(scaled(prediction.target, jnp.asarray(scale))[0], golden[f"cpt/{name}/{direction}/y"])
    close(prediction.pooled.reshape(SEGMENTS, -1, 128), golden[f"cpt/{name}/vision_seq_attnpool"])
    close(prediction.pooled_target.reshape(SEGMENTS, -1, 128), golden[f"cpt/{name}/vision_target_seq_attnpool"])
    assert prediction.rows.sum() == golden[f"cpt/{name}/in/is_pool"].sum()


def norm(tree) -> float:
    return float(np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(tree))))


def test_gradients_equal_the_official_code(golden, case):
    name, _, _, gradient = case
    flat = flatten_dict(gradient, sep="/")
    for module in ("audio_encoder", "contrastive_scales", "joint_transformer", "token_encoder", "vision_encoder"):
        close(norm(gradient[module]), golden[f"cpt/{name}/grad_norm/{module}"], rtol=1e-3)
    for leaf, path in (
        ("contrastive_scales", "contrastive_scales"),
        ("joint_final_ln_scale", "joint_transformer/final_ln/scale"),
        ("vision_cls", "vision_encoder/transformer/cls"),
        ("vision_seq_attnpool_query_kernel", "vision_encoder/seq_attnpool/query/kernel"),
    ):
        close(flat[path], golden[f"cpt/{name}/grad/{leaf}"], rtol=1e-3)
    if name == "a":
        for path, expected in zip(golden["cpt/a/grad_leaf_names"], golden["cpt/a/grad_leaf_norms"], strict=True):
            close(norm(flat[str(path)]), expected, rtol=1e-3)
    # The head and the span encoder take no part.
    assert norm(gradient["head"]) == norm(gradient["span_encoder"]) == 0


def test_two_examples_in_one_batch_equal_two_devices(golden, golden_model, gradient_of):
    masks = (official_mask(golden, name) for name in "ab")
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *masks)
    (value, (_, audio, text)), gradient = gradient_of(golden_model[1], both, official_clips(golden, 2))
    close(value, golden["cpt/two_devices_ab/loss"])
    close(audio.loss, golden["cpt/two_devices_ab/loss_info/audio2vision"].mean())
    close(text.loss, golden["cpt/two_devices_ab/loss_info/text2vision"].mean())
    close(golden["cpt/two_devices_ab/loss_per_device"].mean(), golden["cpt/two_devices_ab/loss"])
    for module in ("audio_encoder", "contrastive_scales", "joint_transformer", "token_encoder", "vision_encoder"):
        close(norm(gradient[module]), golden[f"cpt/two_devices_ab/grad_norm/{module}"], rtol=1e-3)


def test_projected_predictions_equal_the_official_code(golden, golden_model):
    config = MaskedVideoConfig(**{**OFFICIAL.__dict__, "predictor": "head"})
    given = golden_model[1], official_mask(golden, "a"), official_clips(golden, 1)
    _, (prediction, *_) = jax.jit(official_loss(golden_model, golden, config))(*given)
    scales = golden_model[1]["contrastive_scales"]
    audio, text = (scaled(x, jnp.asarray(s))[0] for x, s in zip(prediction[:2], scales, strict=False))
    close(audio, golden["cpt/a/joint_proj/audio2vision/x"])
    close(text, golden["cpt/a/joint_proj/text2vision/x"])


def test_one_hot_pool_equals_the_original(golden):
    pooled = one_hot_pool(golden["prim/ohp_do_pool"], golden["prim/ohp_idx"], golden["prim/ohp_v"], slots=8)
    close(pooled, golden["prim/ohp_x"])
    one_hot = jax.nn.one_hot(golden["prim/ohp_idx"], 8) * golden["prim/ohp_do_pool"][..., None]
    close(one_hot, golden["prim/ohp_idx_oh"])


def test_constant_vector_is_the_official_one(golden, golden_folder):
    close(constant_vector(int(golden["cpt/mask_seed"]), 128), golden["cpt/mask_vector"])
    with np.load(golden_folder / "mask_vector_768.npz") as stored:
        for seed in (123457, 123458):
            close(constant_vector(seed, 768), stored[f"seed{seed}/f32_partitionable_False"])
