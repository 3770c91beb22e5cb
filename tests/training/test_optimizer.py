"""The optimizer equals the original chain, and does what its options say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict
from tolerance import close

from mmdiff.training.optimizer import OptimizerConfig, decode_square, encode_square, make_optimizer, schedule


@pytest.fixture(scope="module")
def trace(golden_folder):
    with np.load(golden_folder / "optim.npz") as archive:
        # The configuration stays in float64: 1 - b1 in float32 would not be 0.1.
        return {name: array if name == "cfg" else jnp.asarray(array) for name, array in archive.items()}


def tree(trace, prefix):
    return unflatten_dict(
        {name[len(prefix) + 1 :]: x for name, x in trace.items() if name.startswith(prefix + "/")}, sep="/"
    )


def test_six_steps_equal_the_original(trace):
    rate, warmup, total, decay, b1, b2, eps = (float(x) for x in trace["cfg"])
    config = OptimizerConfig(rate, int(warmup), b1, b2, eps, decay, state="compact")
    optimizer = make_optimizer(config, int(total))
    params = tree(trace, "param0")
    state = optimizer.init(params)
    for step in range(6):
        # Not jitted: a fused multiply-add rounds otherwise, and a moment at the middle of two bfloat16 values flips.
        updates, state = optimizer.update(tree(trace, f"grad{step}"), state, params)
        params = optax.apply_updates(params, updates)
        # A step moves a weight by about 5e-6; weights of order one have a spacing of 1.2e-7.
        jax.tree.map(lambda a, b: close(a, b, rtol=0, atol=1.2e-7), params, tree(trace, f"param{step + 1}"))
    adam = state[0]
    jax.tree.map(lambda a, b: close(a.astype(jnp.float32), b), adam.mu, tree(trace, "final_mu_f32"))
    jax.tree.map(lambda a, b: close(a.astype(jnp.float32), b), adam.nu, tree(trace, "final_nu_raw_signed_f32"))
    jax.tree.map(lambda a, b: close(decode_square(a), b), adam.nu, tree(trace, "final_nu_decoded"))


def test_schedule_equals_the_original(trace):
    _, warmup, total, *_ = (float(x) for x in trace["cfg"])
    close(jax.vmap(schedule(int(warmup), int(total)))(trace["schedule_steps"]), trace["schedule_scale"])


def test_compact_second_moments_err_by_a_third_of_a_bfloat16_spacing():
    v = jnp.exp(jnp.linspace(-25, 5, 1000))
    close(decode_square(encode_square(v)), v, rtol=2.0**-8 / 3 * 1.01, atol=0)


def test_decay_pulls_towards_where_training_started():
    config = OptimizerConfig(learning_rate=1.0, decay=0.5, decay_towards="initial")
    start = {"kernel": jnp.ones((80, 80))}
    optimizer = make_optimizer(config, total_steps=1000)
    state = optimizer.init(start)
    moved = {"kernel": jnp.full((80, 80), 3.0)}
    updates, _ = optimizer.update({"kernel": jnp.zeros((80, 80))}, state, moved)
    close(updates["kernel"], jnp.full((80, 80), -0.5 * (3.0 - 1.0)))


def test_small_parameters_do_not_decay():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1.0, decay=0.5, decay_towards="zero"), total_steps=1000)
    params = {"small": jnp.ones((64, 64)), "large": jnp.ones((65, 64)), "bias": jnp.ones((5000,))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert (updates["large"] == -0.5).all()
    assert (updates["small"] == 0).all() and (updates["bias"] == 0).all()


def test_unknown_options_name_the_known_ones():
    with pytest.raises(ValueError, match="known: float32, compact"):
        OptimizerConfig(state="float8").validate()
