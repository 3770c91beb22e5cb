"""A file of boxes made elsewhere in, for any clip the boxes of its sampled pictures out, in memory that does not grow."""

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from preprocessing.clip import IMAGES_PER_SECOND
from preprocessing.detect_people import LabelledBox
from preprocessing.imports.coco import coco_rows, open_json
from preprocessing.imports.mot import mot_files, mot_rows
from preprocessing.imports.on_pictures import UNKNOWN, DrawnClip, ImportedClip, Placed, Sampled
from preprocessing.imports.rows import Intake, Place, Row, refusal
from preprocessing.imports.table import table_rows
from preprocessing.imports.tvqa_plus import read_tvqa_plus
from preprocessing.problems import PreprocessError, Problem

__all__ = ["ImportedBoxes", "Placed", "Sampled", "open_boxes"]

PARQUET = b"PAR1"  # the first bytes of such a file
KNOWN = "MOT text (frame,id,x,y,width,height,confidence), COCO json, TVQA+ json or a table like boxes.parquet"
SCHEMA = """
create table boxes (
    video integer, seconds real, number real, rate real, x0 real, y0 real, x1 real, y1 real, width real, height real,
    score real, track integer, kind integer
);
"""
COLUMNS = "seconds, number, rate, x0, y0, x1, y1, width, height, score, track, kind"


class ImportedBoxes:
    """The boxes of a file by video. Made by `open_boxes`."""

    def __init__(
        self,
        videos: Iterable[str],
        clip: Callable[[str | None], ImportedClip | DrawnClip],
        problems: list[Problem],
        complete: bool,
    ):
        self.videos = frozenset(videos)  # as the file calls them
        self.problems = problems  # what is wrong with its rows, for the report
        # Whether gaps are meant, as where we wrote the boxes and somebody took some out: filled, they would come back.
        self.complete = complete
        self._clip = clip
        self._called: dict[str, list[str]] = {}  # by the last part of the name, with its suffix and without
        for name in sorted(self.videos):
            for called in _called(name):
                self._called.setdefault(called, []).append(name)

    def boxes_of(self, sampled: Sampled) -> tuple[list[list[LabelledBox]], list[list[int]] | None]:
        """For every sampled picture its boxes, in its pixels, and their tracks, from 0 in order of first appearance.

        There are none where the file has no such video. The tracks are None where the file has none for it.
        """
        placed = self.clip(sampled.video).on(sampled)
        return placed.boxes, placed.tracks

    def clip(self, video: str) -> ImportedClip | DrawnClip:
        """All that the file has about a video: small, for a worker, which asks it for `.on(sampled)`."""
        return self._clip(self.name_of(video))

    def name_of(self, video: str) -> str | None:
        """What the file calls a video of the dataset; None where it has no such video.

        Either may lack the suffix, and either may lack folders: x is a/x.mp4, and val/x is x. Of several names the one
        that lacks the fewest folders is taken, and where that is not one but two, neither.
        """
        if video in self.videos:
            return video
        by_lack: dict[int, set[str]] = {}
        for name in {name for called in _called(video) for name in self._called.get(called, ()) if _fits(name, video)}:
            by_lack.setdefault(abs(name.count("/") - video.count("/")), set()).add(name)
        nearest = by_lack[min(by_lack)] if by_lack else ()
        return next(iter(nearest)) if len(nearest) == 1 else None

    def unknown(self, videos: Iterable[str]) -> list[str]:
        """The videos of the file that are none of these, in order."""
        return sorted(self.videos - {self.name_of(video) for video in videos})

    def shared(self, videos: Iterable[str]) -> dict[str, list[str]]:
        """The videos of the file that stand for several of these, which all get their boxes: a/x.mp4 and b/x.mp4."""
        found = {}
        for video in sorted(videos):
            found.setdefault(self.name_of(video), []).append(video)
        return {name: several for name, several in found.items() if name is not None and len(several) > 1}


def open_boxes(path: str | Path, rate: float | None = None) -> ImportedBoxes:
    """Reads a file of boxes, or a folder of MOT files, once, into a temporary file that is gone with what is returned.

    Args:
      path: MOT text (of the video that is called as the file is; a folder holds NAME.txt or NAME/gt/gt.txt for each),
        COCO json, TVQA+ json, or a table with the columns of boxes.parquet.
      rate: pictures a second that its numbers of frames count; None: those of the video in MOT text and where COCO has
        `frame_index`, 3 in TVQA+ and in names of images, the sampled ones in a table without `time`.

    Raises PreprocessError where there is no such file, or where it is none of these.
    """
    path = Path(path)
    if not path.exists():
        raise PreprocessError(f"there is no file of boxes {path}; correct its path")
    if rate is not None and not 0 < rate < math.inf:
        raise PreprocessError(f"{rate:g} pictures a second is no rate for imported boxes; give one above 0")
    try:
        return _open(path, rate)
    except OSError as error:
        raise PreprocessError(
            f"{path} cannot be read ({error.strerror or error}); check the file and its rights"
        ) from None
    except sqlite3.Error as error:
        raise PreprocessError(
            f"the boxes of {path} cannot be kept in a temporary file ({error}); make room, or set TMPDIR to a larger disk"
        ) from None


