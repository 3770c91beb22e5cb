"""Face boxes in, the same faces each with a body box below it out: bodies without a body detector."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from preprocessing.detect_people import LabelledBox
from preprocessing.options import Options

# Proportions of a standing adult (Drillis and Contini 1966; the artist's canon of seven and a half heads).
HEAD_PER_FACE = 1.3  # MTCNN's box ends at the middle of the forehead: crown to chin is about this much taller
BODY_HEIGHT = 7.5  # in heads, crown to sole; what is out of the picture is cut
BODY_WIDTH = 2.3  # in heads, across the upper arms


class FaceBody:
    """MTCNN's faces, and for each the body that a standing adult with this face would have, marked "derived".

    A seated person's box is too long; where nobody is detected by the face, nobody is found.
    """

    def __init__(self, options: Options):
        from preprocessing.detect_faces import MtcnnFaces

        self._faces = MtcnnFaces(options)
        self.threshold = self._faces.threshold

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        return [
            with_bodies(faces, *frame.shape[:2]) for frame, faces in zip(frames, self._faces.boxes(frames), strict=True)
        ]


def with_bodies(faces: list[LabelledBox], height: int, width: int) -> list[LabelledBox]:
    """Each face followed by its body; the two share a `person` number."""
    boxes = []
    for person, face in enumerate(faces):
        boxes += [dataclasses.replace(face, person=person), body_of(face, person, height, width)]
    return boxes


def body_of(face: LabelledBox, person: int, height: int, width: int) -> LabelledBox:
    """The body that belongs to a face, cut at the frame's borders."""
    head = HEAD_PER_FACE * (face.y1 - face.y0)
    crown = face.y1 - head
    middle = (face.x0 + face.x1) / 2
    return LabelledBox(
        y0=max(0.0, crown),
        x0=max(0.0, middle - BODY_WIDTH * head / 2),
        y1=min(float(height), crown + BODY_HEIGHT * head),
        x1=min(float(width), middle + BODY_WIDTH * head / 2),
        label=face.label,
        part="body",
        score=face.score,
        source="derived",
        person=person,
    )
