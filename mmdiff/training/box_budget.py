"""How much of the masking budget goes into boxes that match the anchors, computed from boxes without a model."""

import logging
from typing import NamedTuple

import numpy as np

from mmdiff.data.records import Record, decode
from mmdiff.data.video_examples import BoxesOnPatches, BoxRule, cropped_size, draw_crop, frame_size, patches_within
from mmdiff.masking.strategies import EXACT, MaskingConfig, patch_units
from mmdiff.models.reserve import ReserveConfig

WINDOWS = 200  # looked at, of records from all over the split

log_line = logging.getLogger(__name__)


class BoxBudget(NamedTuple):
    """Over `windows` windows."""

    share: float  # of all patches (or pools) to hide, those that the strategy takes from boxes that match
    windows: int
    without: int  # windows that no such box is in, which are masked at random

    def tell(self, strategy: str) -> None:
        """Logs it, with a warning where it is below a half."""
        told = (
            f"{self.share:.0%} of what {strategy} hides lies in boxes that match the anchors (over {self.windows} training "
            f"windows), the rest is random; {self.without} of these windows have no such box"
        )
        if self.share < 0.5:
            log_line.warning(
                "only %s: see `mmdiff view boxes RECORDS`, and choose another detector or masking.where, a lower "
                "masking.ratio, or other anchors", told,
            )  # fmt: skip
        else:
            log_line.info("%s", told)


def box_budget(source, segments: int, masking: MaskingConfig, rule: BoxRule, model: ReserveConfig) -> BoxBudget:
    """The budget over about WINDOWS windows of a split.

    Args:
      source: the split, as `read_split` gives it.
      segments: of a window, as the model reads it.
      masking: how much is hidden.
      rule: which boxes match.
      model: its grid of patches.
    """
    chosen = np.linspace(0, len(source) - 1, min(len(source), WINDOWS)).astype(int)
    taken, budgets = [], []
    for record in (decode(source[int(index)]) for index in chosen):
        several = min(len(record.windows), max(1, WINDOWS // len(chosen)))
        for window in np.linspace(0, len(record.windows) - 1, several).astype(int):
            in_boxes, budget = window_budget(record, int(window), segments, masking, rule, model)
            taken.append(in_boxes)
            budgets.append(budget)
    return BoxBudget(sum(taken) / max(sum(budgets), 1), len(taken), taken.count(0))


def window_budget(
    record: Record, window: int, segments: int, masking: MaskingConfig, rule: BoxRule, model: ReserveConfig
) -> tuple[int, int]:
    """How many units of a window are taken from boxes that match, and how many are hidden: as `mask_patches` has it."""
    first, count = (int(x) for x in record.windows[window])
    frames = record.segments.frame[first : first + min(count, segments)]
    stored = frame_size(record.frames[frames[0]], record.id)  # All frames of a record have one size.
    wanted_size = tuple(side * model.patch_size for side in model.image_grid)
    crop = draw_crop(stored, wanted_size, None)
    real = cropped_size(stored, crop, wanted_size)
    on_patches = BoxesOnPatches(record.boxes, rule, model.image_grid, model.patch_size)
    valid = np.zeros((segments, model.patches), bool)
    matching = np.zeros_like(valid)
    for i, frame in enumerate(frames):
        valid[i] = patches_within(real, model.image_grid, model.patch_size)
        matching[i] = on_patches(int(frame), crop, stored, real)[1] > 0
    units = patch_units(masking.unit, segments, model.image_grid, model.pooling)
    hideable = (valid | masking.mask_padding).reshape(-1)[units].all(axis=1)
    wanted = matching.reshape(-1)[units].any(axis=1) & hideable
    budget = int(masking.ratio * hideable.sum() + EXACT)
    return min(int(wanted.sum()), int(masking.alpha * budget + EXACT)), budget
