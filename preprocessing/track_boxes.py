"""Boxes of successive pictures in, clean boxes and the number of the individual that each shows out, gaps filled."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Collection, Hashable, Iterable

import numpy as np

from preprocessing.detect_people import LabelledBox

BYTETRACK, NONE = "bytetrack", "none"
TRACKERS = (BYTETRACK, NONE)

SLACK = 1e-6  # pictures: what a product of seconds and pictures a second may be off


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


def follow(
    boxes: list[list[LabelledBox]],
    cuts: Collection[int],
    fps: float,
    sure: float,
    longest_gap: float,
    tracker: str = BYTETRACK,
) -> tuple[list[list[LabelledBox]], list[list[int]]]:
    """The boxes that belong to a track, its gaps filled, and the track number of each: dense, from 0, as they appear.

    Sure boxes continue tracks or begin them; those that are less sure continue a track that no sure one does, or are left
    out (ByteTrack, see byte_track.py). Each part and label is followed by itself. Boxes of one `person` share a number,
    which a detected one of them decides.

    Args:
      boxes: of each picture, in pixels, cleaned.
      cuts: pictures that begin a new shot, and with it new tracks.
      fps: pictures a second.
      sure: the score from which a box alone is believed.
      longest_gap: seconds from one sighting to the next in which a track lives on, and in which it is filled.
      tracker: a name of TRACKERS; "none" makes each sure box (with those of its person) a track, and fills nothing.

    Raises ValueError for a tracker that is unknown.
    """
    if tracker not in TRACKERS:
        raise ValueError(f"tracker {tracker!r} is unknown; known: {', '.join(TRACKERS)}")
    following = _ByKind(sure, longest_gap * fps) if tracker == BYTETRACK else _Alone(sure)
    kept, names, cuts = [], [], set(cuts)
    for index, picture in enumerate(boxes):
        if index in cuts:
            following.end()
        leader = _leaders(picture)
        led = sorted(set(leader))
        name_of = dict(zip(led, following.names([picture[i] for i in led]), strict=True))
        places = [i for i in range(len(picture)) if name_of[leader[i]] is not None]
        kept.append([picture[i] for i in places])
        names.append([name_of[leader[i]] for i in places])
    tracks = numbered(names)
    return fill(kept, tracks, cuts, longest_gap * fps) if tracker == BYTETRACK else (kept, tracks)


def fill(
    boxes: list[list[LabelledBox]], tracks: list[list[int]], cuts: Collection[int], longest: float
) -> tuple[list[list[LabelledBox]], list[list[int]]]:
    """Boxes and track numbers, with boxes where a part of a track was not seen for a while, in a line between sightings.

    These follow the others of their picture, are marked "filled", and have the smaller score of the two sightings.

    Args:
      boxes: of each picture.
      tracks: the number of each box.
      cuts: pictures that begin a new shot: nothing is filled across.
      longest: pictures from one sighting to the next that are filled.
    """
    sightings = collections.defaultdict(dict)  # by track, part and label: the box of each picture
    for index, (picture, numbers) in enumerate(zip(boxes, tracks, strict=True)):
        for box, number in zip(picture, numbers, strict=True):
            sightings[number, box.part, box.label].setdefault(index, box)
    shots = np.searchsorted(sorted(cuts), range(len(boxes)), side="right")
    filled = [list(zip(picture, numbers, strict=True)) for picture, numbers in zip(boxes, tracks, strict=True)]
    for track in sorted(sightings):
        for (before, left), (after, right) in itertools.pairwise(sightings[track].items()):
            if after - before <= longest + SLACK and shots[before] == shots[after]:
                for index in range(before + 1, after):
                    filled[index].append((between(left, right, (index - before) / (after - before)), track[0]))
    return [[box for box, _ in picture] for picture in filled], [[n for _, n in picture] for picture in filled]


def between(left: LabelledBox, right: LabelledBox, share: float) -> LabelledBox:
    """The box that is this share of the way from one to the other, marked "filled"."""
    edges = {
        edge: (1 - share) * getattr(left, edge) + share * getattr(right, edge) for edge in ("y0", "x0", "y1", "x1")
    }
    # A number of a person holds within one picture, and in this one may be another's.
    return dataclasses.replace(left, **edges, score=min(left.score, right.score), source="filled", person=None)


def numbered(names: Iterable[list[Hashable]]) -> list[list[int]]:
    """For the name of every box of every picture a number, from 0, in the order in which the names appear."""
    numbers: dict[Hashable, int] = {}
    return [[numbers.setdefault(name, len(numbers)) for name in picture] for picture in names]


def _leaders(picture: list[LabelledBox]) -> list[int]:
    """For each box the index of the box that is followed for its person: a detected one where there is one."""
    leader: dict[int, int] = {}
    for i, box in sorted(enumerate(picture), key=lambda item: item[1].source != "detected"):
        if box.person is not None:
            leader.setdefault(box.person, i)
    return [i if box.person is None else leader[box.person] for i, box in enumerate(picture)]


class _Alone:
    """Gives every sure box a name of its own."""

    def __init__(self, sure: float):
        self.sure, self.new_names = sure, itertools.count()

    def names(self, picture: list[LabelledBox]) -> list[int | None]:
        """For each box of the next picture the name of its track, None where it belongs to none."""
        return [next(self.new_names) if box.score >= self.sure else None for box in picture]

    def end(self) -> None:
        """Ends all tracks."""


class _ByKind(_Alone):
    """Gives a box the name of the track of its part and label that it continues."""

    def __init__(self, sure: float, longest: float):
        super().__init__(sure)
        self._missed = max(math.floor(longest + SLACK) - 1, 0)  # pictures between two sightings
        self._live = {}

    def names(self, picture: list[LabelledBox]) -> list[int | None]:
        from preprocessing.byte_track import ByteTrack  # half a second, which building from given boxes need not take

        kinds = [(box.part, box.label) for box in picture]
        names: list[int | None] = [None] * len(picture)
        for kind in dict.fromkeys([*self._live, *kinds]):
            if kind not in self._live:
                self._live[kind] = ByteTrack(self.new_names, self.sure, self._missed)
            rows = [i for i in range(len(picture)) if kinds[i] == kind]
            for row, name in zip(rows, self._live[kind]([picture[i] for i in rows]), strict=True):
                names[row] = name
            if self._live[kind].ended:
                del self._live[kind]
        return names

    def end(self) -> None:
        self._live.clear()
