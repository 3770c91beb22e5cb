"""Frames in, whether a new shot begins at each out: colours and layout both changed."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

BINS = 8  # per colour channel
THUMBNAIL = (32, 18)  # pixels, width and height: the layout of a picture
# Share of the picture whose colours are new, times how little the layout correlates. At 3 frames a second the cuts of
# our real clips give 0.13 to 0.34, people walking past the camera up to 0.06; fast pans, in which nothing could be
# tracked either, lie between.
CHANGED = 0.09


class ShotCuts:
    """Call with each frame in turn: True where it begins a new shot."""

    def __init__(self):
        self._before: UInt8[np.ndarray, "h w 3"] | None = None

    def __call__(self, frame: UInt8[np.ndarray, "h w 3"]) -> bool:
        small, before = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA), self._before
        self._before = small
        return before is not None and change(before, small) > CHANGED


def change(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> float:
    """How much two small pictures differ: 0 the same, 1 neither a colour nor the layout in common."""
    new_colours = float(np.abs(_colour_shares(before) - _colour_shares(after)).sum()) / 2
    a, b = (_relief(picture) for picture in (before, after))
    alike = float(a @ b) if a.any() or b.any() else 1.0
    return new_colours * (1 - max(alike, 0.0))


def _colour_shares(small: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " c"]:
    counts = cv2.calcHist([small], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3).ravel()
    return counts / counts.sum()


def _relief(small: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " p"]:
    """Brightness around its mean, of length 1 (0 for a flat picture), so that a product is a correlation."""
    bright = small.astype(float).mean(-1).ravel()
    bright -= bright.mean()
    return bright / max(float(np.linalg.norm(bright)), 1e-6)
