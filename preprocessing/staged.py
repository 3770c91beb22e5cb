"""What is staged of every clip in, its boxes out: those that were found in it, or those of an imported file."""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from mmdiff.data.records import PARTS
from mmdiff.whole_files import write_whole
from preprocessing import staging
from preprocessing.boxes_table import ClipBoxes, write_boxes
from preprocessing.coco import write_coco
from preprocessing.datasets.dataset import Dataset, Read
from preprocessing.import_boxes import ImportedBoxes, Sampled, open_boxes
from preprocessing.imports.mot import mot_files
from preprocessing.options import NONE, Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.score_frames import Scored
from preprocessing.track_boxes import fill, follow

BOXES, COCO, KNOWN = "boxes.parquet", "boxes.coco.json", "boxes.sha256"


@dataclasses.dataclass
class Staged:
    """All that is to be written, one file for each clip."""

    splits: dict[str, list[Path]]
    dataset: Dataset
    read: Read
    results: dict[str, dict]  # by clip, what is short
    paths: dict[str, Path]  # by clip, in order of their names
    problems: list[Problem]
    notices: list[str]
    to_try_again: int  # clips that gave nothing for a reason that may pass
    ran: int  # clips that were run now
    seconds: dict[str, float]  # of the workers, by stage
    imported: ImportedBoxes | None = None
    similarity: Scored | None = None
    misplaced: dict[str, Problem] = dataclasses.field(default_factory=dict)  # imported boxes that fit no picture

    def boxes_of(self, path: Path) -> ClipBoxes:
        """The boxes of a staged clip. Imported ones that know nothing of tracks are followed; gaps that are not meant are filled."""
        found = ClipBoxes.from_dict(staging.load_boxes(path))
        if not self.imported:
            return found
        short, options = staging.load_short(path), self.dataset.options
        size = found.width, found.height
        sampled = Sampled(found.video, found.fps, found.pictures, *size, short["native_fps"], short["drift"])
        boxes, tracks, problem = self.imported.clip(found.video).on(sampled)
        if problem:
            advice = "compare the file of boxes with the video; --import-fps says how many pictures a second it counts"
            self.misplaced[found.video] = Problem(found.video, "boxes", problem, advice)
        if tracks is None:
            sure = options.threshold or 0.0
            boxes, tracks = follow(boxes, short["cuts"], found.fps, sure, options.longest_gap, options.tracker)
        elif options.tracker != NONE and not self.imported.complete:
            boxes, tracks = fill(boxes, tracks, short["cuts"], options.longest_gap * found.fps)
        return ClipBoxes.of(found.video, found.fps, *size, boxes, tracks)


@dataclasses.dataclass
class Counted:
    """How many boxes there are."""

    parts: collections.Counter = dataclasses.field(default_factory=lambda: collections.Counter(dict.fromkeys(PARTS, 0)))
    sources: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    tracks: int = 0


def open_imported(options: Options) -> ImportedBoxes | None:
    """The file of boxes that the options name; None for none. Raises PreprocessError as `open_boxes` does."""
    return open_boxes(options.imported, options.import_fps) if options.imported else None


def digest_of_boxes(options: Options) -> dict | None:
    """What identifies the imported boxes; None for none."""
    if not options.imported:
        return None
    content = hashlib.sha256()
    for file in mot_files(options.imported):  # of another format it is that one file
        content.update(f"{file.called} {_digest(file.path)} ".encode())
    return {"content": content.hexdigest(), "fps": options.import_fps}


def refuse_changed_boxes(out: Path, options: Options) -> None:
    """Raises PreprocessError where boxes that are there were changed after they were written: they would be lost."""
    for path in (out / BOXES, out / COCO):
        if path.is_file() and not _is_given(path, options) and _digest(path) not in _known(out):
            raise PreprocessError(
                f"{path} was changed after it was written: to build from it as it is now, give `--boxes {path}`; to "
                "have the boxes that were found, move it away"
            )


def _is_given(path: Path, options: Options) -> bool:
    return options.imported is not None and options.imported.resolve() == path.resolve()


def _known(out: Path) -> list[str]:
    """Digests of all that was written there, each followed by the name of its file."""
    return (out / KNOWN).read_text().split() if (out / KNOWN).exists() else []


def _put(new: Path, path: Path) -> None:
    """Gives a file its name, which is known before it is there: a kill in between makes no changed file of it."""
    digest, known = _digest(new), path.with_name(KNOWN)
    if digest not in _known(path.parent):
        before = known.read_bytes() if known.exists() else b""
        write_whole(known, before + f"{digest}  {path.name}\n".encode())
    new.replace(path)


def write_boxes_of(staged: Staged, out: Path, options: Options) -> Counted:
    """Writes the boxes of all clips as a table, and with `options.coco` as COCO json, and counts them.

    A file that is itself what was given as boxes stays as it is.
    """
    counted = Counted()

    def each(count: bool = False) -> Iterator[ClipBoxes]:
        for path in staged.paths.values():
            boxes = staged.boxes_of(path)
            if count:
                counted.parts.update(boxes.part)
                counted.sources.update(boxes.source)
                counted.tracks += len(set(boxes.track.tolist()))
            yield boxes

    try:
        if _is_given(out / BOXES, options):
            collections.deque(each(count=True), maxlen=0)
        else:
            write_boxes(out / ("new." + BOXES), each(count=True))
            _put(out / ("new." + BOXES), out / BOXES)
        if not _is_given(out / COCO, options):
            if options.coco:
                write_coco(out / ("new." + COCO), each())
                _put(out / ("new." + COCO), out / COCO)
            else:
                (out / COCO).unlink(missing_ok=True)  # of other boxes
    except OSError as error:
        raise PreprocessError(f"the boxes cannot be written to {out} ({error}); start again after that") from error
    return counted


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
