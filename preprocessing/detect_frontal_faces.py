"""Frames in, boxes of faces that look at the camera out, by OpenCV's Haar cascade: needs no torch."""

import math
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from preprocessing.detect_people import LabelledBox
from preprocessing.options import Options

CASCADE = "haarcascade_frontalface_default.xml"  # comes with opencv-python (Lienhart and Maydt 2002)
NEIGHBOURS = 3  # OpenCV's own default: windows that must agree
EVEN = 3.0  # Sum of the last stage at which as many are faces as are not; on real clips, roughly.
CONFIDENCE = 0.5


class HaarFaces:
    """Upright frontal faces: fewer than MTCNN finds, and more patterns among them; several times as fast."""

    def __init__(self, options: Options):
        self.threshold = CONFIDENCE if options.threshold is None else options.threshold
        self._side = options.smallest_face
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / CASCADE))

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        return [self._frame(frame) for frame in frames]

    def _frame(self, frame: UInt8[np.ndarray, "h w 3"]) -> list[LabelledBox]:
        found, _, sums = self._cascade.detectMultiScale3(
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY),
            minNeighbors=NEIGHBOURS,
            minSize=(self._side, self._side),
            outputRejectLevels=True,
        )
        return [
            LabelledBox(y, x, y + height, x + width, "person", "face", 1 / (1 + math.exp(EVEN - total)))
            for (x, y, width, height), total in zip(np.array(found, float).tolist(), np.ravel(sums), strict=True)
        ]
