"""What one stored example contains: the only contract between preprocessing and training.

A record is one stretch of one video. Its frames are stored once, however many segments, windows or questions
look at them:

    frames    JPEG images, each with its time
    boxes     what was found in each frame: a rectangle, a label, a score, a track
    segments  pieces of 4.6667 s: one frame, one mel spectrogram, one line of subtitles each
    windows   runs of consecutive segments, which may overlap; a window is what the model sees at once
    questions multiple-choice questions, each about one window
    similarity of every place in each frame to the anchors, by CLIP, in records that were made with `--clip`

Everything nested is stored flat, with indices, because TFDS cannot hold ragged sequences of sequences. On disk a
record is a TFDS example in an ArrayRecord file.
"""

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from mmdiff.errors import UserError

SECONDS_PER_SEGMENT = 14 / 3  # 180 mel windows of audio resampled to 22,620 Hz
SUBSEGMENTS = 3  # audio spans of one segment
MEL_FRAMES, MEL_BINS = 60, 64  # of one audio span; the model's 65th bin is the playback speed
SIMILARITY_GRID = (18, 32)  # places of a frame, as shares of its height and width: the model's patches of a 16:9 frame
PARTS = ("body", "face", "object")  # a person's body, a person's face, anything else
# Found by a detector, computed from another box, interpolated between frames, drawn by a person, read from a file.
SOURCES = ("detected", "derived", "filled", "annotated", "imported")
BUILDER_NAME = "video_folder"
DIGESTED = 2**20  # bytes of either end of a file that name its content


class RecordError(UserError):
    """A record, or a folder of records, is not what this module says it must be."""


@dataclasses.dataclass
class Boxes:
    """`n` boxes over all frames of a record."""

    frame: Int32[np.ndarray, " n"]  # index into the record's frames
    box: Float32[np.ndarray, "n 4"]  # y0, x0, y1, x1 as shares of the frame's height and width, within 0..1
    label: list[str]  # what the detector says it is: "person", or a name
    part: list[str]  # one of PARTS
    score: Float32[np.ndarray, " n"]  # the detector's confidence, 0..1
    track: Int32[np.ndarray, " n"]  # the same number in several frames: the same individual
    source: list[str]  # one of SOURCES


@dataclasses.dataclass
class Segments:
    """`s` segments, in order of time within each window."""

    start: Float32[np.ndarray, " s"]  # seconds from the start of the video
    end: Float32[np.ndarray, " s"]
    frame: Int32[np.ndarray, " s"]  # the frame nearest to the middle of the segment
    has_audio: np.ndarray  # bool [s]
    mel: UInt8[np.ndarray, "s 3 60 64"]  # log-mel spectrograms times `Record.mel_scale`
    subtitle: list[str]  # the text whose middle falls into the segment, "" for none


@dataclasses.dataclass
class Question:
    """One multiple-choice question about one window."""

    id: str
    text: str
    answers: list[str]
    label: int  # index of the right answer, -1 where it is not known
    start: float  # the stretch of video it asks about, in seconds
    end: float
    window: int


@dataclasses.dataclass
class Record:
    """One stretch of one video; see the module's docstring."""

    id: str
    video: str  # the file's path inside the folder it came from
    frames: list[bytes] = dataclasses.field(repr=False)  # JPEG
    frame_times: Float32[np.ndarray, " f"]  # seconds
    boxes: Boxes
    segments: Segments
    mel_scale: float  # the original's `magic_number`
    windows: Int32[np.ndarray, "w 2"]  # first segment and number of segments
    questions: list[Question] = dataclasses.field(default_factory=list)
    # Cosine of each place with the nearest anchor text, -1..1; None where no CLIP model was asked.
    similarity: Float32[np.ndarray, "f 18 32"] | None = None


def empty_boxes() -> Boxes:
    """No boxes at all: a record of a video in which nobody was found."""
    return Boxes(
        np.zeros(0, np.int32), np.zeros((0, 4), np.float32), [], [], np.zeros(0, np.float32), np.zeros(0, np.int32), []
    )


def windows_with_people(record: Record) -> Bool[np.ndarray, " w"]:
    """Whether a frame of each window holds the body or the face of a person."""
    people = np.isin(record.boxes.part, ("body", "face"))
    peopled = np.isin(record.segments.frame, record.boxes.frame[people])
    return np.array([peopled[first : first + count].any() for first, count in record.windows], bool)


