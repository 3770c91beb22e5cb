"""MOT text in, rows out: what MOTChallenge's ground truth, UniTrack and most trackers write.

A line is `frame, id, x, y, width, height, confidence, ...`, with commas or blanks between, frames counted from 1, an id
of -1 where there is none, x and y of the upper left corner in pixels (https://arxiv.org/abs/1603.00831, table 5).
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from preprocessing.imports.rows import BODY, OBJECT, PERSON, Intake, Place, Row

LEAST = 6  # columns: without confidence every box is sure
CLASS = 7  # column of ground truth that has eight or nine of them; with ten these are places in the world
CLASSES = {  # MOT16's; None: an annotation of what is not to be seen, or is no thing
    -1: (PERSON, BODY), 1: (PERSON, BODY), 2: (PERSON, BODY), 7: (PERSON, BODY),
    3: ("car", OBJECT), 4: ("bicycle", OBJECT), 5: ("motorbike", OBJECT), 6: ("vehicle", OBJECT),
    8: None, 9: None, 10: None, 11: None, 12: None, 13: None,
}  # fmt: skip
NOT_SAID = -1.0  # confidence


@dataclasses.dataclass(frozen=True)
class MotFile:
    """One file, which has the boxes of one video."""

    path: Path
    video: str
    called: str  # in messages


def mot_files(path: Path) -> list[MotFile]:
    """The file, or those of a folder. Each is called as its video is, or gt.txt in the folder gt of one that is."""
    if not path.is_dir():
        return [MotFile(path, path.stem, path.name)]
    found = []
    for file in sorted(filter(Path.is_file, path.rglob("*.txt"))):
        within = file.relative_to(path)
        is_ground_truth = within.parts[-2:] == ("gt", "gt.txt") and len(within.parts) > 2
        video = within.parents[1] if is_ground_truth else within.with_suffix("")
        found.append(MotFile(file, video.as_posix(), within.as_posix()))
    return found


def mot_rows(file: MotFile, rate: float | None, intake: Intake) -> Iterator[tuple[Place, Row]]:
    """Every row with its line; lines that are none go to `intake`."""
    with file.path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            place = Place(file.called, f"line {number}")
            fields = line.rstrip(", \r\n").split(",") if "," in line else line.split()
            if not line.strip() or line.startswith("#") or (number == 1 and fields[0].strip().casefold() == "frame"):
                continue
            try:
                values = [float(field) for field in fields[: CLASS + 1] if field.strip()]
            except ValueError:
                values = []
            if len(values) < min(len(fields), CLASS + 1) or len(values) < LEAST:
                intake.refuse(place, "it is not frame,id,x,y,width,height,confidence", repr(line[:60].rstrip()))
                continue
            frame, track, x, y, width, height, *more = values
            if frame < 1:
                intake.refuse(place, "frames count from 1", f"{frame:g}")
                continue
            confidence = more[0] if more else NOT_SAID
            thing = CLASSES.get(more[1], (f"class {more[1]:g}", OBJECT)) if _has_class(fields) else (PERSON, BODY)
            if confidence == 0 or thing is None:  # Ground truth says so of what is not to be counted.
                continue
            # Public detections have scores without an upper end.
            score = None if confidence == NOT_SAID else min(confidence, 1.0)
            edges = x, y, x + width, y + height
            yield place, Row(file.video, None, frame - 1, rate, *edges, None, None, *thing, score, track=track)


def _has_class(fields: list[str]) -> bool:
    return len(fields) in (CLASS + 1, CLASS + 2)
