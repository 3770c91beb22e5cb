"""Patches in, which of them to hide out. A strategy is one row of a table: a grouping and a score."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mmdiff.masking.selection import choose


@dataclasses.dataclass
class MaskingConfig:
    """What to hide, and how. The defaults are what the paper says; `official_code` changes the marked ones (*)."""

    strategy: str = "difference"  # a row of STRATEGIES
    where: str = "body"  # which boxes of a person count: body or face
    anchors: tuple[str, ...] = ("person",)  # labels that make the domain different
    ratio: float = 0.25  # share of the patches of a clip that is hidden
    alpha: float = 1.0  # at most this share of the budget goes to what the strategy wants, the rest is uniform
    static: bool = True  # one mask per example, as in the paper, or a fresh one each step
    min_coverage: float = 0.25  # a patch belongs to a box that covers this share of it (*0: any pixel)
    hidden_values: str = "independent"  # random values of each hidden patch, or (*) one "constant" vector for all
    hidden_seed: int = 123457  # of the constant vector; the original's Social-IQ code has 123458
    mask_padding: bool = False  # (*) padded frames are hidden and scored too
    fallback_without: str = "where"  # all-random where a clip has no boxes of `where`, or (*) no "body" boxes
    drop_by_rounding: bool = False  # (*) a rounding error hides one patch fewer, and the clip's last one unscored

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing."""
        known = {
            "strategy": tuple(STRATEGIES),
            "where": ("body", "face"),
            "hidden_values": ("independent", "constant"),
            "fallback_without": ("where", "body"),
        }
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"masking.{name}={getattr(self, name)!r} is unknown; known: {', '.join(allowed)}")
        if not 0 < self.ratio < 1:
            raise ValueError(f"masking.ratio={self.ratio} must lie between 0 and 1")
        for name in ("alpha", "min_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name}={getattr(self, name)} must lie from 0 to 1")
        if not self.anchors or any("," in anchor for anchor in self.anchors):
            raise ValueError(f"masking.anchors={self.anchors!r} must be labels, as in \"('person', 'hand')\"")


class Patches(NamedTuple):
    """What a strategy sees of one clip: its `n` patches, frame after frame, each in raster order."""

    track: Int[Array, " n"]  # the track of the box that holds the patch, from 1; 0 outside every box
    weight: Float[Array, " n"]  # how similar that box's label is to the anchors; 0 outside
    valid: Bool[Array, " n"]  # real pixels, not padding


class PatchMask(NamedTuple):
    """`hidden` patches are overwritten, `scored` ones are predicted; only the original's bugs tell them apart."""

    hidden: Bool[Array, " n"]
    scored: Bool[Array, " n"]


def each_patch(patches: Patches) -> Int[Array, " n"]:
    """Every patch falls alone."""
    return jnp.arange(patches.valid.shape[0])


def box_track(patches: Patches) -> Int[Array, " n"]:
    """The patches of one individual fall together over all frames; those outside boxes fall alone."""
    inside = patches.track > 0
    # Group numbers must stay below n: a track takes the number of its first patch.
    first = jnp.argmax(patches.track[:, None] == patches.track[None, :], axis=0)
    return jnp.where(inside, first, each_patch(patches))


def equal(patches: Patches) -> Float[Array, " n"]:
    """No patch is wanted more than another."""
    return jnp.zeros(patches.valid.shape)


def anchor_similarity(patches: Patches) -> Float[Array, " n"]:
    """The log of the weight of the patch's box: patches outside every box are not wanted at all."""
    return jnp.log(patches.weight)


class Strategy(NamedTuple):
    """Which patches fall together, and how much each is wanted (-inf: only when the budget needs filling)."""

    group: Callable[[Patches], Int[Array, " n"]]
    score: Callable[[Patches], Float[Array, " n"]]


STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(each_patch, equal),
    "difference": Strategy(box_track, anchor_similarity),
}


def mask_patches(key: Key[Array, ""], patches: Patches, config: MaskingConfig) -> PatchMask:
    """The patches of one clip to hide: exactly floor(ratio * valid patches) of them.

    First what the strategy wants, up to `alpha` of the budget; then uniformly from all the others, which is also
    what happens to a clip without boxes.
    """
    wanted_key, rest_key = jax.random.split(key)
    # A clip without any real patch only fills up a batch: nothing of it is ever hidden.
    valid = (patches.valid | patches.valid.any()) if config.mask_padding else patches.valid
    budget = jnp.floor(config.ratio * valid.sum()).astype(jnp.int32)
    strategy = STRATEGIES[config.strategy]
    score = strategy.score(patches)
    wanted = valid & (score > -jnp.inf)
    cap = jnp.floor(config.alpha * budget).astype(jnp.int32)
    picked = choose(wanted_key, score, strategy.group(patches), wanted, cap)
    rest = budget - picked.sum()
    lost = _lost_by_rounding(picked.sum(), config.ratio, valid.shape[0]) if config.drop_by_rounding else 0
    filled = choose(rest_key, equal(patches), each_patch(patches), valid & ~picked, rest - lost)
    scored = picked | filled
    hidden = scored.at[-1].max(lost > 0) if config.drop_by_rounding else scored
    return PatchMask(hidden, scored)


def _lost_by_rounding(picked: Int[Array, ""], ratio: float, total: int) -> Int[Array, ""]:
    """1 where the original's int((ratio - picked / total) * total) falls one short of the budget.

    The missing index became -1, which JAX wraps to the clip's last patch: overwritten, but not predicted.
    """
    shares = [int((ratio - count / total) * total) for count in range(int(ratio * total) + 1)]
    lost = [int(ratio * total) - count - share for count, share in enumerate(shares)]
    return jnp.asarray(lost, jnp.int32)[picked]
