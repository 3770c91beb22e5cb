"""Frames in, face boxes out, by MTCNN; its weights are inside the facenet-pytorch wheel."""

import numpy as np
from jaxtyping import UInt8

from preprocessing.detect_people import LabelledBox
from preprocessing.options import Options

CONFIDENCE = 0.9  # Below, hands, clothes and patterns appear beside the faces.
FLOOR = 0.8  # What lies between the two may carry a track on; from 0.7 false faces are carried on as often as faces.
BATCH = 2  # frames that a CPU looks at together; of more the intermediate results leave its cache


class MtcnnFaces:
    """Finds frontal and three-quarter faces; backs of heads are not found."""

    def __init__(self, options: Options):
        import torch
        from facenet_pytorch import MTCNN

        from preprocessing.face_cascade import FaceCascade

        torch.set_num_threads(1)  # Parallelism is by processes: threads made it up to five times slower.
        self.threshold = CONFIDENCE if options.threshold is None else options.threshold
        device = torch.device(options.device)
        thresholds = [0.6, 0.7, min(FLOOR, self.threshold)]  # facenet-pytorch's, unless less is asked for
        self._find = FaceCascade(MTCNN(min_face_size=options.smallest_face, thresholds=thresholds, device=device))
        self._batch = BATCH if device.type == "cpu" else options.batch

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        batches = [frames[i : i + self._batch] for i in range(0, len(frames), self._batch)]
        return [
            [LabelledBox(y0, x0, y1, x1, "person", "face", score) for x0, y0, x1, y1, score in faces.tolist()]
            for batch in batches
            for faces in self._find(batch)
        ]
