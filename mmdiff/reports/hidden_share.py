"""A run in, what its masking hid of each window out: how many targets that made, and which share lay inside boxes."""

import math
from typing import NamedTuple

from mmdiff.reports.collect import Run, Targets

# Columns, the same wherever these numbers stand. A box matches if its label has anything of the anchors.
INSIDE, COVER = "hidden inside matching boxes, %", "matching boxes cover, %"
BUDGET = "budget into matching boxes, %"


class Spread(NamedTuple):
    """How many pooled places a window's masking makes targets, over `windows` windows."""

    mean: float
    std: float | None  # of the sample; None of one window
    low: int
    high: int
    of_pools: float  # share of all pools of all windows


class Hidden(NamedTuple):
    """Which share of a run's hidden patches lay inside boxes that match the anchors; None where nothing says."""

    run: Run
    share: float | None
    split: str
    lines: int  # of the log that `share` is the mean of; 0 where it was counted window by window
    windows: int  # 0 where nobody counted them
    boxes_cover: float | None  # share of the patches
    targets: Spread | None


def spread(targets: Targets) -> Spread:
    """Of the targets of each window."""
    counts = targets.targets
    return Spread(
        mean=float(counts.mean()),
        std=float(counts.std(ddof=1)) if len(counts) > 1 else None,
        low=int(counts.min()),
        high=int(counts.max()),
        of_pools=float(counts.sum() / max(targets.pools.sum(), 1)),
    )


def share_inside(targets: Targets) -> tuple[float, float]:
    """Of all hidden patches of all windows, the share inside boxes that match the anchors; and of all patches."""
    inside = (targets.hidden_inside * targets.hidden).sum() / max(targets.hidden.sum(), 1)
    return float(inside), float((targets.boxes_cover * targets.patches).sum() / max(targets.patches.sum(), 1))


def inside_boxes(run: Run) -> Hidden:
    """Counted over windows where the run has them, patch by patch; else the mean of what it logged.

    Of the log the validation lines, which see every held-out clip; training where there are none.
    """
    if run.targets:
        share, cover = share_inside(run.targets)
        return Hidden(run, share, run.targets.split, 0, len(run.targets.window), cover, spread(run.targets))
    for split in ("validation", "train"):
        shares = [line.get("hidden_inside_person") for line in run.lines if line.get("split") == split]
        shares = [share for share in shares if isinstance(share, int | float) and math.isfinite(share)]
        if shares:
            return Hidden(run, sum(shares) / len(shares), split, len(shares), 0, None, None)
    return Hidden(run, None, "", 0, 0, None, None)
