"""Patches in, which of them to hide out. A strategy is one row of a table: a grouping and a score.

A strategy of your own is a function from `Patches` to a score for each of them, named as `package.module:function`, or
as an entry point of the group `mmdiff.masking.strategies`.
"""

import dataclasses
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mmdiff.errors import UserError
from mmdiff.masking.selection import choose
from mmdiff.ranges import check_range

ENTRY_POINTS = "mmdiff.masking.strategies"
EXACT = 1e-9  # by which a product that should be whole may fall short of it


class StrategyError(UserError):
    """A strategy cannot be found, or does not give what a strategy must."""


@dataclasses.dataclass
class MaskingConfig:
    """What to hide, and how. The defaults are what the paper says; `official_code` changes the marked ones (*)."""

    strategy: str = "difference"  # a row of STRATEGIES, an entry point, or package.module:function
    where: str = "body"  # which boxes of a person `difference` aims at: body, face or both
    ratio: float = 0.25  # share of the patches of a clip that is hidden
    alpha: float = 1.0  # at most this share of the budget goes to what the strategy wants, the rest is uniform
    noise: float = 1.0  # 1: sampled in proportion to the weights (equation 4); (*) 0: the highest weights
    unit: str = "patch"  # what is chosen: a patch, or the pooled 2x2 patches that the joint encoder reads as one
    hide_at: str = "output"  # of the vision encoder, whose other outputs then know what was hidden; or its input
    static: bool = True  # one draw per example, as in the paper, or a fresh one each step; crops move it all the same
    min_coverage: float = 0.25  # a patch belongs to a box that covers this share of it (*0: any pixel)
    whole_tracks: bool = True  # `difference` hides the boxes of an individual together (*) or patch by patch
    hidden_values: str = "independent"  # random values of each hidden patch, or (*) one "constant" vector for all
    hidden_seed: int = 123457  # of the constant vector; the original's Social-IQ code has 123458
    mask_padding: bool = False  # (*) padded frames are hidden and scored too
    fallback_without: str = "where"  # all-random where a clip has no boxes of `where`, or (*) no "body" boxes
    drop_by_rounding: bool = False  # (*) a rounding error hides one patch fewer, and the clip's last one unscored

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing; StrategyError for the strategy."""
        known = {
            "where": ("body", "face", "both"),
            "unit": ("patch", "pooled"),
            "hide_at": ("output", "input"),
            "hidden_values": ("independent", "constant"),
            "fallback_without": ("where", "body"),
        }
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"masking.{name}={getattr(self, name)!r} is unknown; known: {', '.join(allowed)}")
        if not 0 < self.ratio < 1:
            raise ValueError(f"masking.ratio={self.ratio} must lie between 0 and 1")
        check_range(self, "masking", "noise", "hidden_seed", least=0)
        for name in ("alpha", "min_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name}={getattr(self, name)} must lie from 0 to 1")
        find(self.strategy)


class Patches(NamedTuple):
    """What a strategy sees of one clip: its `n` patches, frame after frame, each frame in raster order."""

    track: Int[Array, " n"]  # the track of the box that holds the patch, from 1; 0 outside every box
    weight: Float[Array, " n"]  # how similar that box's label is to the anchors, 0 to 1; 0 outside
    valid: Bool[Array, " n"]  # real pixels, not padding
    attention: Float[Array, " n"]  # of the vision encoder's CLS unit in its last layer, mean over heads
    similarity: Float[Array, " n"]  # of the picture there to the anchor text, by CLIP: a cosine; 0 where not stored
    frame: Int[Array, " n"]  # from 0
    y: Float[Array, " n"]  # of the patch's middle, as a share of the frame's height from the top
    x: Float[Array, " n"]  # likewise from the left
    features: Float[Array, "n d"]  # what the vision encoder makes of the patch where nothing is hidden


class PatchMask(NamedTuple):
    """`hidden` patches are overwritten, `scored` ones are predicted; only the original's bugs tell them apart."""

    hidden: Bool[Array, " n"]
    scored: Bool[Array, " n"]
    score: Float[Array, " n"]  # how much the strategy wanted each patch; -inf: not at all


def each_patch(patches: Patches) -> Int[Array, " n"]:
    """Every patch falls alone."""
    return jnp.arange(patches.valid.shape[0])


def box_track(patches: Patches) -> Int[Array, " n"]:
    """The patches of one individual fall together over all frames; those outside boxes fall alone."""
    # Negative numbers are no patch's.
    return jnp.where(patches.track > 0, -patches.track, each_patch(patches))


def equal(patches: Patches) -> Float[Array, " n"]:
    """No patch is wanted more than another."""
    return jnp.zeros(patches.valid.shape)


