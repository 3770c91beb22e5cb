"""Boxes that people drew in some pictures in, the boxes of any picture near them out.

They are `LabelledBox`es whose edges are shares of the picture, since the drawn-on picture may have had another size.
"""

import dataclasses
from collections import Counter

from preprocessing.detect_people import LabelledBox
from preprocessing.track_boxes import between, numbered

NEAR = 3  # pictures, a second: as far as a box may be carried from the picture in which it was drawn
BRACKET = 6  # pictures between two drawn ones: TVQA+ has boxes every two seconds


def boxes_at(picture: int, drawn: dict[int, list[LabelledBox]]) -> list[LabelledBox]:
    """The boxes of a picture: as drawn, else between two drawings of the same label, else those of a near drawing.

    Those that were not drawn in this very picture are marked "filled".
    """
    if picture in drawn:
        return drawn[picture]
    before = max((number for number in drawn if number < picture), default=None)
    after = min((number for number in drawn if number > picture), default=None)
    if before is None or after is None or after - before > BRACKET:
        near = [number for number in (before, after) if number is not None and abs(number - picture) <= NEAR]
        closest = min(near, key=lambda number: abs(number - picture), default=None)
        return [] if closest is None else [_filled(box) for box in drawn[closest]]
    left, right = _alone_of_label(drawn[before]), _alone_of_label(drawn[after])
    share = (picture - before) / (after - before)
    # Who is in only one of the two came or went in between: shown in the half that is nearer.
    nearer = drawn[before] if share <= 0.5 else drawn[after]
    followed = left.keys() & right.keys()
    return [between(left[label], right[label], share) for label in sorted(followed)] + [
        _filled(box) for box in nearer if box.label not in followed
    ]


def _alone_of_label(boxes: list[LabelledBox]) -> dict[str, LabelledBox]:
    """By label, the boxes whose label no other box of the picture has: "people" may stand twice."""
    counts = Counter(box.label for box in boxes)
    return {box.label: box for box in boxes if counts[box.label] == 1}


def _filled(box: LabelledBox) -> LabelledBox:
    return dataclasses.replace(box, source="filled")


def in_pixels(box: LabelledBox, height: int, width: int) -> LabelledBox:
    """A box given in shares of the picture."""
    return dataclasses.replace(box, y0=box.y0 * height, x0=box.x0 * width, y1=box.y1 * height, x1=box.x1 * width)


def tracks_by_label(boxes: list[list[LabelledBox]]) -> list[list[int]]:
    """The track number of every box of every picture, where people have named who or what it is."""
    return numbered([box.label.casefold() for box in frame] for frame in boxes)
