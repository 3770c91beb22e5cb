"""One clip of a dataset as it lies on disk: where its pictures, its sound and its words are, and what is asked."""

import dataclasses
import hashlib
import os
from pathlib import Path

from preprocessing.detect_people import LabelledBox
from preprocessing.subtitles import Cue

IMAGES_PER_SECOND = 3  # of a folder of numbered images: TVQA's frames and those of Social-IQ 2.0


@dataclasses.dataclass(frozen=True)
class Media:
    """What there is of one clip; None for what is not there."""

    pictures: Path | None  # a video file, or a folder of images 00001.jpg ... taken IMAGES_PER_SECOND
    audio: Path | None = None  # a file of its own; without one the sound of the video file is taken
    subtitles: Path | None = None  # .srt or .vtt; without one the text stream of the video file is taken
    cues: tuple[Cue, ...] | None = None  # what is said, where it comes in a file of all clips
    english: bool = False  # what is said is stored in ASCII


@dataclasses.dataclass(frozen=True)
class Clip:
    """What `process` needs to know of one clip."""

    name: str  # what the records call it
    media: Media
    # The stretches that questions ask about, in seconds; None for one that is not known. They decide the windows.
    spans: tuple[tuple[float, float] | None, ...] = ()
    # Boxes drawn by people: for numbers of pictures, counted from 0, what is in them. None: a detector looks.
    boxes: dict[int, list[LabelledBox]] | None = None

    def sources(self) -> list[list]:
        """What a stored result depends on: name, size and time of every file, and what came with the clip."""
        paths = [self.media.pictures, self.media.audio, self.media.subtitles]
        found = [_identity(path) for path in paths if path]
        if self.spans or self.boxes is not None or self.media.cues is not None:
            said = repr((sorted(set(self.spans), key=repr), sorted((self.boxes or {}).items()), self.media.cues))
            found.append(["annotations", hashlib.sha256(said.encode()).hexdigest()])
        return found


def _identity(path: Path) -> list:
    try:
        files = [entry.stat(follow_symlinks=False) for entry in os.scandir(path)] if path.is_dir() else [path.stat()]
    except OSError:
        return [path.name, 0, 0, 0]  # Why it cannot be read is told by who opens it.
    sizes, times = sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0)
    return [path.name, len(files), sizes, times]
