"""What can be chosen about preprocessing, and which of it decides what is stored."""

import dataclasses
import os
from pathlib import Path

from preprocessing.plan_windows import WINDOWS
from preprocessing.problems import PreprocessError

# Decide what one clip gives; another value of any of them is never mixed with what is there.
IN_STAGED = (
    "fps",
    "detector",
    "weights",
    "threshold",
    "nms",
    "smallest_face",
    "batch",
    "device",
    "tracker",
    "longest_gap",
    "windows",
    "segments_per_window",
    "jpeg_quality",
)
# Change how a run goes, or what is read or scored afresh, but no detection.
IRRELEVANT = (
    "workers",
    "retries",
    "patience",
    "beam",
    "stage",
    "coco",
    "boxes",
    "import_fps",
    "questions",
    "clip",
    "clip_anchors",
)
MANIFEST = "preprocess.json"  # in the folder of a run: these choices, and what else it was made from
IMPORT = "import:"  # begins the name of a detector that is a file of boxes
TRANSFORMERS = "transformers:"  # begins that of a model of transformers: its folder or its id in the hub follows
STAGES = ("all", "detect", "build")
TRACKERS = BYTETRACK, NONE = ("bytetrack", "none")

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


def usable_cores() -> int:
    """Those that this process may use, which in a container or a share of a cluster may not be all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass
class Options:
    """The choices of `mmdiff preprocess`."""

    dataset: str = "video_folder"  # a name of datasets.DATASETS
    protocol: str = ""  # how questions are made, where the dataset has a choice; "": its first
    fps: float = 3.0  # frames looked at each second, as in TVQA; folders of images have three
    detector: str = ""  # see detect_people.DETECTORS; "": the dataset's own choice
    weights: str = ""  # digest of the files that the detector loads; found when a run begins, not chosen
    threshold: float | None = None  # score from which a box is sure; None: the detector's own
    nms: float = 0.6  # of two boxes of one label that overlap more (intersection over union) the less sure one goes
    smallest_face: int = 20  # pixels, of the pictures as they are stored; what takes most of MTCNN's time
    batch: int = 16  # pictures handed to the detector at once
    device: str = "cpu"  # where the detector runs, in torch's words
    tracker: str = BYTETRACK  # a name of TRACKERS
    longest_gap: float = 1.0  # seconds for which a person may be hidden and still be the same track
    boxes: Path | None = None  # a file of boxes to build from instead of those that were found
    import_fps: float | None = None  # pictures a second that an imported file counts; None: as its format has it
    windows: str = ""  # a name of plan_windows.WINDOWS; "": the dataset's own choice
    segments_per_window: int = 7  # what the model sees at once
    validation_share: float = 0.25  # of the videos, in a dataset without splits of its own
    jpeg_quality: int = 95
    workers: int = dataclasses.field(default_factory=usable_cores)  # 0: in this process
    stage: str = STAGES[0]  # "detect": boxes but no records; "build": records of what was detected before
    coco: bool = False  # write the boxes as COCO json too
    beam: tuple[str, ...] = ()  # options of an Apache Beam pipeline, which then takes the place of `workers`
    retries: int = 2  # how often a video whose reading failed is tried again
    patience: float = 600.0  # seconds without one more picture after which a video is given up
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
            ("fps", 0 < self.fps <= 1000, "more than 0 and at most 1000 frames a second"),
            ("segments_per_window", self.segments_per_window >= 1, "at least 1"),
            ("validation_share", 0 <= self.validation_share < 1, "from 0 to below 1"),
            ("jpeg_quality", 1 <= self.jpeg_quality <= 100, "from 1 to 100"),
            ("workers", self.workers >= 0, "0 or more processes"),
            ("threshold", self.threshold is None or 0 <= self.threshold <= 1, "from 0 to 1"),
            ("nms", 0 < self.nms <= 1, "more than 0, up to 1, which keeps all"),
            ("smallest_face", self.smallest_face >= 1, "at least 1 pixel"),
            ("batch", self.batch >= 1, "at least 1 picture"),
            ("longest_gap", 0 <= self.longest_gap <= 60, "from 0 to 60 seconds"),
            (
                "import_fps",
                self.import_fps is None or 0 < self.import_fps <= 1000,
                "more than 0 and at most 1000 pictures a second",
            ),
            ("retries", self.retries >= 0, "0 or more"),
            ("patience", self.patience > 0, "more than 0 seconds"),
            ("clip_anchors", self.clip_anchors and all(self.clip_anchors), "one word or more, none of them empty"),
        ):
            if not holds:
                raise PreprocessError(f"option {name} is {getattr(self, name)}; it must be {wanted}")
        for name, known in (("windows", WINDOWS), ("stage", STAGES), ("tracker", TRACKERS)):
            value = getattr(self, name)
            if value not in known and (value or name != "windows"):  # "": the dataset's own
                raise PreprocessError(f"{name} {value!r}: there is none of that name; known: {', '.join(known)}")

    @property
    def imported(self) -> Path | None:
        """The file whose boxes are to be used; None where they are those that were found."""
        if self.boxes:
            return self.boxes
        return Path(self.detector.removeprefix(IMPORT)) if self.detector.startswith(IMPORT) else None

    def of_dataset(self) -> dict:
        """The choices that decide what the dataset holds, as JSON; files are told by what they hold, elsewhere."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"detector": _kind(self.detector), "device": self.device.partition(":")[0]}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if name not in IRRELEVANT}

    def of_staged(self) -> dict:
        """The choices that decide what one clip gives."""
        values = self.of_dataset()
        return {name: values[name] for name in IN_STAGED}


def _kind(detector: str) -> str:
    """What looked at the pictures: nothing, where boxes are imported from whatever file."""
    if detector.startswith(TRANSFORMERS):  # wherever it lies: `weights` says which it is
        return TRANSFORMERS + Path(detector).name
    return IMPORT if detector.startswith(IMPORT) else detector
