"""Boxes of clips that nobody filmed, for what writes and reads them."""

import numpy as np
from hypothesis import strategies as st

from mmdiff.data.records import SOURCES
from preprocessing.boxes_table import ClipBoxes
from preprocessing.detect_people import LabelledBox
from preprocessing.import_boxes import ImportedBoxes, Sampled

KINDS = (("person", "body"), ("person", "face"), ("Sheldon", "body"), ("laptop", "object"), ("person", "object"))


def some_boxes(
    video: str, seed: int, pictures: int = 12, fps: float = 3.0, size=(640, 360), most: int = 4
) -> ClipBoxes:
    """Random ones, with tracks numbered from 0 in order of first appearance, as `follow` numbers them."""
    random, boxes, tracks, numbers = np.random.default_rng(seed), [], [], {}
    for _ in range(pictures):
        individuals = random.permutation(6)[: random.integers(0, most + 1)].tolist()
        tracks.append([numbers.setdefault(individual, len(numbers)) for individual in individuals])
        boxes.append([_box(random, *size) for _ in individuals])
    return ClipBoxes.of(video, fps, *size, boxes, tracks)


def _box(random, width: int, height: int) -> LabelledBox:
    x0, y0 = random.uniform(0, [width - 2, height - 2])
    x1, y1 = x0 + random.uniform(1.1, width - x0), y0 + random.uniform(1.1, height - y0)
    label, part = KINDS[random.integers(len(KINDS))]
    return LabelledBox(y0, x0, y1, x1, label, part, float(random.random()), SOURCES[random.integers(len(SOURCES))])


CHOICES = st.fixed_dictionaries(  # what `some_boxes` takes
    {
        "video": st.sampled_from(["a b.mp4", "é/клип.mkv", "-b-8x", "quote'\"\\.mp4"]),
        "seed": st.integers(0, 2**32),
        "pictures": st.integers(0, 9),
        "fps": st.sampled_from([0.5, 1.0, 3.0, 29.97]),
        "size": st.sampled_from([(2, 2), (640, 360), (4096, 2160)]),
    }
)


def imported_again(clip: ClipBoxes, imported: ImportedBoxes, native_fps: float = 25.0) -> ClipBoxes:
    """What a clip that was sampled as this one gets from a file."""
    sampled = Sampled(clip.video, clip.fps, clip.pictures, clip.width, clip.height, native_fps)
    boxes, tracks = imported.boxes_of(sampled)
    return ClipBoxes.of(clip.video, clip.fps, clip.width, clip.height, boxes, tracks or [[] for _ in boxes])
