"""A folder of videos, with questions in `questions.jsonl` or without: the general case."""

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mmdiff.data.records import BUILDER_NAME
from preprocessing.annotations import Annotations
from preprocessing.clip import Media
from preprocessing.datasets.dataset import TRAIN, VALIDATION, Dataset, Row, json_lines
from preprocessing.options import MANIFEST, Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.questions import Asked, checked
from preprocessing.subtitles import subtitle_file

FILE_NAME = "questions.jsonl"  # where questions are looked for, in the folder of the videos
ADVICE = 'a line is {"video": file name, "question": text, "answers": [texts], "label": index, "start": s, "end": s}'
VIEWED = ".boxes.mp4"  # ends the name of a film of `mmdiff view boxes`
EVERY = ""  # the split of a question before it is known which videos can be read


class VideoFolder(Dataset):
    """Videos in any format that FFmpeg reads. The hash of a video's name decides whether it is for validation."""

    name = BUILDER_NAME
    description = "Windows of a folder of videos: JPEG frames, mel spectrograms, subtitles, boxes around people."
    citation = ""
    homepage = ""
    licence = "Made of the user's own videos; their licence holds."
    windows = "tiles"

    def __init__(self, data: Path, options: Options, out: Path | None = None):
        super().__init__(data, options, out)
        self._videos: dict[str, Path] | None = None
        self._unnamed: list[Problem] = []

    def annotation_files(self) -> list[Path]:
        if self.options.questions is None:
            beside = self.data / FILE_NAME
            return [beside] if beside.is_file() else []
        if not Path(self.options.questions).is_file():
            raise PreprocessError(
                f"there is no file of questions {self.options.questions}; correct --questions or leave it out"
            )
        return [Path(self.options.questions)]

    def rows(self) -> Iterator[Row]:
        known = _names(list(self.videos()))
        for path in self.annotation_files():
            for row in json_lines(EVERY, path, functools.partial(_asked, known)):
                yield dataclasses.replace(row, advice=ADVICE) if row.problem else row

    def media(self, clip: str) -> Media:
        path = self.videos().get(clip)
        return Media(pictures=path, subtitles=path and subtitle_file(path))

    def layout(self) -> str:
        return f"files ending in {' '.join(self.options.extensions)}, in the folder and its folders"

    def passed_over(self) -> list[Problem]:
        self.videos()
        return self._unnamed

    def clips_without_questions(self) -> Iterator[tuple[str, str]]:
        return ((EVERY, name) for name in self.videos())

    def splits(self, annotations: Annotations, usable: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
        return split_videos(list(usable), self.options.validation_share)

    def videos(self) -> dict[str, Path]:
        """Every video in the folder and below by its path inside it, sorted.

        Hidden files and folders are passed over, and so is `out`. Raises PreprocessError where there is none.
        """
        if self._videos is not None:
            return self._videos
        found, self._unnamed = {}, []
        for root, folders, names in os.walk(self.data):
            folders[:] = [name for name in folders if name[0] != "." and not self._is_out(Path(root) / name)]
            if (Path(root) / MANIFEST).is_file() and Path(root) != self.data:
                folders[:] = []  # What another run made of these videos is none of them.
            for folder in filter(os.path.islink, (Path(root, name) for name in folders)):  # may lead in a circle
                told, advice = "is a link to a folder, which is not followed", "give that folder itself"
                self._unnamed.append(Problem(folder.relative_to(self.data).as_posix(), "names", told, advice))
            for file in names:
                path = Path(root, file)
                if file[0] == "." or path.suffix.lower() not in self.options.extensions or file.endswith(VIEWED):
                    continue
                name = path.relative_to(self.data).as_posix()
                readable = os.fsencode(name).decode(errors="replace")
                if readable != name:
                    self._unnamed.append(Problem(readable, "names", "its name is not valid UTF-8", "rename the file"))
                elif not path.is_file():
                    self._unnamed.append(
                        Problem(name, "names", "is not a file, or a link to nothing", "remove or mend it")
                    )
                else:
                    found[name] = path
        if not found and not self._unnamed:
            raise PreprocessError(
                f"{self.data} holds no video; looked for {' '.join(self.options.extensions)} in it and in its folders"
            )
        self._videos = dict(sorted(found.items()))
        return self._videos

    def _is_out(self, path: Path) -> bool:
        return self.out is not None and path.resolve() == self.out.resolve()


def split_videos(names: list[str], share: float) -> tuple[dict[str, list[str]], list[str]]:
    """Which videos are for training and which for validation, and what to tell about it.

    The hash of a video's name, a number from 0 to 1, is held against the share: the other videos have no say, so that
    a video that is added moves none. Only where a split would be empty, the nearest video fills it.
    """
    if not share:
        return {TRAIN: names}, []
    if len(names) == 1:
        return {TRAIN: names}, ["there is only one video: all of it is for training, nothing for validation"]
    place = {name: _hash(f"validation:{name}") for name in names}
    first, *_, last = sorted(names, key=place.get)
    validation = {name for name in names if place[name] < share} - {last} | {first}
    return {TRAIN: [name for name in names if name not in validation], VALIDATION: sorted(validation)}, []


def _hash(text: str) -> float:
    """A number from 0 to below 1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _asked(known: dict[str, set[str]], where: str, fields: dict) -> Asked:
    name = fields.get("id") if fields.get("id") is not None else f"q{int(where.rsplit(':', 1)[1]):06d}"
    start, end = _seconds(fields, "start"), _seconds(fields, "end")
    if start is not None and end is not None and end < start:
        raise ValueError(f"ends at {end:g} s before it starts at {start:g} s")
    # Whoever gives one end only means from there, or up to there.
    span = None if start is None and end is None else (start or 0.0, math.inf if end is None else end)
    question = checked(
        where, name, fields.get("video"), fields.get("question"), fields.get("answers"), fields.get("label"), span
    )
    return Asked(**{**vars(question), "video": _find(question.video, known)})


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
        raise ValueError(f"there is no video {name!r} among the videos of the folder")
    return next(iter(found))
