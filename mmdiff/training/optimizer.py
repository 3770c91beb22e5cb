"""A configuration in, the gradient transformation out: AdamW whose decay pulls towards the initial weights."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mmdiff.ranges import check_range

DECAYED_FROM = 4096  # smaller parameters, biases and norms do not decay


@dataclasses.dataclass
class OptimizerConfig:
    """The defaults are the original's continued pretraining on TVQA; `official_code` changes the marked one (*)."""

    learning_rate: float = 5e-6
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    decay: float = 0.1
    decay_towards: str = "initial"  # initial weights, or zero
    state: str = "float32"  # of Adam's moments and the initial weights, or (*) the original's "compact" bfloat16
    clip: float = 0.0  # a gradient with a greater 2-norm over all parameters is scaled down to it; 0: none is

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing."""
        if self.decay_towards not in ("initial", "zero"):
            raise ValueError(f"optimizer.decay_towards={self.decay_towards!r} is unknown; known: initial, zero")
        if self.state not in ("float32", "compact"):
            raise ValueError(f"optimizer.state={self.state!r} is unknown; known: float32, compact")
        check_range(self, "optimizer", "learning_rate", "eps", above=0)
        check_range(self, "optimizer", "warmup_steps", "decay", "clip", least=0)
        check_range(self, "optimizer", "b1", "b2", least=0, below=1)


def schedule(warmup_steps: int, total_steps: int) -> optax.Schedule:
    """From 0 at the first step up to 1 over the warm-up, then down to almost 0 at the last."""

    def scale(step):
        rising = step / max(warmup_steps, 1)
        falling = 1.0 - (step - warmup_steps) / (total_steps - warmup_steps + 1.0)
        return jnp.where(step < warmup_steps, rising, jnp.maximum(falling, 0.0))

    return scale


def decays(path, parameter) -> bool:
    """Whether a parameter decays: matrices of some size, not biases, norms or temperatures."""
    return parameter.ndim > 1 and parameter.size > DECAYED_FROM


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clipping, Adam, decay, schedule, in that order (the decay is decoupled: arXiv 1711.05101)."""
    compact = config.state == "compact"
    adam = scale_by_compact_adam if compact else optax.scale_by_adam
    kept = jnp.dtype(jnp.bfloat16 if compact else jnp.float32)
    clipped = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    return optax.chain(
        *clipped,
        adam(b1=config.b1, b2=config.b2, eps=config.eps),
        add_decay(config.decay, kept if config.decay_towards == "initial" else None),
        optax.scale_by_schedule(schedule(config.warmup_steps, total_steps)),
        optax.scale(-config.learning_rate),
    )


class InitialWeights(NamedTuple):
    """What the decay pulls towards; None where a parameter does not decay."""

    weights: dict | None


def add_decay(rate: float, towards_initial_in: jnp.dtype | None) -> optax.GradientTransformation:
    """Adds rate * (parameter - where it started), the start kept in the given type; or rate * parameter."""

    def init(params):
        if towards_initial_in is None:
            return InitialWeights(None)
        # A copy, even in the same type: the parameters' own buffers are donated to the next step.
        kept = jax.tree_util.tree_map_with_path(
            lambda path, p: jnp.array(p, towards_initial_in, copy=True) if decays(path, p) else None, params
        )
        return InitialWeights(kept)

    def pull(path, update, parameter, start=None):
        if not decays(path, parameter):
            return update
        return update + rate * (parameter if start is None else parameter - start.astype(parameter.dtype))

    def update(updates, state, params):
        if state.weights is None:
            return jax.tree_util.tree_map_with_path(pull, updates, params), state
        start = jax.tree.map(lambda p, s: jnp.zeros(()) if s is None else s, params, state.weights)
        return jax.tree_util.tree_map_with_path(pull, updates, params, start), state

    return optax.GradientTransformation(init, update)


class CompactAdamState(NamedTuple):
    """First moments in bfloat16, second moments as `encode_square` stores them."""

    count: Array
    mu: dict
    nu: dict


def encode_square(v: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """A second moment in 16 bits: the cube, whose sign is one more bit of mantissa. Underflows below 2e-13."""
    cube = jnp.power(v, 3.0)  # not v * v * v: the last bit decides the sign
    low = cube.astype(jnp.bfloat16)
    high = low.astype(jnp.float32) * (1 + 2.0**-9)
    nearer = jnp.abs(high - cube) < jnp.abs(low.astype(jnp.float32) - cube)
    return jnp.where(nearer, -low, low)


def decode_square(code: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """What `encode_square` stored, in float32."""
    wide = code.astype(jnp.float32)
    return jnp.cbrt(jnp.abs(wide) * jnp.where(wide < 0, 1 + 2.0**-9, 1.0))


def scale_by_compact_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam (arXiv 1412.6980) in float32 whose state takes 4 bytes a parameter, as the original trained."""

    def init(params):
        return CompactAdamState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.bfloat16), params),
            jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.bfloat16), params),
        )

    def update(updates, state, params=None):
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m.astype(jnp.float32) + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * decode_square(v) + (1 - b2) * g**2, state.nu, updates)
        debiased = jax.tree.map(
            lambda m, v: (m / (1 - b1**count)) / (jnp.sqrt(v / (1 - b2**count)) + eps),
            mu,
            nu,
        )
        stored = CompactAdamState(
            count, jax.tree.map(lambda m: m.astype(jnp.bfloat16), mu), jax.tree.map(encode_square, nu)
        )
        return debiased, stored

    return optax.GradientTransformation(init, update)
