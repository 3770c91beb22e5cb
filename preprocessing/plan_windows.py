"""The length of a clip and the spans asked about in, the segments and windows to store out.

A segment is 14/3 s long. Times are counted in thirds of a second, in which TVQA's frames were taken and in which the
original rounds (rowanz/merlot_reserve, finetune/tvqa/prep_data.py): a segment is then 14 thirds, and all is exact.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

from mmdiff.data.records import SECONDS_PER_SEGMENT

THIRDS = 3  # of a second
SEGMENT = round(SECONDS_PER_SEGMENT * THIRDS)  # 14

Span = tuple[float, float]  # start and end in seconds


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one record holds: the starts of its segments, in thirds of a second, and its windows as (first, count)."""

    segments: tuple[int, ...]
    windows: tuple[tuple[int, int], ...]
    tile: bool = False  # one of several records of its clip


def segment_count(seconds: float) -> int:
    """How many segments have their middle inside the video; at least one."""
    return max(1, math.ceil(seconds / SECONDS_PER_SEGMENT - 0.5))


def tiles(seconds: float, spans: Iterable[Span], per_window: int) -> list[Plan]:
    """Segments one after another; every run of `per_window` of them is a record with one window."""
    starts = [i * SEGMENT for i in range(segment_count(seconds))]
    return [
        Plan(tuple(part), ((0, len(part)),), tile=True)
        for part in (starts[i : i + per_window] for i in range(0, len(starts), per_window))
    ]


def around_spans(seconds: float, spans: Iterable[Span], per_window: int) -> list[Plan]:
    """One record with a window for each span, its middle segment around the span's middle: what the original does."""
    return [_union(window(span, seconds, per_window, on_grid=False) for span in spans)]


def on_grid(seconds: float, spans: Iterable[Span], per_window: int) -> list[Plan]:
    """One record whose windows share one row of segments; a window is moved by up to half a segment for that."""
    return [_union(window(span, seconds, per_window, on_grid=True) for span in spans)]


# How windows are laid over a clip. With "tiles" a question goes to the nearest one; the others are laid by questions.
WINDOWS: dict[str, Callable[[float, Iterable[Span], int], list[Plan]]] = {
    "tiles": tiles,
    "spans": around_spans,
    "grid": on_grid,
}


def is_outside(span: Span | None, seconds: float) -> bool:
    """Whether a span asks about a time that the clip has not."""
    return span is not None and (min(span) >= seconds or max(span) < 0)


def last_picture(seconds: float) -> float:
    """When the last of a clip's pictures was taken, three a second: where the original cuts spans."""
    return max(round(seconds * THIRDS) - 1, 0) / THIRDS


def clipped(span: Span | None, seconds: float) -> Span:
    """The part of a span that lies before `seconds`, its ends in order; all of that where the span is not known."""
    start, end = span or (0.0, seconds)
    start, end = min(start, end), max(start, end)
    return min(max(start, 0.0), seconds), min(max(end, 0.0), seconds)


def window(span: Span, seconds: float, per_window: int, on_grid: bool) -> tuple[int, ...]:
    """The segment around the middle of a span, and its neighbours left and right in turn while they touch the clip.

    Args:
      span: start and end in seconds, none behind the last picture.
      seconds: of the clip.
      per_window: how many segments at most; a short clip has fewer.
      on_grid: the middle segment is the one of 0, 14/3 s, 28/3 s ... that holds the span's middle.
    """
    last = round(last_picture(seconds) * THIRDS)
    middle = round((span[0] + span[1]) / 2 * THIRDS)
    first = middle // SEGMENT * SEGMENT if on_grid else middle - SEGMENT // 2
    earliest = 0 if on_grid else -SEGMENT  # The original keeps a segment that only touches the beginning.
    starts = [first]
    for distance in range(1, per_window):
        for start in (first - distance * SEGMENT, first + distance * SEGMENT):
            if earliest <= start <= last and len(starts) < per_window:
                starts.append(start)
    return tuple(sorted(starts))


def _union(windows: Iterable[tuple[int, ...]]) -> Plan:
    """Windows over one list of segments, each segment stored once."""
    distinct = dict.fromkeys(windows)
    # Segments that are a whole number of segments apart follow each other, so that every window is a run of them.
    segments = sorted({start for starts in distinct for start in starts}, key=lambda start: (start % SEGMENT, start))
    place = {start: i for i, start in enumerate(segments)}
    return Plan(tuple(segments), tuple((place[starts[0]], len(starts)) for starts in distinct))
