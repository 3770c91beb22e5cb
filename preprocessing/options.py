"""What can be chosen about preprocessing, and which of it decides what is stored."""

import dataclasses
import os
from pathlib import Path

from preprocessing.plan_windows import WINDOWS
from preprocessing.problems import PreprocessError

# Change how a run goes, or what is read or scored afresh, but no detection.
IRRELEVANT = ("workers", "questions", "clip", "clip_anchors")
IN_STAGED = ("fps", "detector", "windows", "segments_per_window", "jpeg_quality")  # decide what one clip gives

VIDEO_EXTENSIONS = (
    ".3gp",
    ".avi",
    ".flv",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)


@dataclasses.dataclass
class Options:
    """The choices of `mmdiff preprocess`."""

    dataset: str = "video_folder"  # a name of datasets.DATASETS
    protocol: str = ""  # how questions are made, where the dataset has a choice; "": its first
    fps: float = 3.0  # frames looked at each second, as in TVQA; folders of images have three
    detector: str = ""  # a name of detect_people.DETECTORS, or package.module:Class; "": the dataset's own choice
    windows: str = ""  # a name of plan_windows.WINDOWS; "": the dataset's own choice
    segments_per_window: int = 7  # what the model sees at once
    validation_share: float = 0.25  # of the videos, in a dataset without splits of its own
    jpeg_quality: int = 95
    workers: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)  # 0: in this process
    questions: Path | None = None  # None: `questions.jsonl` beside the videos, else a finished dataset keeps its own
    clip: str = ""  # a CLIP model, by its folder or hub id, that scores every stored frame; "": none does
    clip_anchors: tuple[str, ...] = ("person",)  # what it scores places by, the paper's anchor for video
    extensions: tuple[str, ...] = VIDEO_EXTENSIONS

    def __post_init__(self):
        self.clip_anchors = tuple(dict.fromkeys(anchor.strip() for anchor in self.clip_anchors))
        self.extensions = tuple("." + extension.lower().lstrip(".") for extension in self.extensions)

    def check(self) -> None:
        """Raises PreprocessError where a value cannot be."""
        for name, holds, wanted in (
            ("fps", 0 < self.fps <= 1000, "more than 0 frames a second"),
            ("segments_per_window", self.segments_per_window >= 1, "at least 1"),
            ("validation_share", 0 <= self.validation_share < 1, "from 0 to below 1"),
            ("jpeg_quality", 1 <= self.jpeg_quality <= 100, "from 1 to 100"),
            ("workers", self.workers >= 0, "0 or more processes"),
            ("clip_anchors", self.clip_anchors and all(self.clip_anchors), "one word or more, none of them empty"),
        ):
            if not holds:
                raise PreprocessError(f"option {name} is {getattr(self, name)}; it must be {wanted}")
        if self.windows and self.windows not in WINDOWS:
            raise PreprocessError(f"windows {self.windows!r} are unknown; known: {', '.join(WINDOWS)}")

    def of_dataset(self) -> dict:
        """The choices that decide what the dataset holds, as JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if name not in IRRELEVANT}

    def of_staged(self) -> dict:
        """The choices that decide what one clip gives."""
        return {name: getattr(self, name) for name in IN_STAGED}