def _open(path: Path, rate: float | None) -> ImportedBoxes:
    if path.is_dir():
        return _open_mot(path, rate)
    with open_json(path) as file:
        begin = file.read(4096).lstrip()
    intake = Intake()
    if begin.startswith(PARQUET):
        intake.complete = True
        return _keep(path, table_rows(path, rate), intake, counted_by="fps")
    if begin.startswith(b"{"):
        return _keep(path, coco_rows(path, rate, intake), intake)
    if begin.startswith(b"["):
        annotations, clips, problems = read_tvqa_plus(path)
        counted = rate or float(IMAGES_PER_SECOND)

        def drawn(name: str | None) -> DrawnClip:
            return DrawnClip(annotations.boxes(name) if name else {}, counted)

        return ImportedBoxes(clips, drawn, problems, complete=True)  # what is between two drawings is seen to
    return _open_mot(path, rate)


def _open_mot(path: Path, rate: float | None) -> ImportedBoxes:
    files = mot_files(path)
    if not files:
        raise PreprocessError(f"{path} holds no NAME.txt of boxes; give a folder with one for each video, or a file")
    intake = Intake()
    intake.videos.update(file.video for file in files)
    return _keep(path, (row for file in files for row in mot_rows(file, rate, intake)), intake)


def _keep(
    path: Path, rows: Iterable[tuple[Place, Row]], intake: Intake, counted_by: str = "native_fps"
) -> ImportedBoxes:
    """Puts the rows that can be used into a database. Raises PreprocessError where there are rows, but none of these."""
    database = sqlite3.connect("", isolation_level=None)  # "": a private file, deleted when closed
    database.execute(SCHEMA)
    database.execute("begin")  # One transaction: nothing here outlives the process.
    videos: dict[str, int] = {}
    kinds: dict[tuple, int] = {}

    def kept() -> Iterator[tuple]:
        for place, row in rows:
            if wrong := refusal(row):
                intake.refuse(place, *wrong)
                continue
            video = videos.setdefault(row.video, len(videos))
            kind = kinds.setdefault((row.label, row.part, row.source), len(kinds))
            score = 1.0 if row.score is None else row.score
            track = UNKNOWN if row.track is None or row.track < 0 else int(row.track)
            yield video, row.seconds, row.number, row.rate, *row[4:10], score, track, kind

    database.executemany(f"insert into boxes values ({', '.join('?' * 13)})", kept())
    problems = intake.problems()
    if problems and not videos:
        raise PreprocessError(f"{path} holds no box that can be used: {problems[0].problem}; boxes may be {KNOWN}")
    database.execute("create index by_video on boxes (video)")
    known = list(kinds)

    def clip(name: str | None) -> ImportedClip:
        found = database.execute(f"select {COLUMNS} from boxes where video = ? order by rowid", (videos.get(name, -1),))
        return _clip(found.fetchall(), known, counted_by)

    return ImportedBoxes(intake.videos | set(videos), clip, problems, intake.complete)


def _clip(rows: list[tuple], kinds: list[tuple[str, str, str]], counted_by: str) -> ImportedClip:
    values = np.array(rows, np.float64).reshape(-1, 12)  # None becomes NaN
    label, part, source = (
        (list(texts) for texts in zip(*(kinds[row[-1]] for row in rows), strict=True)) if rows else ([], [], [])
    )
    return ImportedClip(
        seconds=values[:, 0],
        number=values[:, 1],
        rate=values[:, 2],
        box=values[:, 3:7],
        size=values[:, 7:9],
        label=label,
        part=part,
        score=values[:, 9],
        source=source,
        track=values[:, 10].astype(np.int64),
        counted_by=counted_by,
    )


def _called(name: str) -> set[str]:
    """The last part of a name, with its suffix and without."""
    last = PurePosixPath(name)
    return {last.name, last.stem}


def _fits(one: str, other: str) -> bool:
    """Whether two names may stand for one video: the same but for folders before them, and for a suffix of one of them."""
    a, b = PurePosixPath(one), PurePosixPath(other)
    folders = zip(reversed(a.parts[:-1]), reversed(b.parts[:-1]), strict=False)
    return (a.name == b.name or a.stem == b.name or a.name == b.stem) and all(x == y for x, y in folders)
