"""Questions as people wrote them in, checked questions out, each at the window that it asks about."""

import dataclasses
import math
import re
from collections.abc import Sequence

from mmdiff.data.records import Question
from preprocessing.plan_windows import SEGMENT, THIRDS, Span, clipped, is_outside, last_picture, window

NUMBER = r"[-+]?(?:nan|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
LONGEST_NAME = 200  # bytes, of a clip: file systems take 255, with what stands around it
SPAN = re.compile(rf"\s*({NUMBER})\s*-\s*({NUMBER})\s*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Asked:
    """One question as its annotation has it. `span` is None where it does not say which stretch it asks about."""

    where: str  # the file and the line, for messages
    id: str
    video: str
    text: str
    answers: tuple[str, ...]
    label: int  # -1 where the right answer is not told
    span: Span | None


def checked(where: str, id: object, video: object, text: object, answers: object, label: object, span) -> Asked:
    """A question. Raises ValueError, with a reason that follows the name of the place, where it cannot be asked."""
    if not isinstance(video, str) or not video:
        raise ValueError("names no video")
    if len(video.encode(errors="replace")) > LONGEST_NAME or "\0" in video:
        raise ValueError("the video has no name that a file could have")
    if not isinstance(id, int | str) or isinstance(id, bool) or id == "":
        raise ValueError("the question has no id")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the question is empty")
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError("the answers are not a list of texts, or one is empty")
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} answers, at least two are needed")
    if len({" ".join(answer.split()).casefold() for answer in answers}) < len(answers):
        raise ValueError("an answer is repeated")
    if label is not None and (type(label) is not int or not 0 <= label < len(answers)):
        raise ValueError(f"label {label!r} is out of range: it counts the {len(answers)} answers from 0")
    for value in (str(id), video, text, *answers):
        value.encode()  # Half a surrogate pair is JSON, but no text.
    return Asked(where, str(id), video, text.strip(), tuple(answers), -1 if label is None else label, span)


def read_span(said: object) -> Span | None:
    """Seconds of "76.01-84.2", where either may be negative or have an exponent, or of [76.01, 84.2]; None for "nan-nan".

    Raises ValueError for anything else.
    """
    if isinstance(said, str) and (match := SPAN.fullmatch(said)):
        span = float(match[1]), float(match[2])
    elif isinstance(said, list) and len(said) == 2 and all(type(time) in (int, float) for time in said):
        span = float(said[0]), float(said[1])
    else:
        raise ValueError(f"the time span {said!r:.60} is not two numbers of seconds")
    if any(map(math.isinf, span)):
        raise ValueError(f"the time span {said!r:.60} has no end")
    return None if any(map(math.isnan, span)) else span


def clip_name(name: object) -> str:
    """The name of a clip that has files of its own. Raises ValueError for one that would lead out of their folder."""
    if not isinstance(name, str) or not name:
        raise ValueError("names no video")
    if "/" in name or "\\" in name or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a clip")
    return name


def attach(
    asked: Sequence[Asked], windows: Sequence[Sequence[tuple[float, float]]], seconds: float, kind: str, per_window: int
) -> tuple[list[list[Question]], list[tuple[Asked, str]]]:
    """For each record its questions; and the questions that ask about a time the clip has not, with a reason.

    Args:
      asked: the questions of one clip.
      windows: of each record of the clip, the start and end of its windows in seconds.
      seconds: of the clip.
      kind: a name of plan_windows.WINDOWS: how the windows were laid.
      per_window: segments of a window.
    """
    placed: list[list[Question]] = [[] for _ in windows]
    outside = []
    for question in asked:
        if is_outside(question.span, seconds):
            start, end = question.span
            asked_about = f"{start:g} to {end:g} s" if math.isfinite(end) else f"{start:g} s and after"
            outside.append((question, f"asks about {asked_about}, but the video ends at {seconds:.1f} s"))
            continue
        if kind == "tiles":  # the tile whose middle is nearest to the question's
            span = clipped(question.span, seconds)
            middle = sum(span) / 2
            record = min(range(len(windows)), key=lambda i: abs(sum(windows[i][0]) / 2 - middle))
            place = 0
        else:
            span = clipped(question.span, last_picture(seconds))
            starts = window(span, seconds, per_window, on_grid=kind == "grid")
            wanted = (starts[0] / THIRDS, (starts[-1] + SEGMENT) / THIRDS)
            record = 0
            place = min(range(len(windows[0])), key=lambda i: math.dist(windows[0][i], wanted))
        placed[record].append(
            Question(question.id, question.text, list(question.answers), question.label, *span, window=place)
        )
    return placed, outside
