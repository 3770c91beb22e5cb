"""What each way of hiding shows and does not show the model, whatever the strategy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from mmdiff.data.loader import stack
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.masking.strategies import STRATEGIES, MaskingConfig
from mmdiff.models.reserve import MerlotReserve, patchify
from mmdiff.objectives import masked_video
from mmdiff.objectives.masked_video import MaskedVideo, MaskedVideoConfig, see, to_clips
from mmdiff.training import runs
from mmdiff.training.pretrain import example_maker
from mmdiff.training.target_encoder import TARGET_ENCODER, add_target_encoder, follow, without_target_encoder

KEY, STEP = jax.random.key(3), jnp.zeros((), jnp.int32)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Parameters, a model and two clips, one of them without boxes."""
    records = [tiny.record(i, boxes=i > 0, similarity=True) for i in range(2)]
    config = tiny.config(tiny.write_dataset(tmp_path_factory.mktemp("records"), records, []))
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, params = runs.build_model(config.model, tokenizer, jax.random.key(0))
    make = example_maker(config.data, config.masking, lambda label, part: 1.0, sizes, tokenizer)
    batch = stack([make(record, 0, None) for record in records])
    return params, MerlotReserve(sizes), jax.tree.map(jnp.asarray, batch)


def objective(model, masking=None, **config) -> MaskedVideo:
    return MaskedVideo(model, MaskingConfig(**(masking or {})), MaskedVideoConfig(**config))


def other_pixels(batch, hidden, grid=(4, 6)):
    """The same clips with noise where patches are hidden."""
    shown = np.asarray(hidden).reshape(*batch.frame_valid.shape, *grid).repeat(16, axis=2).repeat(16, axis=3)
    noise = np.random.default_rng(0).integers(0, 255, batch.frames.shape).astype(np.uint8)
    return batch._replace(frames=jnp.where(shown[..., None], noise, batch.frames))


@pytest.mark.parametrize("unit", ["patch", "pooled"])
def test_hidden_inputs_tell_the_model_nothing_and_hidden_outputs_do(parts, unit):
    params, model, batch = parts
    for hide_at, tells in (("input", False), ("output", True)):
        run = objective(model, {"strategy": "random", "hide_at": hide_at, "unit": unit})
        predict = jax.jit(lambda batch, run=run: run.predict(params, batch, KEY, STEP))
        mask, before = predict(batch)
        _, after = predict(other_pixels(batch, mask.hidden))
        assert np.abs(before.target - after.target).max() > 1e-2  # what is to be told is another thing
        moved = max(np.abs(getattr(before, x) - getattr(after, x)).max() for x in ("from_audio", "from_text", "pooled"))
        assert (moved > 1e-3) == tells


