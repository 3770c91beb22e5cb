"""The imported boxes of one clip in, those of each of its sampled pictures out."""

import dataclasses
import hashlib
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from preprocessing.detect_people import LabelledBox
from preprocessing.human_boxes import boxes_at, in_pixels, tracks_by_label

SLACK = 5e-4  # seconds: decode_video shows a frame that comes so little after the time of a sampled picture
ALMOST = 0.02  # of the time between two sampled pictures: 3.33 s is 3.3333 s, which rows beside it may have
UNKNOWN = -1  # track
SMALLEST = 1.0  # pixel, either way: less is nothing


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What was sampled of a clip."""

    video: str
    fps: float  # sampled pictures a second: picture i stands at i / fps seconds
    pictures: int
    width: int  # pixels of the pictures that boxes are wanted for
    height: int
    native_fps: float  # frames a second of the video itself
    drift: float = 0.0  # seconds by which a frame lies off this rate, at most

    @property
    def times(self) -> Float64[np.ndarray, " pictures"]:
        return np.arange(self.pictures) / self.fps


class Placed(NamedTuple):
    """Boxes for each sampled picture."""

    boxes: list[list[LabelledBox]]  # in pixels of the sampled pictures, cut at their borders
    tracks: list[list[int]] | None  # from 0 in order of first appearance; None: the file does not say
    problem: str | None  # what did not fit onto the clip


@dataclasses.dataclass(frozen=True)
class ImportedClip:
    """`n` boxes of one clip as a file has them, in order of its moments; small, and fit to be sent to a worker."""

    seconds: Float64[np.ndarray, " n"]  # where `number` is not said, else NaN
    number: Float64[np.ndarray, " n"]  # of the frame, from 0; NaN where `seconds` is said
    rate: Float64[np.ndarray, " n"]  # frames that `number` counts in a second; NaN: see `counted_by`
    box: Float64[np.ndarray, "n 4"]  # x0 y0 x1 y1 in pixels of `size`
    size: Float64[np.ndarray, "n 2"]  # width and height; NaN: those of the video
    label: list[str]
    part: list[str]
    score: Float64[np.ndarray, " n"]
    source: list[str]
    track: Int64[np.ndarray, " n"]  # UNKNOWN where the file has none
    counted_by: str = "native_fps"  # the attribute of Sampled that `number` counts by where there is no `rate`

    def digest(self) -> str:
        """A name for the content, the same in every run."""
        return _digest([getattr(self, field.name) for field in dataclasses.fields(self)])

    def on(self, sampled: Sampled) -> Placed:
        """The boxes of every sampled picture: of the very frame that it shows, or of a frame near to it.

        Where a file has boxes for more moments than are sampled, a picture takes those of the frame that it shows (or,
        where only every other frame has boxes, of the nearest that has). Where it has fewer, every moment goes to the
        sampled picture that is nearest in time, and the pictures between stay empty: filling them is for others.
        """
        rate = np.where(np.isnan(self.rate), getattr(sampled, self.counted_by), self.rate)
        seconds = np.where(np.isnan(self.seconds), self.number / rate, _snapped(self.seconds, sampled.fps))
        counted = len(rate) > 0 and np.isnan(self.seconds).all() and (rate == rate[0]).all()
        moments, of_row = np.unique(seconds, return_inverse=True)
        moment_of_picture = _choose(moments, sampled, rate[0] if counted else None)
        edges, inside = self._edges(sampled)
        rows = np.flatnonzero(inside)
        rows_of_moment = _by_moment(of_row[rows], rows, len(moments))
        chosen = [[] if moment < 0 else rows_of_moment[moment] for moment in moment_of_picture]
        boxes = [[self._box(edges, row) for row in picture] for picture in chosen]
        return Placed(boxes, self._tracks(chosen), self._problem(sampled, seconds, inside))

    def _edges(self, sampled: Sampled) -> tuple[Float64[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
        """Pixels of the sampled pictures, and which boxes leave something within them."""
        size = np.array([sampled.width, sampled.height], np.float64)
        scale = size / np.where(np.isnan(self.size), size, self.size)
        edges = np.clip(self.box * np.tile(scale, 2), 0, np.tile(size, 2))
        return edges, (edges[:, 2:] - edges[:, :2] >= SMALLEST).all(1)

    def _box(self, edges: np.ndarray, row: int) -> LabelledBox:
        x0, y0, x1, y1 = edges[row].tolist()
        score = float(self.score[row])
        return LabelledBox(y0, x0, y1, x1, self.label[row], self.part[row], score, self.source[row])

    def _tracks(self, chosen: list[list[int]]) -> list[list[int]] | None:
        if len(self.track) and (self.track == UNKNOWN).all():
            return None
        numbers: dict[object, int] = {}

        def number(row: int) -> int:
            track = int(self.track[row])  # A box without one, among others that have one, is seen once.
            return numbers.setdefault(("alone", row) if track == UNKNOWN else track, len(numbers))

        return [[number(row) for row in picture] for picture in chosen]

    def _problem(self, sampled: Sampled, seconds: np.ndarray, inside: np.ndarray) -> str | None:
        late, outside = int((seconds * sampled.fps > sampled.pictures).sum()), int((~inside).sum())
        if told := _misplaced(len(inside), late, outside):
            return told
        by_its_rate = np.isnan(self.seconds) & np.isnan(self.rate) & (self.counted_by == "native_fps")
        if by_its_rate.any() and sampled.drift > 1 / sampled.fps / 2:
            return (
                f"has {len(inside):,} imported boxes by the number of their frame, but its frames lie up to "
                f"{sampled.drift:.1f} s off a steady rate, by which they were placed"
            )
        return None


def _misplaced(count: int, late: int, outside: int) -> str | None:
    where = [f"{late:,} of them after its end"] * bool(late) + [f"{outside:,} of them outside of its picture"] * bool(
        outside
    )
    return f"has {count:,} imported boxes, {' and '.join(where)}; these are left out" if where else None


def _snapped(seconds: Float64[np.ndarray, " n"], fps: float) -> Float64[np.ndarray, " n"]:
    """Times that are almost those of sampled pictures, being written with few digits, made the very same."""
    nearest = np.floor(seconds * fps + 0.5) / fps
    return np.where(np.abs(seconds - nearest) * fps < ALMOST, nearest, seconds)


def _choose(moments: np.ndarray, sampled: Sampled, rate: float | None) -> Int64[np.ndarray, " pictures"]:
    """For every picture the index of the moment whose boxes it takes, -1 for none.

    `rate` is given where moments are numbers of frames, of which a picture shows the last one up to its time.
    """
    chosen = np.full(sampled.pictures, -1)
    if not len(moments) or not sampled.pictures:
        return chosen
    times, period = sampled.times, 1 / sampled.fps
    step = np.median(np.diff(moments)) if len(moments) > 1 else np.inf
    if step > period + SLACK:
        nearest = np.floor(moments * sampled.fps + 0.5).astype(np.int64)
        fits = moments * sampled.fps <= sampled.pictures
        nearest = np.minimum(nearest, sampled.pictures - 1)
        # From far to near: the nearest one stays.
        for moment in np.flatnonzero(fits)[np.argsort(-np.abs(moments - times[nearest])[fits], kind="stable")]:
            chosen[nearest[moment]] = moment
        return chosen
    shown = times if rate is None else np.floor((times + SLACK) * rate) / rate
    after = np.clip(np.searchsorted(moments, shown), 1, max(len(moments) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(moments) - 1)
    nearer = np.where(moments[after] - shown < shown - moments[before], after, before)
    return np.where(np.abs(moments[nearer] - shown) <= step / 2 + SLACK, nearer, -1)


def _by_moment(moment: np.ndarray, rows: np.ndarray, count: int) -> list[list[int]]:
    order = np.argsort(moment, kind="stable")  # within a moment, boxes stay in the order of the file
    bounds = np.searchsorted(moment[order], np.arange(count + 1))
    return [rows[order[start:stop]].tolist() for start, stop in itertools.pairwise(bounds)]


@dataclasses.dataclass(frozen=True)
class DrawnClip:
    """Boxes that people drew in some pictures of one clip, named, with edges as shares of the picture: TVQA+'s."""

    drawn: dict[int, list[LabelledBox]]  # by the number of the picture, from 0
    rate: float  # pictures a second that these numbers count

    def digest(self) -> str:
        """A name for the content, the same in every run."""
        return _digest([sorted(self.drawn.items()), self.rate])

    def on(self, sampled: Sampled) -> Placed:
        """The boxes of every sampled picture, drawn or between two drawings, as `human_boxes.boxes_at` has them."""
        pictures = np.floor(sampled.times * self.rate + 0.5).astype(int).tolist()
        boxes = [
            [in_pixels(box, sampled.height, sampled.width) for box in boxes_at(picture, self.drawn)]
            for picture in pictures
        ]
        late = sum(
            len(boxes) for picture, boxes in self.drawn.items() if picture / self.rate * sampled.fps > sampled.pictures
        )
        return Placed(boxes, tracks_by_label(boxes), _misplaced(sum(map(len, self.drawn.values())), late, 0))


def _digest(values: list) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()
