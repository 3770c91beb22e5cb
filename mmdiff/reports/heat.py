"""How much a strategy wants each patch in, colours and a sentence on their range out.

The colours are viridis: perceptually uniform, told apart by colour-blind readers, and never the grey of a faded frame,
which is what patches look like that are not wanted at all.
"""

import math
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

LARGEST_FACTOR = 1000  # patches wanted less than this part of the highest look like those at it
STRENGTH = 0.74  # of the colour over the grey frame
FADED = 0.62  # how far towards white a frame goes where nothing is wanted


class Heat(NamedTuple):
    """Of one window; `n` patches."""

    value: Float[
        np.ndarray, " n"
    ]  # 0 least wanted to 1 most, in equal steps of the weight's logarithm; nan: not at all
    note: str  # what the range is
    flat: bool  # all alike: there is nothing to draw


def heat(score: Float[np.ndarray, " n"], valid: Bool[np.ndarray, " n"]) -> Heat:
    """Of scores that are logarithms of weights, as a `PatchMask` has them: -inf is not wanted."""
    score = np.asarray(score, np.float64)
    wanted = valid & np.isfinite(score)
    value = np.full(score.shape, np.nan)
    if not wanted.any():
        return Heat(value, "no patch is wanted: all are drawn alike", True)
    share = wanted.sum() / valid.sum()
    low, high = score[wanted].min(), score[wanted].max()
    few = f"{_percent(share)} of the patches are wanted" if share < 0.995 else ""
    if high - low < 1e-5:
        value[wanted] = 1.0
        return Heat(value, f"{few}, all alike" if few else "every patch is wanted alike", not few)
    # From the top: where a score is as high as numbers go, what is taken from it would be lost.
    value[wanted] = np.clip(1 - (high - score[wanted]) / min(high - low, math.log(LARGEST_FACTOR)), 0, 1)
    over = high - low > math.log(LARGEST_FACTOR)
    factor = f"over {LARGEST_FACTOR:,}" if over else f"{math.exp(high - low):,.3g}"
    note = f"the brightest is wanted {factor} times as much as the darkest"
    return Heat(value, f"{few}; {note}" if few else note, False)


def colours(value: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """RGB of values from 0 to 1; of nan, anything."""
    return (matplotlib.colormaps["viridis"](np.nan_to_num(value))[..., :3] * 255).round().astype(np.uint8)


def tint(picture: UInt8[np.ndarray, "y x 3"], value: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """The picture in grey under the colour of each pixel's value, and faded where there is none."""
    grey = (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
    tinted = STRENGTH * colours(value) + (1 - STRENGTH) * grey
    faded = FADED * 255 + (1 - FADED) * grey
    return np.where(np.isnan(value)[..., None], faded, tinted).round().astype(np.uint8)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else f"{100 * share:.2g}%"