def test_every_strategy_has_as_many_targets_with_pooled_units_and_one_program(parts):
    params, model, batch = parts
    targets = set()
    for name in STRATEGIES:
        run = objective(model, {"strategy": name, "unit": "pooled"})
        counted = jax.jit(lambda params, batch, run=run: run.count(batch, KEY, STEP, params))(params, batch)
        if run.masking.strategy in ("attn", "clip"):  # of each kind one, for compiling takes seconds
            loss = jax.jit(lambda params, batch, key, step, run=run: run(params, batch, key, step))
            for step in range(3):
                value, metrics = loss(params, batch, KEY, jnp.asarray(step))
                assert np.isfinite(value)
            assert loss._cache_size() == 1  # neither the step nor what is hidden makes another program
            assert float(metrics["hidden_pools"]) == counted["targets"].mean()
        np.testing.assert_array_equal(counted["hidden"], 4 * counted["targets"])
        np.testing.assert_array_equal(counted["targets"], counted["pools"] // 4)
        targets.add(tuple(counted["targets"].tolist()))
    assert len(targets) == 1


def test_attention_strategies_look_at_the_pass_that_makes_the_targets(parts):
    params, model, batch = parts
    run = objective(model, {"strategy": "attn", "noise": 0.0, "hide_at": "input"})

    @jax.jit
    def looked(params, batch):
        frames = batch.frames.astype(jnp.float32) / 255
        patches = patchify(frames.reshape(-1, *frames.shape[2:]), 16)
        attention = model.apply({"params": params}, patches, method="encode_images").attention.reshape(2, -1)
        of_the_loss, _ = run.predict(params, batch, KEY, STEP)
        return run.masks(batch, KEY, STEP, params), of_the_loss.hidden, attention

    mask, hidden_in_the_loss, attention = looked(params, batch)
    for clip in range(2):
        count = int(mask.hidden[clip].sum())
        valid = np.asarray(batch.patch_valid[clip]).reshape(-1)
        best = np.argsort(np.where(valid, -attention[clip], np.inf))[:count]
        assert set(best) == set(np.flatnonzero(mask.hidden[clip]))
    np.testing.assert_array_equal(hidden_in_the_loss, mask.hidden)


def test_attention_costs_no_pass_of_the_encoder_and_no_part_of_one(parts):
    params, model, batch = parts

    def flops(function) -> float:
        return jax.jit(function).lower(params, batch).cost_analysis()["flops"]

    def step(name: str) -> float:
        run = objective(model, {"strategy": name})
        return flops(lambda params, batch: run(params, batch, KEY, STEP)[0])

    encoder = flops(lambda params, batch: see(model, params, to_clips(batch, 16, False)).pooled)
    random, attn, mst = map(step, ("random", "attn", "mst"))
    assert 0 < attn - random < 0.02 * encoder and 0 < mst - random < 0.02 * encoder


@pytest.mark.parametrize("hide_at", ["input", "output"])
def test_a_target_encoder_that_has_not_moved_equals_a_stopped_gradient(parts, hide_at):
    params, model, batch = parts
    masking = {"strategy": "random", "hide_at": hide_at}

    def gradient(tree, **config):
        found, _ = jax.jit(jax.grad(objective(model, masking, **config), has_aux=True))(tree, batch, KEY, STEP)
        return jax.device_get(found)

    stopped = gradient(params, stop_gradient_targets=True)
    copied = gradient(add_target_encoder(params), target_momentum=0.9)
    assert max(np.abs(x).max() for x in jax.tree.leaves(copied.pop(TARGET_ENCODER))) == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), stopped, copied)
    if hide_at == "output":
        return  # one gradient that is not stopped is enough to see that the others are
    free = gradient(params)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), free["vision_encoder"], stopped["vision_encoder"])
    assert max(jax.tree.leaves(apart)) > 1e-4


def test_the_target_encoder_follows_the_updated_weights():
    params = add_target_encoder({"vision_encoder": {"w": jnp.ones(3)}, "head": jnp.zeros(2)})
    for momentum, expected in ((0.75, 0.75 + 0.25 * 0.9), (1.0, 1.0), (0.0, 0.9)):
        optimizer = follow(optax.sgd(0.1), momentum)
        updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
        moved = optax.apply_updates(params, updates)
        np.testing.assert_allclose(moved["vision_encoder"]["w"], 0.9, rtol=1e-6)
        np.testing.assert_allclose(moved[TARGET_ENCODER]["w"], expected, rtol=1e-6)
    assert set(without_target_encoder(params)) == {"vision_encoder", "head"}


def test_hidden_pixels_are_about_as_bright_as_pictures_and_hidden_features_standard_normal(parts, monkeypatch):
    params, model, batch = parts
    written = {}

    def record(x, hidden, values):
        written["values"] = values
        return x

    monkeypatch.setattr(masked_video, "hide", record)
    for hide_at, mean, deviation in (("input", 0.5, 0.25), ("output", 0.0, 1.0)):
        run = objective(model, {"strategy": "random", "hide_at": hide_at})
        values = jax.jit(lambda params, run=run: (run.predict(params, batch, KEY, STEP), written["values"])[1])(params)
        # At least 2 x 48 x 64 draws: four standard errors.
        assert values.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(values.size))
        assert values.std() == pytest.approx(deviation, rel=0.05)


def test_the_step_is_traced_without_a_loop_over_what_is_hidden(parts):
    params, model, batch = parts

    def program(ratio: float, hide_at: str) -> str:
        run = objective(model, {"ratio": ratio, "hide_at": hide_at})
        return str(jax.make_jaxpr(jax.grad(lambda params: run(params, batch, KEY, STEP)[0]))(params))

    for hide_at in ("input", "output"):
        few, many = program(0.1, hide_at), program(0.9, hide_at)
        assert few.count("\n") == many.count("\n")
        assert "while[" not in few and "scan[" not in few


def test_unknown_momentum_is_refused():
    with pytest.raises(ValueError, match="target_momentum=1.5 must lie from 0 to 1"):
        dataclasses.replace(MaskedVideoConfig(), target_momentum=1.5).validate()
