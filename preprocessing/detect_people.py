"""Frames in, labelled boxes out: the one interface that every detector has, and the detectors by name."""

import dataclasses
import hashlib
import importlib
import inspect
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from preprocessing.options import IMPORT, TRANSFORMERS, Options
from preprocessing.problems import PreprocessError


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
    """What a detector must be. It is built once per process; your own without arguments.

    Its `threshold` (0..1) is the score from which a box is sure: less sure ones serve only to carry a track on. Yours
    may lack it, and all its boxes are sure.
    """

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        """For each RGB frame what is found in it; the frames of a call have one size."""
        ...


HUMAN = "human"  # No detector at all: the boxes that people drew, where a dataset comes with some.
DETECTORS = {  # Each class is built with the options.
    "face_body": "preprocessing.derive_bodies:FaceBody",  # MTCNN's faces, and a body derived from each
    "mtcnn": "preprocessing.detect_faces:MtcnnFaces",  # faces only
    "hog": "preprocessing.detect_pedestrians:HogPeople",  # standing people, without torch; see its docstring
    "haar": "preprocessing.detect_frontal_faces:HaarFaces",  # faces, without torch
}


def build_detector(options: Options) -> Detector | None:
    """The detector that `options.detector` names, with a `threshold`; None where the boxes come from elsewhere.

    Raises PreprocessError where there is no such detector, or a model cannot be built. A class of yours may raise
    whatever it likes.
    """
    name = options.detector
    if name == HUMAN or name.startswith(IMPORT):
        return None
    if name.startswith(TRANSFORMERS):
        from preprocessing.detect_objects import TransformersObjects

        return TransformersObjects(name.removeprefix(TRANSFORMERS), options)
    if name in DETECTORS:
        return detector_class(name)(options)
    detector = detector_class(name)()
    if options.threshold is not None or not hasattr(detector, "threshold"):
        detector.threshold = options.threshold or 0.0
    return detector


def check_detector(name: str) -> None:
    """Raises PreprocessError where a detector, or a file that it needs, can be known to be missing; loads no weights.

    The model of an id of the hub is fetched, where it is not in the hub's cache.
    """
    if name.startswith(IMPORT):
        path = Path(name.removeprefix(IMPORT))
        if name == IMPORT or not path.exists():
            raise PreprocessError(f"detector {name!r}: there is no {path}; give a file or a folder of boxes")
    elif name.startswith(TRANSFORMERS):
        from preprocessing.detect_objects import find_model

        find_model(name.removeprefix(TRANSFORMERS))
    elif name != HUMAN:
        detector_class(name)


def check_device(name: str) -> None:
    """Raises PreprocessError where torch cannot compute there."""
    if name == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        told = str(error).strip().splitlines()[0]
        raise PreprocessError(f"--device {name} cannot be used on this machine ({told}); cpu can") from None


def digest_of_weights(name: str) -> str:
    """Of the files that a detector loads, where they are the user's; "" where they come with a package.

    Raises PreprocessError as `check_detector` does.
    """
    if name == HUMAN or name in DETECTORS or name.startswith(IMPORT):
        return ""
    if not name.startswith(TRANSFORMERS):  # Of a class of the user's, at least its own file is known.
        program = Path(inspect.getsourcefile(detector_class(name)) or "")
        return hashlib.sha256(program.read_bytes()).hexdigest()[:16] if program.is_file() else ""
    from preprocessing.detect_objects import find_model
    from preprocessing.saved_models import digest_of_model

    return digest_of_model(find_model(name.removeprefix(TRANSFORMERS)))


def detector_class(name: str) -> type:
    """The class behind a name of DETECTORS, or behind `package.module:Class`.

    Raises PreprocessError, saying what would work, for anything else.
    """
    target = DETECTORS.get(name, name)
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise PreprocessError(
            f"unknown detector {name!r}: the known ones are {', '.join(DETECTORS)}, {TRANSFORMERS}FOLDER_OR_ID and "
            f"{IMPORT}FILE; your own is package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # A module is anybody's code, and may do anything when it is read.
        missing = isinstance(error, ImportError | AttributeError)
        advice = "is its folder in PYTHONPATH and spelled right?" if missing else "mend its module"
        raise PreprocessError(
            f"detector {name!r} cannot be imported ({type(error).__name__}: {error}); {advice}"
        ) from error
    if not hasattr(found, "boxes"):
        raise PreprocessError(f"detector {name!r} has no method boxes(frames); see preprocessing/detect_people.py")
    return found