def anchor_similarity(patches: Patches) -> Float[Array, " n"]:
    """In proportion to the similarity of the box's label to the anchors; patches outside every box are not wanted."""
    return jnp.log(patches.weight)


def high_attention(patches: Patches) -> Float[Array, " n"]:
    """In proportion to the attention (AttnMask, arXiv 2203.12719; as the paper samples it)."""
    return jnp.log(patches.attention)


def low_attention(patches: Patches) -> Float[Array, " n"]:
    """In inverse proportion to the attention (MST, arXiv 2106.05656; as the paper samples it)."""
    return -jnp.log(patches.attention)


def text_similarity(patches: Patches) -> Float[Array, " n"]:
    """In proportion to CLIP's similarity, 0 at the clip's least similar patch and 1 at its most similar.

    Cosines of CLIP lie in a narrow band above 0, so that sampling in proportion to them would be nearly uniform. The
    official code stored them as pictures from black to white, and took the brightest patches (masking.noise=0).
    """
    low = jnp.min(patches.similarity, where=patches.valid, initial=jnp.inf)
    high = jnp.max(patches.similarity, where=patches.valid, initial=-jnp.inf)
    # A clip that is equally similar everywhere is masked at random.
    return jnp.where(high > low, jnp.log((patches.similarity - low) / (high - low)), 0.0)


class Strategy(NamedTuple):
    """Which patches fall together, and how much each is wanted.

    Scores are logarithms of weights: -inf, or what is no number, is taken only where the budget needs filling.
    """

    group: Callable[[Patches], Int[Array, " n"]]
    score: Callable[[Patches], Float[Array, " n"]]
    looks_at: tuple[str, ...] = ("features",)  # what must be there: boxes, similarity; features (or attention)


STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(each_patch, equal, ()),
    "difference": Strategy(box_track, anchor_similarity, ("boxes",)),
    "attn": Strategy(each_patch, high_attention),
    "mst": Strategy(each_patch, low_attention),
    "clip": Strategy(each_patch, text_similarity, ("similarity",)),
}


def find(name: str) -> Strategy:
    """A row of STRATEGIES, an entry point of ENTRY_POINTS, or what `package.module:function` names; the first of them.

    A function from `Patches` to scores is a strategy whose patches fall one by one. Raises StrategyError.
    """
    aimed = with_strategy(MaskingConfig(), name)
    hint = f"{aimed.strategy} with masking.where={aimed.where}; " if aimed.strategy != name else ""
    found = look_up(name, STRATEGIES, ENTRY_POINTS, Strategy, "Patches", "mmdiff/masking/strategies.py", hint)
    return found if isinstance(found, Strategy) else Strategy(each_patch, found)


def look_up(name: str, table: dict, entry_group: str, row: type, sees: str, file: str, hint: str = ""):
    """What a name stands for: a `row` of the table, an installed or an importable one, or a function of somebody's own.

    Args:
      name: of the strategy.
      table: the strategies that there are.
      entry_group: of the entry points.
      row: the class of a strategy.
      sees: the name of what a strategy sees.
      file: where to read about it, for messages.
      hint: the likelier names, for messages.

    Raises StrategyError.
    """
    if name in table:
        return table[name]
    installed = {point.name: point for point in entry_points(group=entry_group)}
    module, _, attribute = name.partition(":")
    if name not in installed and not (module and attribute):
        known = hint + ", ".join([*table, *sorted(installed)])
        raise StrategyError(
            f"masking.strategy={name!r} is unknown; known: {known}; your own is package.module:function"
        )
    try:
        found = installed[name].load() if name in installed else getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module is anybody's code, and may do anything when it is read
        missing = isinstance(error, ImportError | AttributeError)
        advice = "is its folder in PYTHONPATH and spelled right?" if missing else "mend its module"
        raise StrategyError(
            f"masking.strategy={name!r} cannot be imported ({type(error).__name__}: {error}); {advice}"
        ) from error
    if not isinstance(found, row) and not callable(found):
        raise StrategyError(
            f"masking.strategy={name!r} is a {type(found).__name__}: it must be a function from {sees} to scores, or a "
            f"{row.__name__}; see {file}"
        )
    return found


def with_strategy(masking: MaskingConfig, name: str) -> MaskingConfig:
    """The same with another strategy; `difference_body`, `difference_face` and `difference_both` also say where."""
    strategy, _, where = name.rpartition("_")
    if strategy == "difference" and where in ("body", "face", "both"):
        return dataclasses.replace(masking, strategy=strategy, where=where)
    return dataclasses.replace(masking, strategy=name)


