"""The boxes of every clip in, one Parquet table of them out, which pandas and DuckDB open."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from mmdiff.data.records import Boxes
from mmdiff.whole_files import whole
from preprocessing.detect_people import LabelledBox

ROWS = 2**17  # of a row group, at least: groups hold whole clips, so that a reader can pass over those it does not want
# Columns as the table has them. Pixels are those of the video as players show it: upright, `width` x `height`.
COLUMNS = {
    "video": "string",
    "frame": "int32",  # index of the sampled picture, from 0
    "time": "float64",  # seconds
    "track": "int32",  # the same number in several pictures of a video: the same individual
    "label": "string",
    "part": "string",  # records.PARTS
    "score": "float32",
    "x0": "float32",
    "y0": "float32",
    "x1": "float32",
    "y1": "float32",
    "width": "int32",
    "height": "int32",
    "source": "string",  # records.SOURCES
}
NUMBERS = {"frame": np.dtype("<i4"), "track": np.dtype("<i4"), "score": np.dtype("<f4"), "box": np.dtype("<f4")}
TEXTS = ("label", "part", "source")


@dataclasses.dataclass
class ClipBoxes:
    """`n` boxes over all sampled pictures of one clip, in order of the pictures."""

    video: str
    fps: float  # sampled pictures a second
    pictures: int  # how many were sampled
    width: int  # pixels of the video as players show it: upright, square pixels, full resolution
    height: int
    frame: Int32[np.ndarray, " n"]  # index of the sampled picture, never falling; its time is frame / fps
    track: Int32[np.ndarray, " n"]
    label: list[str]
    part: list[str]  # one of records.PARTS
    score: Float32[np.ndarray, " n"]  # 0..1
    box: Float32[np.ndarray, "n 4"]  # x0 y0 x1 y1 in pixels of width x height
    source: list[str]  # one of records.SOURCES

    @classmethod
    def of(
        cls,
        video: str,
        fps: float,
        width: int,
        height: int,
        boxes: list[list[LabelledBox]],
        tracks: list[list[int]],
        scale_x: float = 1.0,
        scale_y: float = 1.0,
    ) -> "ClipBoxes":
        """Those of every sampled picture, in pixels of a picture that is `scale` times smaller than the video."""
        found = [box for picture in boxes for box in picture]
        edges = np.array([(box.x0, box.y0, box.x1, box.y1) for box in found], np.float64).reshape(-1, 4)
        edges = np.clip(edges * [scale_x, scale_y, scale_x, scale_y], 0, [width, height, width, height])
        return cls(
            video=video,
            fps=float(fps),
            pictures=len(boxes),
            width=int(width),
            height=int(height),
            frame=np.repeat(np.arange(len(boxes), dtype=np.int32), [len(picture) for picture in boxes]),
            track=np.array([number for picture in tracks for number in picture], np.int32),
            label=[box.label for box in found],
            part=[box.part for box in found],
            score=np.array([box.score for box in found], np.float32),
            box=edges.astype(np.float32),
            source=[box.source for box in found],
        )

    def at(self, indices: Sequence[int]) -> Boxes:
        """The boxes of some sampled pictures as records hold them: `frame` is the place in `indices`, edges are shares."""
        indices = np.asarray(indices, np.int64)
        first, last = np.searchsorted(self.frame, indices, "left"), np.searchsorted(self.frame, indices, "right")
        rows = [row for start, stop in zip(first, last, strict=True) for row in range(start, stop)]
        shares = self.box[rows] / np.array([self.width, self.height] * 2, np.float32)
        return Boxes(
            frame=np.repeat(np.arange(len(indices), dtype=np.int32), last - first),
            box=np.clip(shares[:, [1, 0, 3, 2]], 0, 1),
            label=[self.label[row] for row in rows],
            part=[self.part[row] for row in rows],
            score=self.score[rows],
            track=self.track[rows],
            source=[self.source[row] for row in rows],
        )

    def to_dict(self) -> dict:
        """Numbers, texts and bytes only, for msgpack. A text that many boxes share is kept once."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, dtype in NUMBERS.items():
            values[name] = values[name].astype(dtype).tobytes()
        for name in TEXTS:
            known = {text: code for code, text in enumerate(dict.fromkeys(values[name]))}
            values[name] = [list(known), np.array([known[text] for text in values[name]], "<i4").tobytes()]
        return values

    @classmethod
    def from_dict(cls, values: dict) -> "ClipBoxes":
        """What `to_dict` gave."""
        numbers = {name: np.frombuffer(values[name], dtype) for name, dtype in NUMBERS.items()}
        texts = {name: [values[name][0][code] for code in np.frombuffer(values[name][1], "<i4")] for name in TEXTS}
        return cls(**values | numbers | texts | {"box": numbers["box"].reshape(-1, 4)})


def write_boxes(path: str | Path, clips: Iterable[ClipBoxes]) -> None:
    """Writes the table, with the clips in the order given; the same clips give the same bytes.

    Memory holds the boxes of one row group. The file appears whole or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(name, pa.type_for_alias(kind), nullable=False) for name, kind in COLUMNS.items()])
    with whole(Path(path)) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for group in _groups(clips):
            columns = [_column(group, name) for name in COLUMNS]
            writer.write_table(
                pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema),
                row_group_size=len(columns[0]),
            )


def _groups(clips: Iterable[ClipBoxes]) -> Iterator[list[ClipBoxes]]:
    group, rows = [], 0
    for clip in clips:
        group.append(clip)
        rows += len(clip.frame)
        if rows >= ROWS:
            yield group
            group, rows = [], 0
    if rows:
        yield group


def _column(clips: list[ClipBoxes], name: str):
    """One column of the table, over the boxes of some clips."""
    if name in TEXTS:
        return [text for clip in clips for text in getattr(clip, name)]
    if name in ("video", "width", "height"):
        return [getattr(clip, name) for clip in clips for _ in range(len(clip.frame))]
    if name == "time":
        return np.concatenate([clip.frame / clip.fps for clip in clips])
    if name in NUMBERS:
        return np.concatenate([getattr(clip, name) for clip in clips])
    return np.concatenate([clip.box[:, ("x0", "y0", "x1", "y1").index(name)] for clip in clips])