def validate(record: Record) -> None:
    """Raises RecordError, naming the record and the field, where an index, a length or a range is wrong."""

    def require(holds, message: str) -> None:
        if not np.all(holds):
            raise RecordError(f"record {record.id!r}: {message}")

    frames, boxes, segments = len(record.frames), record.boxes, record.segments
    count = len(segments.start)
    require(frames > 0 and count > 0 and len(record.windows) > 0, "needs a frame, a segment and a window")
    require(len(record.frame_times) == frames, f"{frames} frames but {len(record.frame_times)} times")
    for field in dataclasses.fields(boxes):
        require(len(getattr(boxes, field.name)) == len(boxes.frame), f"boxes.{field.name} has another length")
    for field in dataclasses.fields(segments):
        require(len(getattr(segments, field.name)) == count, f"segments.{field.name} has another length")
    require((0 <= boxes.frame) & (boxes.frame < frames), "a box points to a frame that is not there")
    require((0 <= boxes.box) & (boxes.box <= 1), "a box leaves its frame")
    require(boxes.box[:, :2] < boxes.box[:, 2:], "a box has no area")
    require([part in PARTS for part in boxes.part], f"a box's part is none of {PARTS}")
    require([source in SOURCES for source in boxes.source], f"a box's source is none of {SOURCES}")
    require((0 <= segments.frame) & (segments.frame < frames), "a segment points to a frame that is not there")
    require(segments.start < segments.end, "a segment has no length")
    require(segments.mel.shape[1:] == (SUBSEGMENTS, MEL_FRAMES, MEL_BINS), f"mel is {segments.mel.shape}")
    first, length = record.windows[:, 0], record.windows[:, 1]
    require((0 <= first) & (0 < length) & (first + length <= count), "a window leaves the segments")
    if record.similarity is not None:
        shape = (frames, *SIMILARITY_GRID)
        require(record.similarity.shape == shape, f"similarity is {record.similarity.shape} and must be {shape}")
        require(np.abs(record.similarity) <= 1, "a similarity is no cosine, from -1 to 1")
    for question in record.questions:
        require(len(question.answers) >= 2, f"question {question.id!r} has fewer than two answers")
        require(-1 <= question.label < len(question.answers), f"question {question.id!r}: label out of range")
        require(0 <= question.window < len(record.windows), f"question {question.id!r}: no such window")


def features():
    """The TFDS features of a record."""
    from tensorflow_datasets.core import features as f

    return f.FeaturesDict(
        {
            "id": f.Text(),
            "video": f.Text(),
            "frames": f.Sequence(f.Image(shape=(None, None, 3), encoding_format="jpeg")),
            "frame_times": f.Sequence(np.float32),
            "boxes": f.Sequence(
                {
                    "frame": np.int32,
                    "box": f.Tensor(shape=(4,), dtype=np.float32),
                    "label": f.Text(),
                    "part": f.Text(),
                    "score": np.float32,
                    "track": np.int32,
                    "source": f.Text(),
                }
            ),
            "segments": f.Sequence(
                {
                    "start": np.float32,
                    "end": np.float32,
                    "frame": np.int32,
                    "has_audio": np.bool_,
                    "mel": f.Tensor(shape=(SUBSEGMENTS, MEL_FRAMES, MEL_BINS), dtype=np.uint8),
                    "subtitle": f.Text(),
                }
            ),
            "mel_scale": np.float32,
            "windows": f.Sequence({"first": np.int32, "count": np.int32}),
            "questions": f.Sequence(
                {
                    "id": f.Text(),
                    "text": f.Text(),
                    "answers": np.int32,  # how many of the flat list below are this question's
                    "label": np.int32,
                    "start": np.float32,
                    "end": np.float32,
                    "window": np.int32,
                }
            ),
            "answers": f.Sequence(f.Text()),
            "similarity": f.Tensor(shape=(None, *SIMILARITY_GRID), dtype=np.float32),  # of no frame: there is none
        }
    )


def encode(record: Record) -> dict:
    """A record as the dictionary that a TFDS builder yields. Raises RecordError if it is not valid."""
    validate(record)
    questions = [
        {
            "id": q.id,
            "text": q.text,
            "answers": len(q.answers),
            "label": q.label,
            "start": q.start,
            "end": q.end,
            "window": q.window,
        }
        for q in record.questions
    ]
    return {
        "id": record.id,
        "video": record.video,
        "frames": [io.BytesIO(frame) for frame in record.frames],
        "frame_times": record.frame_times,
        "boxes": _columns(record.boxes),
        "segments": _columns(record.segments),
        "mel_scale": record.mel_scale,
        "windows": {"first": record.windows[:, 0], "count": record.windows[:, 1]},
        "questions": questions,
        "answers": [answer for question in record.questions for answer in question.answers],
        "similarity": np.zeros((0, *SIMILARITY_GRID), np.float32) if record.similarity is None else record.similarity,
    }


