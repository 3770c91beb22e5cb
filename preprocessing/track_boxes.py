"""Boxes of successive frames in, clean boxes and the number of the individual that each shows out."""

import dataclasses
import itertools
import math
from collections.abc import Collection

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from mmdiff.data.records import PARTS
from preprocessing.detect_people import LabelledBox

GROWTH = 2.0  # At a few frames a second a head may move by its own width: boxes are compared at twice their size.
SMALLEST_OVERLAP = 0.3  # intersection over union of the grown boxes


def clean(boxes: list[LabelledBox], height: int, width: int) -> tuple[list[LabelledBox], int]:
    """Boxes cut at the frame's borders, and how many were left out: outside, without area, or not numbers."""
    kept = []
    for box in boxes:
        if not all(map(math.isfinite, (box.y0, box.x0, box.y1, box.x1, box.score))):
            continue
        y0, x0 = max(0.0, float(box.y0)), max(0.0, float(box.x0))
        y1, x1 = min(float(height), float(box.y1)), min(float(width), float(box.x1))
        if y0 + 1 <= y1 and x0 + 1 <= x1:  # less than a pixel is nothing
            score = min(max(float(box.score), 0.0), 1.0)
            kept.append(dataclasses.replace(box, y0=y0, x0=x0, y1=y1, x1=x1, score=score))
    return kept, len(boxes) - len(kept)


@dataclasses.dataclass
class _Track:
    number: int
    box: LabelledBox
    seen: int  # index of the last frame that showed it


def track(boxes: list[list[LabelledBox]], cuts: Collection[int], longest_gap: int) -> list[list[int]]:
    """The track number of every box of every frame.

    A track continues in the box of its part that overlaps most with its last one (Hungarian assignment), ends after
    `longest_gap` frames without one, and never crosses a frame in `cuts`. Boxes of one person share a number.
    """
    numbers = itertools.count()
    live: list[_Track] = []
    return [_step(live, frame, index, index in cuts, longest_gap, numbers) for index, frame in enumerate(boxes)]


def _step(live: list[_Track], frame: list[LabelledBox], index: int, cut: bool, gap: int, numbers) -> list[int]:
    live[:] = [] if cut else [track for track in live if index - track.seen <= gap]
    leader = _leaders(frame)
    found = {}
    for part in PARTS:
        led = [i for i, box in enumerate(frame) if leader[i] == i and box.part == part]
        tracks = [track for track in live if track.box.part == part]
        overlaps = _overlaps([track.box for track in tracks], [frame[i] for i in led])
        for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
            if overlaps[row, column] >= SMALLEST_OVERLAP:
                found[led[column]] = tracks[row]
                tracks[row].box, tracks[row].seen = frame[led[column]], index
    for i, box in enumerate(frame):
        if leader[i] == i and i not in found:
            found[i] = _Track(next(numbers), box, index)
            live.append(found[i])
    return [found[leader[i]].number for i in range(len(frame))]


def _leaders(frame: list[LabelledBox]) -> list[int]:
    """For each box the index of the box that is followed for its person: a detected one where there is one."""
    leader: dict[int, int] = {}
    for i, box in sorted(enumerate(frame), key=lambda item: item[1].source != "detected"):
        if box.person is not None:
            leader.setdefault(box.person, i)
    return [i if box.person is None else leader[box.person] for i, box in enumerate(frame)]


def _overlaps(first: list[LabelledBox], second: list[LabelledBox]) -> Float[np.ndarray, "a b"]:
    """Intersection over union of every two boxes, both grown about their centres."""
    a, b = _grown(first)[:, None], _grown(second)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (area_a + area_b - shared)


def _grown(boxes: list[LabelledBox]) -> Float[np.ndarray, "n 4"]:
    corners = np.array([(box.y0, box.x0, box.y1, box.x1) for box in boxes], float).reshape(-1, 4)
    centre, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    return np.concatenate([centre - GROWTH * half, centre + GROWTH * half], axis=-1)
