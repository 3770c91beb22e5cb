"""What every dataset is to the rest: rows of annotation, and for each clip the files that hold it."""

import abc
import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from preprocessing.annotations import Annotations
from preprocessing.clip import Media
from preprocessing.detect_people import HUMAN, LabelledBox
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.questions import Asked

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclasses.dataclass(frozen=True)
class Row:
    """One question of the annotation: the questions that it gives, or why it gives none."""

    split: str
    where: str  # the file and the line
    asked: tuple[Asked, ...] = ()
    boxes: tuple[tuple[str, int, LabelledBox], ...] = ()  # clip, picture from 0, box with edges as shares
    problem: str | None = None  # what is wrong with the row, or with a part of it
    advice: str = "it is left out; compare it with the file that was released"
    is_question: bool = True  # counts among those that the split has


@dataclasses.dataclass(frozen=True)
class Official:
    """What a split holds as its makers released it."""

    questions: int
    clips: int


@dataclasses.dataclass
class Read:
    """All that the annotation says."""

    annotations: Annotations
    rows: collections.Counter  # by split, good ones and bad ones
    problems: list[Problem]


class Dataset(abc.ABC):
    """A folder in the layout that its makers released. Reading goes line by line: nothing is held twice."""

    name: str
    description: str
    citation: str
    homepage: str
    licence: str
    official: Mapping[str, Official] = MappingProxyType({})  # by split
    windows = "spans"  # how windows are laid where the user does not say: plan_windows.WINDOWS
    detector = "face_body"  # what looks for people where the user does not say: detect_people.DETECTORS
    protocols: tuple[str, ...] = ()  # ways to make questions of the annotation; the first where the user does not say

    def __init__(self, data: Path, options: Options, out: Path | None = None):
        """`out`, where records go, is passed over if it lies within the data. Raises PreprocessError where the folder is not there or an option has no meaning here."""
        self.data, self.out = Path(data), out and Path(out)
        if not self.data.is_dir():
            what = "is not a folder" if self.data.exists() else "does not exist"
            raise PreprocessError(f"{self.data} {what}; give the folder that holds the dataset {self.name}")
        if options.protocol and options.protocol not in self.protocols:
            known = f"it has {', '.join(self.protocols)}" if self.protocols else "it has none to choose from"
            raise PreprocessError(f"protocol {options.protocol!r} is unknown to {self.name}; {known}")
        if options.detector == HUMAN and self.detector != HUMAN:
            raise PreprocessError(f"{self.name} brings no boxes drawn by people: choose another --detector")
        first = self.protocols[0] if self.protocols else ""
        self.options = dataclasses.replace(
            options,
            protocol=options.protocol or first,
            windows=options.windows or self.windows,
            detector=options.detector or self.detector,
        )

    @abc.abstractmethod
    def annotation_files(self) -> list[Path]:
        """The files of annotation that are there."""

    @abc.abstractmethod
    def rows(self) -> Iterator[Row]:
        """Every question of every split. Raises PreprocessError where there is no annotation at all."""

    @abc.abstractmethod
    def media(self, clip: str) -> Media:
        """The files of a clip; None for what is not there."""

    @abc.abstractmethod
    def layout(self) -> str:
        """Where pictures are looked for, for messages."""

    def clips_without_questions(self) -> Iterator[tuple[str, str]]:
        """Further clips, each with its split."""
        return iter(())

    def read(self) -> Read:
        """Goes through all rows once."""
        read = Read(Annotations(), collections.Counter(), [])
        for row in self.rows():
            read.rows[row.split] += row.is_question
            for asked in row.asked:
                read.annotations.add(row.split, asked)
            for clip, picture, box in row.boxes:
                read.annotations.add_box(clip, picture, box)
            if row.problem:
                read.problems.append(Problem(row.where, "questions", row.problem, row.advice))
        for split, clip in self.clips_without_questions():
            read.annotations.add_clip(split, clip)
        return read

    def passed_over(self) -> list[Problem]:
        """Files that cannot be named in records."""
        return []

    def lack(self, clip: str) -> Problem | None:
        """What is missing so much that the clip cannot be used."""
        if self.media(clip).pictures:
            return None
        return Problem(clip, "media", "has no pictures: its questions are left out", f"looked for {self.layout()}")

    def splits(self, annotations: Annotations, usable: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Which of the usable clips belong to which split, and what to tell about it."""
        kept = set(usable)
        known = sorted(annotations.splits(), key=(TRAIN, VALIDATION, TEST).index)
        found = {split: [clip for clip in annotations.clips(split) if clip in kept] for split in known}
        empty = [f"no clip of the {split} split can be used" for split, clips in found.items() if not clips]
        return {split: clips for split, clips in found.items() if clips}, empty

    def notices(self, annotations: Annotations) -> list[str]:
        """What `mmdiff check` should say about this dataset beside what it says about all."""
        return []

    def find(self, *names: str) -> Path | None:
        """The first of these files or folders below the data that is there."""
        return next((path for path in self._below_data(names) if path.exists()), None)

    def find_file(self, *names: str) -> Path | None:
        """The first of these files below the data that is there."""
        return next((path for path in self._below_data(names) if path.is_file()), None)

    def _below_data(self, names: Sequence[str]) -> Iterator[Path]:
        """Places of files, but for those that lead out of the data: names may come from an annotation."""
        return (self.data / name for name in names if ".." not in Path(name).parts)


class FilePerSplit(Dataset):
    """A dataset whose annotation is one file for each split."""

    files: Mapping[str, str]  # by split
    folders: tuple[str, ...]  # in which they may lie
    wanted: str  # what to do where there is none

    def annotation_files(self) -> list[Path]:
        return [path for _, path in self._found()]

    def rows(self) -> Iterator[Row]:
        found = self._found()
        if not found:
            raise PreprocessError(f"{self.data} holds no annotation of {self.name}: {self.wanted}")
        for split, path in found:
            yield from self.rows_of(split, path)

    @abc.abstractmethod
    def rows_of(self, split: str, path: Path) -> Iterator[Row]:
        """The rows of one file."""

    def _found(self) -> list[tuple[str, Path]]:
        places = {
            split: self.find_file(*(f"{folder}/{file}" for folder in self.folders))
            for split, file in self.files.items()
        }
        return [(split, path) for split, path in places.items() if path]


def row_of(split: str, where: str, make: Callable[[], Row]) -> Row:
    """What `make` makes of one entry of an annotation, whose fields may be anything: what goes wrong costs this row."""
    try:
        return make()
    except ValueError as error:
        return Row(split, where, problem=str(error))
    except (TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        return Row(split, where, problem=f"its fields are not what they should be ({error!r:.100})")


def json_lines(split: str, path: Path, ask: Callable[[str, dict], Asked]) -> Iterator[Row]:
    """The row of each line that is not empty; `ask` makes the question of its place and its object."""

    def parsed(where: str, line: bytes) -> Row:
        try:
            fields = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not JSON ({error})") from None
        if type(fields) is not dict:
            raise ValueError("is not a JSON object")
        return Row(split, where, (ask(where, fields),))

    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path.name}:{number}"
                yield row_of(split, where, functools.partial(parsed, where, line))