def patch_units(unit: str, frames: int, grid: tuple[int, int], pooling: int) -> Int[np.ndarray, "u k"]:
    """The patches of every unit that can be chosen: each patch alone, or the patches of each pool together."""
    patches = np.arange(frames * grid[0] * grid[1])
    if unit == "patch":
        return patches[:, None]
    windows = patches.reshape(frames, grid[0] // pooling, pooling, grid[1] // pooling, pooling)
    return windows.transpose(0, 1, 3, 2, 4).reshape(-1, pooling * pooling)


def mask_patches(
    key: Key[Array, ""], patches: Patches, config: MaskingConfig, units: Int[np.ndarray, "u k"]
) -> PatchMask:
    """The patches of one clip to hide: exactly floor(ratio * valid units) of the `units`, each with all its patches.

    First what the strategy wants, up to `alpha` of the budget; then uniformly from all the others, which is also
    what happens to a clip without boxes. A unit of several patches is wanted as much as the one of them that is wanted
    most, and falls with its group.

    Raises StrategyError where the strategy fails or gives something else than it must, or where a whole clip has too few
    units for the ratio to hide one.
    """
    # Products in float32 fall short of whole numbers: 0.52 * 225 would give 116.
    budgets = np.floor(config.ratio * np.arange(len(units) + 1) + EXACT).astype(np.int32)
    caps = np.floor(config.alpha * budgets + EXACT).astype(np.int32)
    if not budgets[-1]:
        raise StrategyError(
            f"masking.ratio={config.ratio} hides nothing of a clip of {len(units)} units; raise it, or the model's rows "
            "and columns"
        )
    wanted_key, rest_key = jax.random.split(key)
    strategy = find(config.strategy)
    if not config.whole_tracks:
        strategy = strategy._replace(group=each_patch)
    score, group = ask(config.strategy, strategy, patches, len(patches.valid), "patches")
    # A clip without any real patch only fills up a batch: nothing of it is ever hidden.
    valid = (patches.valid | patches.valid.any()) if config.mask_padding else patches.valid
    valid = valid[units].all(axis=1)
    best = jnp.asarray(units)[np.arange(len(units)), jnp.argmax(score[units], axis=1)]
    unit_score, alone = score[best], jnp.arange(len(units))
    budget = jnp.asarray(budgets)[valid.sum()]
    cap = jnp.asarray(caps)[valid.sum()]
    picked = choose(wanted_key, unit_score, group[best], valid & (unit_score > -jnp.inf), cap, config.noise)
    rest = budget - picked.sum()
    lost = _lost_by_rounding(picked.sum(), config.ratio, len(units)) if config.drop_by_rounding else 0
    filled = choose(rest_key, jnp.zeros(len(units)), alone, valid & ~picked, rest - lost)
    scored = picked | filled
    hidden = scored.at[-1].max(lost > 0) if config.drop_by_rounding else scored
    unit_of = np.argsort(units.reshape(-1)) // units.shape[1]
    return PatchMask(hidden[unit_of], scored[unit_of], score)


def ask(name: str, strategy, units, count: int, called: str) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """The scores, numbers or -inf, and groups that a strategy of this name gives `count` units, called so in messages.

    Raises StrategyError where it fails, or gives something else.
    """
    answers = []
    for what, function, kind in (("scores", strategy.score, jnp.floating), ("groups", strategy.group, jnp.integer)):
        try:
            found = jnp.asarray(function(units))
        except UserError:
            raise
        except Exception as error:  # a strategy is anybody's code
            raise StrategyError(
                f"masking.strategy={name!r} failed ({type(error).__name__}: {str(error).partition(chr(10))[0]}); it is "
                "traced once by JAX: see mmdiff/masking/strategies.py for what it gets"
            ) from error
        if found.shape != (count,) or not jnp.issubdtype(found.dtype, kind):
            raise StrategyError(
                f"masking.strategy={name!r} gave {what} of shape {found.shape} and type {found.dtype}; it must give one "
                f"{kind.__name__} number for each of the {count} {called}"
            )
        answers.append(found)
    score = jax.lax.stop_gradient(answers[0]).astype(jnp.float32)
    return jnp.nan_to_num(score, nan=-jnp.inf, posinf=jnp.finfo(jnp.float32).max, neginf=-jnp.inf), answers[1]


def _lost_by_rounding(picked: Int[Array, ""], ratio: float, total: int) -> Int[Array, ""]:
    """1 where the original's int((ratio - picked / total) * total) falls one short of the budget.

    The missing index became -1, which JAX wraps to the clip's last patch: overwritten, but not predicted.
    """
    shares = [int((ratio - count / total) * total) for count in range(int(ratio * total) + 1)]
    lost = [int(ratio * total) - count - share for count, share in enumerate(shares)]
    return jnp.asarray(lost, jnp.int32)[picked]