def decode(example: dict) -> Record:
    """The record of an example that a TFDS data source returned (its frames not decoded)."""

    def text(values) -> list[str]:
        return [value.decode() for value in values]

    def column(values, dtype, shape=()) -> np.ndarray:
        return np.asarray(values, dtype).reshape(len(values), *shape)

    boxes, segments, windows = example["boxes"], example["segments"], example["windows"]
    questions = example["questions"]
    answers = text(example["answers"])
    similarity = example.get("similarity", ())  # Older records have no such field.
    ends = np.cumsum(column(questions["answers"], np.int64))
    return Record(
        id=example["id"].decode(),
        video=example["video"].decode(),
        frames=[bytes(frame) for frame in example["frames"]],
        frame_times=column(example["frame_times"], np.float32),
        boxes=Boxes(
            frame=column(boxes["frame"], np.int32),
            box=column(boxes["box"], np.float32, (4,)),
            label=text(boxes["label"]),
            part=text(boxes["part"]),
            score=column(boxes["score"], np.float32),
            track=column(boxes["track"], np.int32),
            source=text(boxes["source"]),
        ),
        segments=Segments(
            start=column(segments["start"], np.float32),
            end=column(segments["end"], np.float32),
            frame=column(segments["frame"], np.int32),
            has_audio=column(segments["has_audio"], bool),
            mel=column(segments["mel"], np.uint8, (SUBSEGMENTS, MEL_FRAMES, MEL_BINS)),
            subtitle=text(segments["subtitle"]),
        ),
        mel_scale=float(example["mel_scale"]),
        windows=np.stack([column(windows["first"], np.int32), column(windows["count"], np.int32)], axis=-1),
        questions=[
            Question(
                id=questions["id"][i].decode(),
                text=questions["text"][i].decode(),
                answers=answers[ends[i] - questions["answers"][i] : ends[i]],
                label=int(questions["label"][i]),
                start=float(questions["start"][i]),
                end=float(questions["end"][i]),
                window=int(questions["window"][i]),
            )
            for i in range(len(ends))
        ],
        similarity=np.asarray(similarity, np.float32) if len(similarity) else None,
    )


def find_dataset(folder: str | Path) -> Path:
    """The TFDS directory (the one with `dataset_info.json`) in or below the folder given to `mmdiff preprocess`.

    Raises RecordError where there is none, or more than one.
    """
    folder = Path(folder)
    found = [folder] if (folder / "dataset_info.json").exists() else []
    found = found or sorted(path.parent for path in folder.glob("*/*/dataset_info.json"))
    if len(found) != 1:
        what = f"{len(found)} datasets" if found else "no records"
        raise RecordError(
            f"{folder} holds {what}; give the output folder of one `mmdiff preprocess` (or of one version)"
        )
    return found[0]


def digest(folder: str | Path) -> str:
    """A name for the content of a dataset, the same wherever it is copied to.

    It is made of the ends of its files, among which metadata.json holds a digest of all that preprocessing wrote.
    """
    found = hashlib.sha256()
    for path in sorted(find_dataset(folder).iterdir()):
        size = path.stat().st_size
        found.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            found.update(file.read(DIGESTED))
            file.seek(max(0, size - DIGESTED))
            found.update(file.read(DIGESTED))
    return found.hexdigest()[:16]


def splits(folder: str | Path) -> list[str]:
    """The names of the splits that hold a record. Raises RecordError where there are no records."""
    return _splits(_builder(folder))


def metadata(folder: str | Path) -> dict:
    """What the builder says about its records: `dataset` (tvqa, video_folder, ...), and what its reader added.

    `protocol` is how questions were made where there is a choice (a2, a4); `coverage` holds, for each split, how many
    questions its annotations have (`annotated`) and how many of them the records hold (`kept`).

    `labels` counts the stored boxes of each label by part, {"person": {"face": 12}}, and is None where the records are
    older than that and nobody counted. `similarity` is None, or the `model` and the `anchors` of `--clip`.

    Raises RecordError where there are no records.
    """
    builder = _builder(folder)
    unsaid = {"dataset": builder.name, "protocol": None, "coverage": {}, "labels": None, "similarity": None}
    return unsaid | dict(builder.info.metadata or {})


def count_labels(counts: dict[str, dict[str, int]], boxes: Boxes) -> None:
    """Adds the boxes of one more record to the `labels` of a dataset's metadata."""
    for label, part in zip(boxes.label, boxes.part, strict=True):
        parts = counts.setdefault(label, {})
        parts[part] = parts.get(part, 0) + 1


def read_split(folder: str | Path, split: str):
    """A random-access source of undecoded examples (map `decode` over it): frames stay JPEG bytes.

    Raises RecordError where the folder or the split is not there.
    """
    import tensorflow_datasets as tfds

    class Undecoded(tfds.decode.SkipDecoding):
        def decode_example_np(self, example):
            return example

        def decode_batch_example_np(self, examples):
            return examples

    builder = _builder(folder)
    known = _splits(builder)
    if split not in known:
        raise RecordError(f"{folder} has no split {split!r}; it has {', '.join(known)}")
    return builder.as_data_source(split, decoders={"frames": Undecoded()})


def _builder(folder: str | Path):
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(find_dataset(folder))


def _splits(builder) -> list[str]:
    return sorted(name for name, split in builder.info.splits.items() if split.num_examples)


def _columns(values) -> dict:
    return {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
