"""However many devices there are, and however they share the work, a step is the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters import pxla

from mmdiff.objectives.contrastive import contrast
from mmdiff.training import sharding
from mmdiff.training.config import ConfigError
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.pretrain import run_keys
from mmdiff.training.sharding import (
    batch_sharding,
    make_mesh,
    parameter_placement,
    put_batch,
    put_key,
    replicated,
    state_sharding,
)
from mmdiff.training.state import TrainState
from mmdiff.training.train_step import in_parts, joined, make_gradient, make_train_step, model_flops, split, step_flops

KEY, STEP = run_keys(0)[1], jnp.zeros((), jnp.int32)


def one_step(parts, mesh):
    """Parameters, metrics and state after one step on a mesh, and the program that took it."""
    config, params, objective, batch = parts
    optimizer = make_optimizer(dataclasses.replace(config.optimizer, warmup_steps=0), 10)
    state = TrainState(STEP, params, optimizer.init(params), jnp.ones((), bool))
    shardings = state_sharding(mesh, jax.eval_shape(lambda: state))
    step = jax.jit(
        make_train_step(objective, optimizer, 1, parameter_placement(mesh, params)),
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, None),
    )
    state, batch = jax.device_put(state, shardings), put_batch(mesh, batch)
    program = step.lower(state, batch, KEY).compile()
    state, metrics = program(state, batch, put_key(mesh, KEY))
    return jax.device_get(state.params), jax.device_get(metrics), state, program.as_text()


@pytest.fixture(scope="module")
def on_one_device(parts):
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    return one_step(parts, one)


def test_eight_devices_equal_one(parts, on_one_device, monkeypatch):
    monkeypatch.setattr(sharding, "SHARDED_FROM", 2**12)  # the tiny model has nothing larger
    fsdp = 4
    mesh = make_mesh(fsdp)
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == (2, fsdp)
    params, metrics, state, program = one_step(parts, mesh)
    expected_params, expected, _, _ = on_one_device
    for name in expected:
        # Sums run in another order: float32 rounding, and gradients through many of them.
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5 if "loss" in name else 1e-3)
    for name in ("hidden_patches", "hidden_pools", "hidden_inside_person"):
        assert metrics[name] == expected[name]
    # Adam's first step moves every weight by the learning rate, 1e-3, up or down; a sign may flip where a gradient
    # is zero but for rounding.
    flat, wanted = (np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (params, expected_params))
    assert (np.abs(flat - wanted) > 1e-5).mean() < 1e-3
    # Parameters are shared by the devices along `fsdp`, the optimizer's state by all.
    for part, devices in (("params", fsdp), ("opt_state", 8)):
        large = [x for x in jax.tree.leaves(getattr(state, part)) if x.size >= 2**12 and x.shape[-1] % devices == 0]
        assert len(large) > 8
        assert all(x.addressable_shards[0].data.size * devices == x.size for x in large)
    # Activations follow the examples: a device computes the two joint sequences of its one clip, not parts of all sixteen.
    config, _, objective, _ = parts
    length = config.data.text_length + config.data.segments * objective.model.config.pooled_patches
    assert f"[2,{length},64]" in program and f"[16,{length}," not in program


def test_eight_devices_give_the_masks_of_one(parts):
    _, params, objective, batch = parts
    kinds = [("difference", "patch"), ("attn", "pooled"), ("clip", "pooled")]
    maskings = [dataclasses.replace(objective.masking, strategy=strategy, unit=unit) for strategy, unit in kinds]
    objectives = [dataclasses.replace(objective, masking=masking) for masking in maskings]
    masks = jax.jit(lambda batch, params: [each.masks(batch, KEY, STEP, params).hidden for each in objectives])
    one = masks(jax.tree.map(jnp.asarray, batch), params)
    eight = masks(put_batch(make_mesh(2), batch), params)
    for kind, on_one, on_eight in zip(kinds, one, eight, strict=True):
        np.testing.assert_array_equal(on_one, on_eight, err_msg=str(kind))


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The smallest objective whose examples are each other's wrong answers."""

    couples: bool

    def __call__(self, params, batch, key, step):
        return self.compare(params, self.represent(params, batch, key, step))

    def represent(self, params, batch, key, step):
        return jnp.tanh(batch["x"] @ params["a"]), batch["y"] @ params["b"]

    def compare(self, params, represented):
        found = contrast(*represented, jnp.ones(represented[0].shape[0], bool))
        return found.loss, {"loss": found.loss, "accuracy": found.accuracy}

    def examples(self, batch, key, step):
        return jnp.asarray(batch["x"].shape[0])

    def without_remat(self):
        return self


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    params, batch = (
        {name: jnp.asarray(rng.normal(size=(n, 5)), jnp.float32) for name in names}
        for n, names in ((5, "ab"), (12, "xy"))
    )
    return params, batch


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_any_mesh_gives_the_loss_and_gradient_of_one_device(fsdp, monkeypatch):
    monkeypatch.setattr(sharding, "SHARDED_FROM", 1)
    rng = np.random.default_rng(1)
    params = {name: jnp.asarray(rng.normal(size=(8, 8)), jnp.float32) for name in "ab"}
    batch = {name: rng.normal(size=(16, 8)).astype(np.float32) for name in "xy"}
    mesh = make_mesh(fsdp)
    gradient = jax.jit(make_gradient(Pairs(couples=True), 1))
    expected = gradient(params, batch, KEY, STEP)
    split_params = jax.device_put(params, sharding.split_arrays(mesh, params, ("fsdp",)))
    assert split_params["a"].addressable_shards[0].data.size * fsdp == 64
    found = gradient(split_params, put_batch(mesh, batch), KEY, STEP)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected)


