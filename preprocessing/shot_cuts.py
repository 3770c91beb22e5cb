"""Frames in, whether a new shot begins at each out: a simple comparison of colours."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

BINS = 8  # per colour channel
THUMBNAIL = (64, 36)  # pixels; colours are counted on a small copy
CHANGED = 0.5  # share of the picture whose colours were not in the frame before


class ShotCuts:
    """Call with each frame in turn: True where it begins a new shot."""

    def __init__(self):
        self._before: Float32[np.ndarray, " c"] | None = None

    def __call__(self, frame: UInt8[np.ndarray, "h w 3"]) -> bool:
        colours, before = colour_shares(frame), self._before
        self._before = colours
        return before is not None and float(np.abs(colours - before).sum()) / 2 > CHANGED


def colour_shares(frame: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " c"]:
    """The share of the picture that each colour takes."""
    small = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA)
    counts = cv2.calcHist([small], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3).ravel()
    return counts / counts.sum()
