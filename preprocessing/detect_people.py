"""Frames in, labelled boxes out: the one interface that every detector has, and the detectors by name."""

import dataclasses
import importlib
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclasses.dataclass(frozen=True)
class LabelledBox:
    """A rectangle in pixels of its frame, and what it is said to enclose."""

    y0: float
    x0: float
    y1: float
    x1: float
    label: str  # "person", or a name
    part: str  # "body" or "face" of a person, or "object"
    score: float  # confidence, 0..1
    source: str = "detected"  # "derived": computed from another box
    person: int | None = None  # boxes of one frame with the same number belong to the same individual


@runtime_checkable
class Detector(Protocol):
    """What a detector must be. It is built once per process, without arguments; frames of a call have one size."""

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        """For each RGB frame the people found in it."""
        ...


HUMAN = "human"  # No detector at all: the boxes that people drew, where a dataset comes with some.
DETECTORS = {
    "face_body": "preprocessing.derive_bodies:FaceBody",  # MTCNN's faces, and a body derived from each
    "mtcnn": "preprocessing.detect_faces:MtcnnFaces",  # faces only
    "hog": "preprocessing.detect_pedestrians:HogPeople",  # standing people, without torch; see its docstring
}


def detector_class(name: str) -> type[Detector]:
    """The class behind a name of DETECTORS, or behind `package.module:Class`.

    Raises ValueError, saying what would work, for anything else.
    """
    target = DETECTORS.get(name, name)
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError(
            f"unknown detector {name!r}: the known ones are {', '.join(DETECTORS)}; your own is package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # A module is anybody's code, and may do anything when it is read.
        missing = isinstance(error, ImportError | AttributeError)
        advice = "is its folder in PYTHONPATH and spelled right?" if missing else "mend its module"
        raise ValueError(f"detector {name!r} cannot be imported ({type(error).__name__}: {error}); {advice}") from error
    if not hasattr(found, "boxes"):
        raise ValueError(f"detector {name!r} has no method boxes(frames); see preprocessing/detect_people.py")
    return found