@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(pairs, parts):
    grads, metrics = jax.jit(make_gradient(Pairs(couples=True), parts))(*pairs, KEY, STEP)
    whole, expected = jax.jit(make_gradient(Pairs(couples=True), 1))(*pairs, KEY, STEP)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), (grads, metrics), (whole, expected)
    )


def test_microbatches_by_themselves_average_their_gradients(pairs):
    params, batch = pairs
    objective = Pairs(couples=False)
    grads, metrics = jax.jit(make_gradient(objective, 2))(params, batch, KEY, STEP)
    halves = [{name: x[i::2] for name, x in batch.items()} for i in range(2)]
    of_one = jax.jit(make_gradient(objective, 1))
    apart = [of_one(params, half, KEY, STEP) for half in halves]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *apart)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), (grads, metrics), mean)
    # Fewer negatives each: an easier task.
    assert metrics["loss"] < of_one(params, batch, KEY, STEP)[1]["loss"]


def test_masked_video_in_parts_has_the_metrics_of_the_whole(parts, on_one_device):
    _, params, objective, batch = parts
    assert objective.couples
    _, metrics = jax.jit(in_parts(objective, 4))(params, jax.tree.map(jnp.asarray, batch), KEY, STEP)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, on_one_device[1][name], rtol=1e-5)
    alone = dataclasses.replace(objective, config=dataclasses.replace(objective.config, negatives="microbatch"))
    assert not alone.couples


def test_parts_of_a_batch_come_back_in_its_order():
    batch = {"x": jnp.arange(24).reshape(12, 2)}
    parts = split(batch, 3)
    assert parts["x"].shape == (3, 4, 2) and parts["x"][1, 0, 0] == 2
    np.testing.assert_array_equal(joined(parts)["x"], batch["x"])


def test_flops_of_a_step_count_nothing_twice(parts):
    config, params, objective, batch = parts
    sizes = dataclasses.replace(objective.model.config, remat=("vision", "audio", "joint"))
    again = dataclasses.replace(objective, model=type(objective.model)(sizes))
    optimizer = make_optimizer(config.optimizer, 10)
    state = TrainState(STEP, params, optimizer.init(params), jnp.ones((), bool))

    def counted(objective):
        lowered = jax.jit(make_train_step(objective, optimizer, 1)).lower(state, batch, KEY)
        return lowered.cost_analysis()["flops"], step_flops(lowered, objective, 1, params, batch)

    # That nothing is computed twice in is the model as it is defined.
    (whole, found), (recomputing, model) = counted(objective), counted(again)
    assert found == whole and model < whole < 1.1 * model
    assert model < recomputing - (whole - model)


def test_flops_are_counted_for_devices_on_which_jax_does_not_count(pairs, monkeypatch):
    (params, batch), objective = pairs, Pairs(couples=True)
    expected = model_flops(objective, params, batch)
    # As on a TPU or GPU, where only what is lowered for the CPU can be asked.
    monkeypatch.setattr(pxla.xb, "using_pjrt_c_api", lambda backend: jax.config.jax_default_device is None)
    lowered = jax.jit(make_gradient(objective, 1)).lower(params, batch, KEY, STEP)
    assert lowered.cost_analysis() is None
    assert step_flops(lowered, objective, 1, params, batch) == expected > 0


def test_a_mesh_that_the_devices_do_not_fill_is_refused():
    assert make_mesh(0).shape["fsdp"] == 8
    with pytest.raises(ConfigError, match="train.fsdp=3 does not divide the 8 devices"):
        make_mesh(3)
