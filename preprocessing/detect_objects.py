"""Frames in, boxes of people and of everything else that an object-detection model of transformers names out."""

import inspect
import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from preprocessing.detect_people import TRANSFORMERS, LabelledBox
from preprocessing.options import Options
from preprocessing.problems import PreprocessError
from preprocessing.saved_models import CONFIG, WEIGHTS, find_folder, names_of_weights

CONFIDENCE = 0.5  # Where the models' own examples begin to draw a box.
FLOOR = 0.1  # ByteTrack's: what lies between the two may carry a track on (arXiv 2110.06864, section 3)
PEOPLE = ("person", "people", "pedestrian", "human")  # as COCO, Objects365, Open Images, CrowdHuman have it
FACES = ("face", "human face")
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
WANTED = ("*.json", *WEIGHTS)  # of a model of the hub; never what would have to be unpickled


class TransformersObjects:
    """RT-DETR, D-FINE, YOLOS, DETR and whatever else AutoModelForObjectDetection knows, with all their labels.

    Which class is a person is read from the model's `id2label`. Nothing is unpickled, and no program of a model is run.
    """

    def __init__(self, model: str, options: Options):
        """Raises PreprocessError where `model`, a folder or an id of the hub, cannot be built on `options.device`."""
        import torch
        import transformers

        folder = find_model(model)
        torch.set_num_threads(1)  # Parallelism is by processes.
        transformers.utils.logging.disable_progress_bar()
        safe = {"trust_remote_code": False, "local_files_only": True}
        try:
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, **safe)
            network, told = transformers.AutoModelForObjectDetection.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **safe
            )
            self._network = network.eval().to(options.device)
        except Exception as error:  # Files are anybody's, and transformers raises whatever it stumbles over.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PreprocessError(f"detector {TRANSFORMERS}{model} cannot be built: {reason[:300]}") from error
        if lacking := sorted(told["missing_keys"]):
            raise PreprocessError(
                f"detector {TRANSFORMERS}{model}: its weights lack {lacking[0]} and {len(lacking) - 1} more; "
                "fetch it again"
            )
        self.threshold = CONFIDENCE if options.threshold is None else options.threshold
        self._floor = min(FLOOR, self.threshold)
        self._labels = {number: _label_and_part(label) for number, label in network.config.id2label.items()}
        self._inputs = inspect.signature(network.forward).parameters
        # On a CPU a batch is slower than its frames, and fills the memory.
        self.frames_at_once = 1 if network.device.type == "cpu" else options.batch

    def boxes(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        step = self.frames_at_once
        return [found for i in range(0, len(frames), step) for found in self._batch(frames[i : i + step])]

    def _batch(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[list[LabelledBox]]:
        import torch

        inputs = self._processor(frames, input_data_format="channels_last", return_tensors="pt")
        inputs = {name: x.to(self._network.device) for name, x in inputs.items() if name in self._inputs}
        with torch.inference_mode():
            outputs = self._network(**inputs)
            found = self._processor.post_process_object_detection(
                outputs, threshold=self._floor, target_sizes=[frame.shape[:2] for frame in frames]
            )
        return [
            [
                LabelledBox(y0, x0, y1, x1, *self._labels[label], score)
                for (x0, y0, x1, y1), label, score in zip(
                    *(boxes[name].tolist() for name in ("boxes", "labels", "scores")), strict=True
                )
            ]
            for boxes in found
        ]


def _label_and_part(label: str) -> tuple[str, str]:
    name = label.strip().lower()
    if name in PEOPLE:
        return "person", "body"
    return ("person", "face") if name in FACES else (label, "object")


def find_model(name: str) -> Path:
    """The folder of a model that transformers saved; that of a hub id is fetched, or found in the hub's cache.

    Only looks at its files. Raises PreprocessError where it is no object detector in safetensors.
    """
    detector = f"detector {TRANSFORMERS}{name}"
    refusal = f"{detector}: {name!r} is no folder; give one that holds a model, or an id of the hub"
    folder = find_folder(name, WANTED, f"{detector}: it", refusal)
    try:
        kinds = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        raise PreprocessError(f"{detector}: it holds no {CONFIG} of a model that transformers saved") from None
    if kinds and not any(str(kind).endswith("ForObjectDetection") for kind in kinds):
        raise PreprocessError(f"{detector}: it is a {kinds[0]}, which detects no objects; give a model that does")
    if not any((folder / file).is_file() for file in PROCESSOR):
        raise PreprocessError(f"{detector}: it holds no {PROCESSOR[0]}; save its image processor beside it")
    advice = (
        "where you trust it, AutoModelForObjectDetection.from_pretrained(FOLDER).save_pretrained(FOLDER) converts it"
    )
    names_of_weights(folder, f"{detector}: it", advice, lambda file: f"{detector}: its {file}")
    return folder
