"""What a row of a file of boxes says in, a row that can be trusted or the reason why not out."""

import math
from collections import Counter
from typing import NamedTuple

from mmdiff.data.records import PARTS, SOURCES
from preprocessing.problems import Problem

IMPORTED = "imported"  # of records.SOURCES: where a file does not say how a box came about
BODY, FACE, OBJECT = PARTS
PERSON = "person"  # what our detectors call a body or a face
MOST_FRAMES = 2**31  # of a video: beyond it is no number of a frame
MOST_TRACKS = 2**31  # of a video
ADVICE = "correct them if they matter: the rows that are right are used"


class Row(NamedTuple):
    """One box of one picture of one video."""

    video: str
    seconds: float | None  # where in the video; None: `number` says it
    number: float | None  # of the frame, counted from 0
    rate: float | None  # frames that `number` counts in a second; None: as the video has them
    x0: float  # pixels of width x height
    y0: float
    x1: float
    y1: float
    width: float | None = None  # None: of the video as players show it
    height: float | None = None
    label: str = PERSON
    part: str = BODY
    score: float | None = None  # None: not said, which counts as sure
    source: str = IMPORTED
    track: float | None = None  # None or negative: not known


class Place(NamedTuple):
    """Where a row stands."""

    file: str
    where: str  # in the file: "line 3"


class Intake:
    """What reading a file leaves beside its rows: the videos that it knows, and what is wrong with it."""

    def __init__(self):
        self.videos: set[str] = set()  # also those in which nobody was found
        self.complete = False  # whether all sampled pictures were looked at
        self._counts: Counter = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def refuse(self, place: Place, reason: str, example: str = "") -> None:
        """A row is left out, and the reason why, which `example` makes plain."""
        self._counts[place.file, reason] += 1
        self._first.setdefault((place.file, reason), f"{place.where}: {reason}{example and f' ({example})'}")

    def problems(self) -> list[Problem]:
        """One for each reason and file, with the first row of its kind."""
        return [
            Problem(
                file,
                "boxes",
                f"{count:,} boxes are left out, the first at {self._first[file, reason]}"
                if count > 1
                else f"the box at {self._first[file, reason]} and is left out",
                ADVICE,
            )
            for (file, reason), count in self._counts.items()
        ]


def part_of(label: str) -> tuple[str, str]:
    """The label and the part that our detectors would give to a thing of this name."""
    word = label.strip().casefold()
    return {PERSON: (PERSON, BODY), FACE: (PERSON, FACE)}.get(word, (label.strip(), OBJECT))


def refusal(row: Row) -> tuple[str, str] | None:
    """Why a row cannot be used, and an example of it; None where it can."""
    if not row.video:
        return "no video is named", ""
    moment = row.number if row.seconds is None else row.seconds
    if moment is None or not 0 <= moment < MOST_FRAMES:  # not a number is refused too
        return "its frame or time is none of a video", ""
    if row.seconds is None and moment != int(moment):
        return "the number of its frame is no whole number", ""
    if not (math.isfinite(row.x0 + row.y0 + row.x1 + row.y1) and row.x0 < row.x1 and row.y0 < row.y1):
        return "it has no area", f"{row.x0:g} to {row.x1:g} across, {row.y0:g} to {row.y1:g} down"
    if row.score is not None and not 0 <= row.score <= 1:
        return "its score is not within 0 and 1", f"{row.score:g}"
    if row.part not in PARTS:
        return f"its part is none of {', '.join(PARTS)}", f"{row.part!r}"
    if row.track is not None and not (row.track < 0 or (row.track < MOST_TRACKS and row.track == int(row.track))):
        return "its track is no whole number, or too large a one", f"{row.track:g}"
    width, height = row.width, row.height
    sized = width is not None and height is not None and 0 < width < math.inf and 0 < height < math.inf
    if not sized and (width, height) != (None, None):
        return "the width and height of its picture are not two sizes", ""
    return None


def source_of(said: str | None) -> str:
    """How a box came about: what its file says if records know the word."""
    return said if said in SOURCES else IMPORTED
