"""Detectors of a user: any importable class with `boxes`."""

import os

import numpy as np

from preprocessing.detect_people import LabelledBox


class BrightSquare:
    """One person where the picture is bright."""

    def boxes(self, frames):
        return [self._frame(frame) for frame in frames]

    def _frame(self, frame):
        ys, xs = np.nonzero(frame.mean(-1) > 200)
        if not len(ys):
            return []
        return [LabelledBox(*map(float, (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)), "person", "body", 0.9)]


class Misplaced(BrightSquare):
    """Boxes that leave the frame, partly and wholly, and one without area."""

    def _frame(self, frame):
        height = float(frame.shape[0])
        return [
            LabelledBox(-10.0, -10.0, 20.0, 20.0, "person", "body", 1.0),
            LabelledBox(height + 1, 0.0, height + 20, 20.0, "person", "body", 1.0),
            LabelledBox(5.0, 5.0, 5.0, 30.0, "person", "body", 1.0),
            LabelledBox(5.0, float("nan"), 25.0, 30.0, "person", "body", 1.0),
        ]


class Failing(BrightSquare):
    """Falls over pictures without anybody."""

    def _frame(self, frame):
        return [super()._frame(frame)[0]]


class Unbuilt(BrightSquare):
    """Lacks something that it needs."""

    def __init__(self):
        raise ImportError("no module named weights")


class Deadly(BrightSquare):
    """Takes its process with it where nobody is in the picture."""

    def _frame(self, frame):
        return super()._frame(frame) or os._exit(9)
