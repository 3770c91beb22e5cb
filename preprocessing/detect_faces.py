"""Frames in, face boxes out, by MTCNN; its weights are inside the facenet-pytorch wheel."""

import numpy as np
from jaxtyping import UInt8

from preprocessing.detect_people import LabelledBox

SMALLEST_FACE = 20  # pixels; half as many frames a second as 40, but 40 loses people across a room at 640x360
SMALLEST_FRAME = 30  # pixels; MTCNN's image pyramid is empty below
CONFIDENCE = 0.9  # Below, hands, clothes and patterns appear beside the faces.
BATCH = 4  # frames; more gains nothing on a CPU


class MtcnnFaces:
    """Finds frontal and three-quarter faces; backs of heads are not found."""

    def __init__(self):
        import torch
        from facenet_pytorch import MTCNN

        torch.set_num_threads(1)  # Parallelism is by processes: threads made it up to five times slower.
        self._network = MTCNN(keep_all=True, min_face_size=SMALLEST_FACE, device="cpu")

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        return [found for i in range(0, len(frames), BATCH) for found in self._batch(frames[i : i + BATCH])]

    def _batch(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        if min(frames[0].shape[:2]) < SMALLEST_FRAME:
            return [[] for _ in frames]
        # Results come as object arrays, with None for a frame without a face.
        found, scores = self._network.detect(np.stack(frames))
        return [
            [
                LabelledBox(float(y0), float(x0), float(y1), float(x1), "person", "face", float(score))
                for (x0, y0, x1, y1), score in zip(frame_boxes, frame_scores, strict=True)
                if score >= CONFIDENCE
            ]
            if frame_boxes is not None
            else []
            for frame_boxes, frame_scores in zip(found, scores, strict=True)
        ]
