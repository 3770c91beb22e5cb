"""A file of questions in, the questions of every video out, each at the window it asks about."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mmdiff.data.records import Question
from preprocessing.problems import Problem

FILE_NAME = "questions.jsonl"  # where it is looked for, in the folder of the videos
ADVICE = 'a line is {"video": file name, "question": text, "answers": [texts], "label": index, "start": s, "end": s}'


@dataclasses.dataclass(frozen=True)
class Asked:
    """One line of the file. `start` and `end` are None where it does not say which stretch it asks about."""

    line: int
    id: str
    video: str
    text: str
    answers: tuple[str, ...]
    label: int
    start: float | None
    end: float | None


def read_questions(path: Path, videos: Sequence[str]) -> tuple[dict[str, list[Asked]], list[Problem]]:
    """The questions by video, and one problem for each line that had to be left out.

    `videos` are paths inside the folder; a line may name a video by this path, its file name, or its stem.
    """
    known = _names(videos)
    asked: dict[str, list[Asked]] = {}
    problems = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            question = _parse(line, number)
            asked.setdefault(_find(question.video, known), []).append(question)
        except (ValueError, OverflowError) as error:
            problems.append(Problem(f"{path.name}:{number}", "questions", str(error), ADVICE))
    return asked, problems


def attach(
    asked: Sequence[Asked], windows: Sequence[tuple[float, float]], seconds: float
) -> tuple[list[list[Question]], list[tuple[Asked, str]]]:
    """For each window (start, end) its questions; and the questions that ask about a time the video has not.

    A question goes to the window whose middle is nearest to the middle of its own stretch.
    """
    placed: list[list[Question]] = [[] for _ in windows]
    outside = []
    for question in asked:
        start = question.start if question.start is not None else 0.0
        end = question.end if question.end is not None else max(seconds, start)
        if start >= seconds or end < 0:
            outside.append((question, f"asks about {start:g} to {end:g} s, but the video ends at {seconds:.1f} s"))
            continue
        start, end = max(start, 0.0), min(end, seconds)
        middle = (start + end) / 2
        nearest = min(range(len(windows)), key=lambda i: abs((windows[i][0] + windows[i][1]) / 2 - middle))
        placed[nearest].append(
            Question(question.id, question.text, list(question.answers), question.label, start, end, window=0)
        )
    return placed, outside


def _parse(line: bytes, number: int) -> Asked:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if type(fields) is not dict:
        raise ValueError("is not a JSON object")
    video, text, answers = fields.get("video"), fields.get("question"), fields.get("answers")
    if not isinstance(video, str) or not video:
        raise ValueError('names no "video"')
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the question is empty")
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError('"answers" is not a list of texts')
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} answers, at least two are needed")
    if len({answer.strip() for answer in answers}) < len(answers):
        raise ValueError("an answer is repeated")
    label = fields.get("label")
    if label is not None and (type(label) is not int or not 0 <= label < len(answers)):
        raise ValueError(f"label {label!r} is out of range: it counts the {len(answers)} answers from 0")
    start, end = _seconds(fields, "start"), _seconds(fields, "end")
    if start is not None and end is not None and end < start:
        raise ValueError(f"ends at {end:g} s before it starts at {start:g} s")
    name = str(fields.get("id") if fields.get("id") is not None else f"q{number:06d}")
    for value in (name, text, *answers):
        value.encode()  # Half a surrogate pair is JSON, but no text.
    return Asked(number, name, video, text.strip(), tuple(answers), -1 if label is None else label, start, end)


def _seconds(fields: dict, name: str) -> float | None:
    value = fields.get(name)
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    ):
        raise ValueError(f'"{name}" is {value!r}, not a number of seconds')
    return None if value is None else float(value)


def _names(videos: Sequence[str]) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for video in videos:
        path = PurePosixPath(video)
        for name in {video, path.name, path.stem, str(path.with_suffix(""))}:
            names.setdefault(name, set()).add(video)
    return names


def _find(name: str, known: dict[str, set[str]]) -> str:
    found = known.get(name, set())
    if name in found:  # The full path decides where the bare name is shared.
        return name
    if len(found) > 1:
        raise ValueError(f"{name!r} may be {' or '.join(sorted(found))}: give the path inside the folder")
    if not found:
        raise ValueError(f"there is no video {name!r} among the videos that could be read")
    return next(iter(found))
