"""Frames in, body boxes out, by OpenCV's HOG detector: needs no torch and no weights, and finds few people."""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

from preprocessing.detect_people import LabelledBox
from preprocessing.options import Options

WINDOW_HEIGHT, WINDOW_WIDTH = 128, 64  # pixels of the smallest person it can see
SHRINK_HEIGHT, SHRINK_WIDTH = 0.9, 0.8  # It was trained with a margin around people, which its boxes include.
# On the separating plane. No less sure boxes are given: OpenCV joins neighbouring windows to one box, and windows from
# behind the plane made five times as many boxes before it, nearly all of them wrong.
CONFIDENCE = 0.5


class HogPeople:
    """Upright people of 100 pixels and more: about 40% of pedestrians, almost nobody indoors."""

    def __init__(self, options: Options):
        self.threshold = CONFIDENCE if options.threshold is None else options.threshold
        share = min(max(self.threshold, 1e-3), 1 - 1e-3)
        self._nearest = math.log(share / (1 - share))
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        return [self._frame(frame) for frame in frames]

    def _frame(self, frame: UInt8[np.ndarray, "h w 3"]) -> list[LabelledBox]:
        if frame.shape[0] < WINDOW_HEIGHT or frame.shape[1] < WINDOW_WIDTH:
            return []
        found, weights = self._hog.detectMultiScale(
            cv2.cvtColor(frame, cv2.COLOR_RGB2BGR),
            hitThreshold=self._nearest,
            winStride=(8, 8),
            padding=(8, 8),
            scale=1.05,
        )
        return [
            self._box(*map(float, box), float(weight)) for box, weight in zip(found, np.ravel(weights), strict=True)
        ]

    def _box(self, x: float, y: float, width: float, height: float, weight: float) -> LabelledBox:
        trim_y, trim_x = (1 - SHRINK_HEIGHT) / 2 * height, (1 - SHRINK_WIDTH) / 2 * width
        return LabelledBox(
            y + trim_y,
            x + trim_x,
            y + height - trim_y,
            x + width - trim_x,
            "person",
            "body",
            1 / (1 + math.exp(-weight)),  # a distance from the separating plane, as a confidence
        )
